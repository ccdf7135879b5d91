# SPDX-License-Identifier: Apache-2.0
"""The checkpoint from which an interrupted run resumes, if it belongs to the same run."""

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
    'intended_use',
)
"""Settings that may change when a run is resumed: they do not change its result."""


_PARTS: Final = ('settings', 'run', 'state_dict', 'optimizer_states', 'loops', 'global_step')
"""The keys that a checkpoint must have for a run to resume from it."""

_AVERAGING: Final = 'averaging_state'
"""An additional key, of Lightning's WeightAveraging, where weights are averaged."""


class CheckpointFile(TorchCheckpointIO):
    """Writes a checkpoint directly to its place; Lightning goes through the system's /tmp."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """
        Write a checkpoint.

        :param checkpoint: what to write.
        :param path: where.
        :param storage_options: for storage other than files; not used.
        """
        buffer = io.BytesIO()  # torch would raise a RuntimeError of its own on a full disk
        torch.save(checkpoint, buffer)
        with writing(path):
            Path(path).write_bytes(buffer.getbuffer())


class Checkpoint(lightning.Callback):
    """
    Keeps one checkpoint, of the end of the last epoch; it is complete at any moment.

    Lightning's ModelCheckpoint is not enough: it keeps the best weights and the last state in two
    files, and removes the previous best before it writes the state that refers to it. A run that
    is killed in between would resume with best weights that are gone, or of a step that it never
    reaches again. Here both are in one file that is replaced as a whole.

    :param run: the run's folder.
    :param config: the settings, which the checkpoint stores.
    """

    def __init__(self, run: Path, config: TrainConfig) -> None:
        self._path = run / CHECKPOINT_FILE
        self._settings = _settings(config)

    def on_save_checkpoint(self, _: Any, __: Any, checkpoint: dict[str, Any]) -> None:
        """Add the settings."""
        checkpoint['settings'] = self._settings

    def on_train_epoch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Write under another name first: if killed meanwhile, the run keeps the old one."""
        if not trainer.is_global_zero:  # helps to gather the state; only rank 0 writes
            trainer.save_checkpoint(self._path.with_name(f'{self._path.name}.partial'))
            return
        with replacing(self._path) as partial:
            trainer.save_checkpoint(partial)


def find_checkpoint(run: Path, config: TrainConfig) -> Path | None:
    """
    Find the checkpoint to resume from.

    :param run: the run's folder.
    :param config: the settings.
    :return: the checkpoint; None if there is none yet.
    :raises ConfigError: if it cannot be read, or was written with other settings.
    """
    path = run / CHECKPOINT_FILE
    if not path.exists():
        if run.exists():
            warnings.warn(
                f'{run} holds no checkpoint yet: the run starts from the beginning', stacklevel=2
            )
        return None
    try:
        content = torch.load(path, 'cpu', weights_only=True, mmap=True)
        needed = (*_PARTS, _AVERAGING) if config.ema_decay else _PARTS
        before = {key: content[key] for key in needed}['settings']
    except Exception as error:  # torch raises many kinds for a file that it did not write
        raise ConfigError(
            f'{path}: cannot be read as a checkpoint ({type(error).__name__}): it is damaged, or '
            'of another program or version; remove it to start from the beginning'
        ) from error
    now = _settings(config)
    keys = {*before, *now}.difference(_FREE)  # earlier releases stored some of these
    if other := sorted(key for key in keys if before.get(key) != now.get(key)):
        changes = ', '.join(f'{key} (was {before.get(key)}, is {now.get(key)})' for key in other)
        raise ConfigError(f'{path} is of a run with other settings: {changes}; name a new output')
    return path


def _settings(config: TrainConfig) -> dict[str, Any]:
    """Everything that determines the result, as values that a checkpoint may hold."""
    values = asdict(config)
    for key in _FREE:
        del values[key]
    return {key: repr(value) for key, value in values.items()}
