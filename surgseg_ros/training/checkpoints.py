# SPDX-License-Identifier: Apache-2.0
"""The checkpoint that an interrupted run goes on from, if it is of the same run."""

import io
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import lightning
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from surgseg_ros.core.files import replacing, writing
from surgseg_ros.training.config import ConfigError, TrainConfig

CHECKPOINT_FILE: Final = 'last.ckpt'
_FREE: Final = (
    'data',
    'output',
    'cache',
    'frame_cache',
    'start',
    'encoder_weights',
    'device',
    'workers',
    'picture_every',
)
"""Settings that may change between two parts of a run: they do not change its result."""


_PARTS: Final = ('settings', 'run', 'state_dict', 'optimizer_states', 'loops', 'global_step')
"""What a checkpoint must hold for a run to go on from it."""

_AVERAGING: Final = 'averaging_state'
"""What it holds besides, of Lightning's WeightAveraging, where weights are averaged."""


class CheckpointFile(TorchCheckpointIO):
    """Writes a checkpoint where it goes; Lightning would by way of the system's /tmp."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """
        Write.

        :param checkpoint: what to write.
        :param path: where.
        :param storage_options: of other places than files; of no matter.
        """
        buffer = io.BytesIO()  # for torch has a RuntimeError of its own where a disk is full
        torch.save(checkpoint, buffer)
        with writing(path):
            Path(path).write_bytes(buffer.getbuffer())


class Checkpoint(lightning.Callback):
    """
    Keeps one checkpoint, of the end of the last epoch; there is a whole one at any moment.

    Lightning's ModelCheckpoint does not do: it keeps the best weights and the last state in two
    files, and removes the former best before it writes the state that still names it. A run that
    is killed in between would go on with best weights that are gone, or of a step it never reaches
    again. Here both are in one file that is replaced as a whole.

    :param run: the run's folder.
    :param config: the settings, which the checkpoint remembers.
    """

    def __init__(self, run: Path, config: TrainConfig) -> None:
        """Keep both; see the class."""
        self._path = run / CHECKPOINT_FILE
        self._settings = _settings(config)

    def on_save_checkpoint(self, _: Any, __: Any, checkpoint: dict[str, Any]) -> None:
        """Add the settings."""
        checkpoint['settings'] = self._settings

    def on_train_epoch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Write under another name first: a kill while writing leaves the one before."""
        if not trainer.is_global_zero:  # takes part, and leaves the writing to the first
            trainer.save_checkpoint(self._path.with_name(f'{self._path.name}.partial'))
            return
        with replacing(self._path) as partial:
            trainer.save_checkpoint(partial)


def find_checkpoint(run: Path, config: TrainConfig) -> Path | None:
    """
    Find where a run goes on.

    :param run: the run's folder.
    :param config: the settings.
    :return: the checkpoint; None before the first.
    :raises ConfigError: if it cannot be read, or the settings are others.
    """
    path = run / CHECKPOINT_FILE
    if not path.exists():
        if run.exists():
            warnings.warn(f'{run} holds no checkpoint yet: the run begins again', stacklevel=2)
        return None
    try:
        content = torch.load(path, 'cpu', weights_only=True, mmap=True)
        needed = (*_PARTS, _AVERAGING) if config.ema_decay else _PARTS
        before = {key: content[key] for key in needed}['settings']
    except Exception as error:  # torch has many, for a file that is none of its own
        raise ConfigError(
            f'{path}: cannot be read as a checkpoint ({type(error).__name__}): it is damaged, or '
            'of another program or version; remove it to begin again'
        ) from error
    now = _settings(config)
    if other := sorted(key for key in {*before, *now} if before.get(key) != now.get(key)):
        said = ', '.join(f'{key} (was {before.get(key)}, is {now.get(key)})' for key in other)
        raise ConfigError(f'{path} is of a run with other settings: {said}; name a new output')
    return path


def _settings(config: TrainConfig) -> dict[str, Any]:
    """All that decides the result, in values that a checkpoint may hold."""
    values = asdict(config)
    for key in _FREE:
        del values[key]
    return {key: repr(value) for key, value in values.items()}
