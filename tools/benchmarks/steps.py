# SPDX-License-Identifier: Apache-2.0
"""Times training steps on batches from the loader and on a batch in memory."""

import dataclasses
import time
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Final, NamedTuple

import torch
from torch import Tensor

from surgseg_ros.core.runtimes import choose_device
from surgseg_ros.training.config import TrainConfig
from surgseg_ros.training.data import Data
from surgseg_ros.training.networks import build_network, segmentation_loss
from surgseg_ros.training.train import trained_precision

_PREFETCHED: Final = 2
"""Batches that each worker of torch's loader prefetches."""

_AUTOCAST: Final = {'bfloat16': torch.bfloat16, 'float16': torch.float16}

Batch = tuple[Tensor, Tensor]


class Pair(NamedTuple):
    """
    Two consecutive measurements, in frames per second.

    :param loader: rate with batches from the loader.
    :param memory: rate with one batch in memory.
    """

    loader: float
    memory: float

    @property
    def ratio(self) -> float:
        """Speed with the loader relative to that without; 1 if the loader takes no time."""
        return self.loader / self.memory


def time_loader(config: TrainConfig, folder: Path, pairs: int, steps: int) -> list[Pair]:
    """
    Time steps on batches from the loader and on one batch in memory, alternating.

    :param config: the recipe, with its `workers`.
    :param folder: folder for resized frames.
    :param pairs: number of pairs.
    :param steps: number of steps of each measurement.
    :return: the pairs.
    """
    # Batches that are ready when a measurement starts must not be counted, and workers must not
    # prefetch during the other measurement.
    before = 1 + _PREFETCHED * config.workers
    needed = 1 + pairs * (before + steps)
    config = dataclasses.replace(
        config, cache=str(folder / 'frames'), steps=needed, validate_every=needed, epochs=0
    )
    data = Data(config, folder)
    data.prepare_data()
    data.setup('fit')
    step = Step(config)
    loader = iter(data.train_dataloader())
    kept: Batch = next(loader)
    in_memory = repeat((kept[0].to(step.device), kept[1].to(step.device)))
    step(kept)
    timings = []
    for turn in range(pairs):
        # Each of the two comes first equally often, in case the machine becomes slower.
        sources = (loader, in_memory) if turn % 2 else (in_memory, loader)
        rates = [frames_per_s(step, source, before, steps) for source in sources]
        timings.append(Pair(*(rates if turn % 2 else rates[::-1])))
    return timings


class Step:
    """
    One step of training.

    :param config: the recipe.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.device = torch.device(choose_device(config.device))
        self._config = config
        self._network = build_network(config, config.spec()).train()
        self._network.to(self.device, memory_format=torch.channels_last)
        self._optimizer = torch.optim.AdamW(self._network.parameters(), config.learning_rate)

    def __call__(self, batch: Batch) -> None:
        """
        Run the step.

        :param batch: (N, h, w, 3) uint8 images, (N, h, w) uint8 truths.
        """
        images, truth = (tensor.to(self.device, non_blocking=True) for tensor in batch)
        precision = _AUTOCAST.get(trained_precision(self._config.precision, self.device.type))
        with torch.autocast(self.device.type, precision, enabled=precision is not None):
            logits = self._network(images)
        loss = segmentation_loss(logits, truth, self._config.dice_weight)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()

    def wait(self) -> None:
        """Wait until the device has finished."""
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)


def frames_per_s(step: Step, batches: Iterator[Batch], before: int, steps: int) -> float:
    """
    Time steps in wall time, since workers are other processes.

    :param step: the step.
    :param batches: its inputs.
    :param before: steps before the measurement.
    :param steps: steps that are measured.
    :return: frames per second.
    """
    for _ in range(before):
        step(next(batches))
    step.wait()
    frames, start_s = 0, time.perf_counter()
    for _ in range(steps):
        batch = next(batches)
        step(batch)
        frames += len(batch[0])
    step.wait()
    return frames / (time.perf_counter() - start_s)
