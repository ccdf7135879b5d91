# SPDX-License-Identifier: Apache-2.0
"""The endless, seeded sequence of views of the frames, and each process's part of it."""

from collections.abc import Iterator
from typing import Final

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from surgseg_ros.core.labels import CLASS_COUNT
from surgseg_ros.training.augmentation import Augmentation
from surgseg_ros.training.fitted_frames import FittedFrames

_LEAST_PX: Final = 8
"""A class with fewer pixels in a frame is not shown by it."""


class CropDataset(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """
    An endless sequence of views; view n depends on the seed and n alone.

    Some views are drawn for a class, each class alike, however rare it is: first a frame that
    shows it, then a crop around it. The frames of the others come in passes, each a permutation
    of all.

    :param frames: what to look at.
    :param augmentation: how; its `focus` is the chance that a view is drawn for a class.
    :param crop_size: (height, width) of a view in pixels.
    :param seed: of the order and of the augmentation.
    """

    def __init__(
        self,
        frames: FittedFrames,
        augmentation: Augmentation,
        crop_size: tuple[int, int],
        seed: int,
    ) -> None:
        """Find the frames that show each class; see the class."""
        self._frames = frames
        self._augmentation = augmentation
        self._crop_size = crop_size
        self._seed = seed
        shown = [np.flatnonzero(px >= _LEAST_PX) for px in frames.class_px.T]
        self._showing = {n: shown[n] for n in range(1, CLASS_COUNT) if len(shown[n])}

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Draw a view.

        :param number: from 0, without end.
        :return: (*crop_size, 3) uint8 RGB and (*crop_size) uint8 class index.
        """
        rng = np.random.default_rng([self._seed, 1, number])
        label = None
        if self._showing and rng.random() < self._augmentation.focus:
            label = int(rng.choice([*self._showing]))
            frame = int(rng.choice(self._showing[label]))
        else:
            frame = self._next(number)
        image, mask = self._augmentation(
            np.asarray(self._frames.images[frame]),
            np.asarray(self._frames.masks[frame]),
            self._crop_size,
            rng,
            label,
        )
        return torch.from_numpy(image), torch.from_numpy(mask)

    def _next(self, number: int) -> int:
        """Find the frame whose turn it is."""
        turn, place = divmod(number, len(self._frames))
        order = np.random.default_rng([self._seed, 0, turn]).permutation(len(self._frames))
        return int(order[place])


class EpochSampler(Sampler[int]):
    """
    The numbers of one epoch's views; the next epoch goes on where it ends.

    Several processes take turns: what they see together is what one alone would see.

    :param count: views in an epoch, of all processes together.
    :param rank: which of the processes this is, from 0.
    :param world: how many there are.
    :raises ValueError: if the views cannot be shared out evenly.
    """

    def __init__(self, count: int, rank: int = 0, world: int = 1) -> None:
        """Start with epoch 0; see the class."""
        if count % world:
            raise ValueError(
                f'{count} views in an epoch are not a multiple of {world} processes: choose an '
                'epoch that is'
            )
        self._count = count
        self._rank = rank
        self._world = world
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """
        Go to an epoch; Lightning calls this.

        :param epoch: from 0.
        """
        self._epoch = epoch

    def __len__(self) -> int:
        """Count this process's views of an epoch."""
        return self._count // self._world

    def __iter__(self) -> Iterator[int]:
        """Go through them."""
        start = self._epoch * self._count
        return iter(range(start + self._rank, start + self._count, self._world))


def keep_to_one_thread(worker: int) -> None:
    """
    Start a loader's worker: where all cores have a worker, OpenCV's threads only stand in line.

    :param worker: its number, as DataLoader gives it to its `worker_init_fn`.
    """
    cv2.setNumThreads(1)
