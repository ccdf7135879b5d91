# SPDX-License-Identifier: Apache-2.0
"""Progress, images and the checkpoint of a run, from which it can be resumed."""

import io
import warnings
from pathlib import Path
from typing import Any, Final

import cv2
import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.plugins.io import TorchCheckpointIO
from numpy.typing import NDArray
from tqdm import tqdm

from surgseg_ros.core.files import replacing
from surgseg_ros.core.overlay import draw_overlay
from surgseg_ros.evaluation.frames import write_png
from surgseg_ros.training.config import FREE, ConfigError, TrainConfig

IMAGES: Final = 'pictures'
_SHOWN: Final = 4
_WIDTH_PX: Final = 480
_TITLES: Final = ('input', 'truth', 'prediction')


_IN_BAR: Final = {'loss': 'loss', 'validation_mIoU': 'mIoU', 'validation_score': 'score'}


class Progress(ProgressBar):
    """A progress bar for the whole run, with the remaining time, and one for each validation."""

    def __init__(self) -> None:
        """Start without bars, which are created when the run starts."""
        super().__init__()
        self._enabled = True
        self._bar: tqdm[Any] | None = None
        self._validation: tqdm[Any] | None = None

    def disable(self) -> None:
        """Disable the bars; Lightning calls this in all processes except one."""
        self._enabled = False

    def enable(self) -> None:
        """Show again."""
        self._enabled = True

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        """Start the bar at the step where the run continues."""
        super().on_train_start(trainer, module)
        self._bar = tqdm(
            total=module.data.steps,
            initial=module.global_step,
            desc='training',
            unit='step',
            disable=not self._enabled,
        )

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Any, *rest: Any) -> None:
        """Advance by an optimizer step."""
        assert self._bar is not None
        values = {k: v for k, v in trainer.callback_metrics.items() if k in _IN_BAR}
        texts = {_IN_BAR[key]: f'{float(value):.3f}' for key, value in values.items()}
        self._bar.set_postfix(texts, refresh=False)
        self._bar.update(module.global_step - self._bar.n)

    def on_validation_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Start a bar for the validation frames."""
        total = int(sum(trainer.num_val_batches))
        disable = not self._enabled
        self._validation = tqdm(
            total=total, desc='validating', unit='frame', leave=False, disable=disable
        )

    def on_validation_batch_end(self, *_: Any) -> None:
        """Advance by a frame."""
        assert self._validation is not None
        self._validation.update()

    def on_validation_end(self, *_: Any) -> None:
        """Remove the bar of the validation."""
        assert self._validation is not None
        self._validation.close()

    def on_train_end(self, *_: Any) -> None:
        """Close the bar at its current position."""
        assert self._bar is not None
        self._bar.close()


class PredictionImages(lightning.Callback):
    """
    Draws input, truth and prediction of some validation frames side by side.

    :param run: the run's folder; the images are `pictures/00000500.png` in it.
    :param every: number of validations from one image to the next.
    """

    def __init__(self, run: Path, every: int) -> None:
        self._folder = run / IMAGES
        self._every = every
        self._rows: list[NDArray[np.uint8]] = []

    def on_validation_epoch_start(self, *_: Any) -> None:
        """Start an empty image."""
        self._rows.clear()

    def on_validation_batch_end(
        self, trainer: lightning.Trainer, _: Any, predicted: Any, frame: Any, index: int, *__: Any
    ) -> None:
        """Draw the frame if it is selected; the same frames are selected at each validation."""
        due = trainer.is_global_zero and trainer.current_epoch % self._every == 0
        count = int(sum(trainer.num_val_batches))
        if due and index in np.linspace(0, count - 1, _SHOWN).astype(int):
            _, image, truth = frame
            self._rows.append(_row(image, truth, predicted))

    def on_validation_epoch_end(self, _: Any, module: Any) -> None:
        """Write the image."""
        if self._rows:
            width = max(row.shape[1] for row in self._rows)
            rows = [np.pad(r, ((0, 0), (0, width - r.shape[1]), (0, 0))) for r in self._rows]
            image = np.concatenate([_titles(width), *rows]).astype(np.uint8, copy=False)
            write_png(self._folder / f'{module.global_step:08d}.png', image)


def _row(
    image: NDArray[np.uint8], truth: NDArray[np.uint8], predicted: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Return (h, 3 * _WIDTH_PX, 3) RGB: the input, and both masks over it."""
    size = (_WIDTH_PX, round(image.shape[0] * _WIDTH_PX / image.shape[1]))
    panels = (image, draw_overlay(image, truth), draw_overlay(image, predicted))
    row = [cv2.resize(panel, size, interpolation=cv2.INTER_AREA) for panel in panels]
    joined: NDArray[np.uint8] = np.concatenate(row, 1).astype(np.uint8, copy=False)
    return joined


def _titles(width: int) -> NDArray[np.uint8]:
    strip = np.zeros((32, width, 3), np.uint8)
    for index, title in enumerate(_TITLES):
        origin = (index * _WIDTH_PX + 8, 22)
        cv2.putText(
            strip, title, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 1, cv2.LINE_AA
        )
    return strip


CHECKPOINT_FILE: Final = 'last.ckpt'

_PARTS: Final = ('settings', 'run', 'state_dict', 'optimizer_states', 'loops', 'global_step')
"""Keys that a checkpoint must have to be resumed."""

_AVERAGING: Final = 'averaging_state'
"""An additional key, of Lightning's WeightAveraging, if weights are averaged."""


class CheckpointFile(TorchCheckpointIO):
    """
    Writes checkpoints; the previous one is kept until the new one is complete.

    Lightning's own class does so too, but writes to the system's /tmp first.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """
        Write a checkpoint.

        :param checkpoint: the checkpoint.
        :param path: path of the file.
        :param storage_options: for storage other than files; not used.
        """
        buffer = io.BytesIO()  # on a full disk, torch would raise a RuntimeError
        torch.save(checkpoint, buffer)
        with replacing(Path(path)) as partial:
            partial.write_bytes(buffer.getbuffer())


def checkpoint_callback(run: Path) -> ModelCheckpoint:
    """
    Create the callback that writes a checkpoint after each validation.

    It does not monitor the validation: it would keep the best weights in a file of their own, and
    remove the previous one before it writes the state that names the new one. A run that is killed
    in between could not be resumed to the same result. `Training` puts them into the checkpoint.

    :param run: the run's folder.
    :return: the callback; it has one file, CHECKPOINT_FILE.
    """
    name = Path(CHECKPOINT_FILE).stem
    return ModelCheckpoint(run, name, enable_version_counter=False, save_on_train_epoch_end=True)


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
    except Exception as error:  # torch raises many types for other files
        raise ConfigError(
            f'{path}: cannot be read as a checkpoint ({type(error).__name__}): it is damaged, or '
            'of another program or version; remove it to start from the beginning'
        ) from error
    now = config.of_result()
    keys = {*before, *now}.difference(FREE)  # earlier releases stored some of these
    if other := sorted(key for key in keys if before.get(key) != now.get(key)):
        changes = ', '.join(f'{key} (was {before.get(key)}, is {now.get(key)})' for key in other)
        raise ConfigError(
            f'{path} belongs to a run with other settings: {changes}; name another output'
        )
    return path
