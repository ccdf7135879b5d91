# SPDX-License-Identifier: Apache-2.0
"""What a run shows and writes while it trains: a progress bar and images."""

from pathlib import Path
from typing import Any, Final

import cv2
import lightning
import numpy as np
from lightning.pytorch.callbacks import ProgressBar
from numpy.typing import NDArray
from tqdm import tqdm

from surgseg_ros.core.detections import draw_overlay
from surgseg_ros.evaluation.frames import write_png

IMAGES: Final = 'pictures'
_SHOWN: Final = 4
_WIDTH_PX: Final = 480
_TITLES: Final = ('input', 'truth', 'prediction')


_IN_BAR: Final = {'loss': 'loss', 'validation_mIoU': 'mIoU', 'validation_score': 'score'}


class Progress(ProgressBar):
    """One bar for the whole run, with the time that is left, and one for each validation."""

    def __init__(self) -> None:
        """Create the bars later, when the run starts."""
        super().__init__()
        self._enabled = True
        self._bar: tqdm[Any] | None = None
        self._validation: tqdm[Any] | None = None

    def disable(self) -> None:
        """Show nothing: Lightning calls this in all processes but one."""
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
        """Close the bar where it is."""
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
        """Draw the frame if it is one of those, the same at each validation."""
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
    """(h, 3 * _WIDTH_PX, 3) RGB: the input, and both masks over it."""
    size = (_WIDTH_PX, round(image.shape[0] * _WIDTH_PX / image.shape[1]))
    panels = (image, draw_overlay(image, truth), draw_overlay(image, predicted))
    row = [cv2.resize(panel, size, interpolation=cv2.INTER_AREA) for panel in panels]
    joined: NDArray[np.uint8] = np.concatenate(row, 1).astype(np.uint8, copy=False)
    return joined


def _titles(width: int) -> NDArray[np.uint8]:
    strip = np.zeros((32, width, 3), np.uint8)
    for place, title in enumerate(_TITLES):
        origin = (place * _WIDTH_PX + 8, 22)
        cv2.putText(
            strip, title, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 1, cv2.LINE_AA
        )
    return strip
