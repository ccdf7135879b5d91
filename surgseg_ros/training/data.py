# SPDX-License-Identifier: Apache-2.0
"""The LightningDataModule: finds, checks, splits and resizes a data set once for all processes."""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import lightning
import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from surgseg_ros.core.files import write_atomically, writing
from surgseg_ros.core.model_folder import read_spec
from surgseg_ros.core.parameters import AUTO
from surgseg_ros.core.processes import ignore_terminal_signals
from surgseg_ros.evaluation.layout import DRAWN_FILE
from surgseg_ros.training.config import ConfigError, TrainConfig
from surgseg_ros.training.crop_dataset import CropDataset, EpochSampler, keep_to_one_thread
from surgseg_ros.training.data_check import validate
from surgseg_ros.training.dataset import Sample, find_samples, split_samples
from surgseg_ros.training.frame_cache import CachedFrames
from surgseg_ros.training.networks import starting_spec
from surgseg_ros.training.scoring import ValidationFrame

LEFT_OUT_FILE: Final = 'left_out.json'
"""File in the run's folder with the names of the samples that have errors."""


class Data(lightning.LightningDataModule):
    """
    Provides crops for training, and whole frames for validation.

    After `setup`, `training` and `validation` are the samples, `left_out` the names of samples
    with errors, `steps` the run's optimizer steps, and `validate_every` those of an epoch.

    :param config: the settings.
    :param run: the run's folder.
    """

    training: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    left_out: tuple[str, ...]
    steps: int
    validate_every: int

    def __init__(self, config: TrainConfig, run: Path) -> None:
        super().__init__()
        self.prepare_data_per_node = False  # all machines share the run's folder and the caches
        self._config = config
        self._run = run
        self._cache = Path(config.cache) if config.cache else run / 'frames'

    def prepare_data(self) -> None:
        """Check all samples and resize those for training; runs in one process only."""
        config = self._config
        found = validate(
            Path(config.data),
            _path(config.frame_cache),
            leave_out=config.leave_out,
            on_fault=config.on_fault,
        )
        names = sorted({data_error.name for data_error in found.data_errors})
        write_atomically(self._run / LEFT_OUT_FILE, json.dumps(names).encode())
        self._fit(self._split(found.samples)[0])

    def setup(self, stage: str) -> None:
        """
        Load what `prepare_data` wrote; runs in every process.

        :param stage: from Lightning; not used.
        :raises ConfigError: if there are fewer validation frames than processes.
        """
        config = self._config
        self.left_out = tuple(json.loads((self._run / LEFT_OUT_FILE).read_text()))
        leave_out = {*config.leave_out, *self.left_out}
        samples = find_samples(Path(config.data), _path(config.frame_cache), leave_out=leave_out)
        self.training, self.validation = self._split(samples)
        if self._world > len(self.validation):
            raise ConfigError(
                f'devices and nodes make {self._world} processes, more than the number of '
                f'validation frames to share, {len(self.validation)}: use fewer devices'
            )
        views_in_step = config.batch_size * config.accumulate * self._world
        steps_in_pass = math.ceil(len(self.training) / views_in_step)
        self.steps = config.steps or config.epochs * steps_in_pass
        self.validate_every = min(config.validate_every or steps_in_pass, self.steps)

    @property
    def class_px(self) -> NDArray[np.int64]:
        """(CLASS_COUNT,) pixels of each class in all training frames, at input size."""
        return np.asarray(self._fit(self.training).class_px.sum(0))

    def train_dataloader(self) -> DataLoader[Any]:
        """
        Load batches of crops, endlessly.

        :return: (batch, h, w, 3) and (batch, h, w) uint8.
        """
        config = self._config
        crops = CropDataset(
            self._fit(self.training), config.augmentation, config.crop_size, config.seed
        )
        batches = self.validate_every * config.accumulate
        count = batches * config.batch_size * self._world
        return _Loader(
            crops,
            config.batch_size,
            sampler=EpochSampler(count, self._rank, self._world),
            num_workers=config.workers,
            persistent_workers=config.workers > 0,
            multiprocessing_context='spawn' if config.workers else None,
            worker_init_fn=keep_to_one_thread if config.workers else None,
            pin_memory=self._on_gpu,
        )

    def val_dataloader(self) -> DataLoader[ValidationFrame]:
        """
        Load this process's share of the validation frames, at their original size.

        :return: the frames, one at a time.
        """
        frames = _ValidationFrames(self.validation[self._rank :: self._world])
        return DataLoader(frames, batch_size=None, collate_fn=_unchanged)

    def split(self) -> dict[str, Any]:
        """
        List the videos, or the frames if the split is by frame, of each part.

        :return: values that can be written as JSON.
        """
        by_video = self._config.split == 'video'
        parts = {'training': self.training, 'validation': self.validation}
        return {
            'by': self._config.split,
            'seed': self._config.split_seed,
            **{k: sorted({s.video if by_video else s.name for s in v}) for k, v in parts.items()},
        }

    def intended_use(self) -> str:
        """
        Determine the intended use of a model trained on these data.

        :return: one of INTENDED_USES; `auto` becomes `research` if a single video is not drawn, or
            if the weights are from such a model.
        """
        config = self._config
        if config.intended_use != AUTO:
            return config.intended_use
        videos = {s.mask.parents[1] for s in (*self.training, *self.validation)}
        drawn = all((video / DRAWN_FILE).is_file() for video in videos)
        if config.start:
            drawn = drawn and read_spec(config.start).intended_use != 'research'
        return 'synthetic' if drawn else 'research'

    def validation_frames(self) -> Iterator[ValidationFrame]:
        """
        Iterate over all validation frames.

        :return: the frames, at their original size.
        """
        frames = _ValidationFrames(self.validation)
        return (frames[index] for index in range(len(frames)))

    def _split(self, samples: Sequence[Sample]) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
        config = self._config
        return split_samples(samples, config.split, config.validation_share, config.split_seed)

    def _fit(self, samples: Sequence[Sample]) -> CachedFrames:
        config = self._config
        is_drawn = config.normalize_training_colours
        colours = starting_spec(config).colour_normalization if is_drawn else None
        return CachedFrames.prepare(samples, config.input_size, config.fit, self._cache, colours)

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer else 0

    @property
    def _world(self) -> int:
        return self.trainer.world_size if self.trainer else 1

    @property
    def _on_gpu(self) -> bool:
        return self.trainer is not None and self.trainer.strategy.root_device.type == 'cuda'


class _Loader(DataLoader[Any]):
    """Starts its processes such that Ctrl-C, which is for the run, does not reach them."""

    def __iter__(self) -> Any:
        with ignore_terminal_signals(), writing('/dev/shm'):
            return super().__iter__()


class _ValidationFrames(Dataset[ValidationFrame]):
    """Frames at their original size."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> ValidationFrame:
        image, mask = self._samples[index].read()
        return self._samples[index].video, image, mask


def _unchanged(frame: Any) -> Any:
    """Return the arrays unchanged, which torch would convert to tensors."""
    return frame


def _path(text: str) -> Path | None:
    return Path(text) if text else None
