# SPDX-License-Identifier: Apache-2.0
"""Sums up what a data set holds, in numbers and as an image."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.detections import draw_overlay
from surgseg_ros.core.labels import CLASS_COUNT, CLASS_NAMES, PALETTE
from surgseg_ros.training.data_errors import Examination
from surgseg_ros.training.dataset import Scan
from surgseg_ros.training.samples import DataError, Sample

_WIDTH_PX: Final = 1600
_COLUMNS: Final = 4
_SHOWN: Final = 16
_ROW_PX: Final = 34
_NAME_PX: Final = 200
_VALUE_PX: Final = 110
_HEAD_PX: Final = 50
_LEAST_SHARE: Final = 1e-6
"""Start of the logarithmic scale of the pixels, in percent."""

_PAPER: Final = (30, 30, 30)
_INK: Final = (230, 230, 230)
_FONT: Final = cv2.FONT_HERSHEY_SIMPLEX
_FONT_SCALE: Final = 0.55


def draw_data(samples: Sequence[Sample], class_px: NDArray[np.int64]) -> NDArray[np.uint8]:
    """
    Draw bars for each class, and a sheet of frames that together show every class.

    :param samples: those without errors.
    :param class_px: (N, 10) pixels of each class in each.
    :return: (H, W, 3) uint8 RGB.
    """
    counts = class_px.reshape(-1, CLASS_COUNT)
    bars = _draw_bars(counts)
    shown = [_draw_frame(samples[place]) for place in choose(counts)]
    rows = [_row(shown[start : start + _COLUMNS]) for start in range(0, len(shown), _COLUMNS)]
    return np.vstack([bars, *rows])


def choose(class_px: NDArray[np.int64], count: int = _SHOWN) -> list[int]:
    """
    Choose samples to show: for each class the one with most of it, and others evenly.

    :param class_px: (N, 10) pixels of each class in each sample.
    :param count: how many, at least as many as there are classes.
    :return: their indices, ascending, without repetition.
    """
    if not len(class_px):
        return []
    chosen = {int(column.argmax()) for column in class_px.T[1:] if column.any()}
    others = [place for place in range(len(class_px)) if place not in chosen]
    wanted = min(len(others), count - len(chosen))
    evenly = np.linspace(0, len(others) - 1, wanted).astype(int)
    return sorted(chosen | {others[place] for place in evenly})


def _draw_bars(class_px: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Two panels: share of pixels, logarithmic; share of frames."""
    pixels = class_px.sum(0) / max(1, class_px.sum())
    frames = (class_px > 0).sum(0) / max(1, len(class_px))
    logarithm = 1 - np.log10(np.maximum(pixels, _LEAST_SHARE)) / np.log10(_LEAST_SHARE)
    canvas = np.full((_HEAD_PX + CLASS_COUNT * _ROW_PX + 20, _WIDTH_PX, 3), _PAPER, np.uint8)
    half = (_WIDTH_PX - _NAME_PX) // 2
    panels = (
        ('share of pixels (logarithmic)', logarithm, pixels, '{:.4f} %'),
        (f'share of {len(class_px)} frames', frames, frames, '{:.1f} %'),
    )
    for number, (title, lengths, shares, form) in enumerate(panels):
        left = _NAME_PX + number * half
        _write(canvas, title, left, 32)
        for label in range(CLASS_COUNT):
            top = _HEAD_PX + label * _ROW_PX
            right = left + round((half - _VALUE_PX) * float(lengths[label]))
            colour = _INK if label == 0 else tuple(map(int, PALETTE[label]))
            cv2.rectangle(canvas, (left, top + 4), (right, top + _ROW_PX - 6), colour, cv2.FILLED)
            _write(canvas, form.format(100 * shares[label]), right + 8, top + 23)
    for label, name in enumerate(CLASS_NAMES):
        _write(canvas, f'{label} {name}', 12, _HEAD_PX + label * _ROW_PX + 23)
    return canvas


def _draw_frame(sample: Sample) -> NDArray[np.uint8]:
    """Make a small image with its truth and name."""
    image, mask = sample.read()
    width = _WIDTH_PX // _COLUMNS
    size = (width, max(1, round(width * image.shape[0] / image.shape[1])))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
    truth = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST).astype(np.uint8)
    drawn = draw_overlay(small, truth)
    _write(drawn, sample.name, 8, 20)
    return drawn


def _row(frames: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Place frames, perhaps of different heights, side by side on a sheet as wide as the chart."""
    height = max(len(frame) for frame in frames)
    row = np.full((height, _WIDTH_PX, 3), _PAPER, np.uint8)
    for place, frame in enumerate(frames):
        left = place * frame.shape[1]
        row[: len(frame), left : left + frame.shape[1]] = frame
    return row


def _write(canvas: NDArray[np.uint8], text: str, x_px: int, y_px: int) -> None:
    (width, height), below = cv2.getTextSize(text, _FONT, _FONT_SCALE, 1)
    plate = (x_px - 3, y_px - height - 3), (x_px + width + 3, y_px + below)
    cv2.rectangle(canvas, *plate, _PAPER, cv2.FILLED)
    cv2.putText(canvas, text, (x_px, y_px), _FONT, _FONT_SCALE, _INK, 1, cv2.LINE_AA)


def summarize(
    found: Scan, examinations: Sequence[Examination], losses: Sequence[DataError] = ()
) -> dict[str, Any]:
    """
    Summarize the contents of a data set.

    :param found: its samples, and the errors of masks without a frame.
    :param examinations: of the samples, in the same order.
    :param losses: frames that the videos lack.
    :return: `videos`, name to its contents; `all`, the same of all together; `faults`, a list of
        `name` and `what`. A video holds `frames`, `sizes` ('1920x1080' to the number of masks),
        `pixel_share` and `frame_share` by class name, over the masks that could be read.
    """
    by_video: dict[str, list[Examination]] = {}
    for sample, examination in zip(found.samples, examinations, strict=True):
        by_video.setdefault(sample.video, []).append(examination)
    return {
        'all': _holding(examinations),
        'videos': {video: _holding(of_video) for video, of_video in by_video.items()},
        'faults': [
            data_error._asdict() for data_error in _all_errors(found, examinations, losses)
        ],
    }


def _all_errors(
    found: Scan, examinations: Sequence[Examination], losses: Sequence[DataError]
) -> list[DataError]:
    of_samples = [
        data_error for examination in examinations for data_error in examination.data_errors
    ]
    return sorted((*found.data_errors, *losses, *of_samples))


def _holding(examinations: Sequence[Examination]) -> dict[str, Any]:
    readable = [x for x in examinations if x.size]
    sizes = Counter(f'{x.size[1]}x{x.size[0]}' for x in readable if x.size)
    class_px = np.array([x.class_px for x in readable]).reshape(-1, len(CLASS_NAMES))
    pixels = class_px.sum(0) / max(1, class_px.sum())
    frames = (class_px > 0).sum(0) / max(1, len(readable))
    return {
        'frames': len(examinations),
        'sizes': dict(sizes.most_common()),
        'pixel_share': dict(zip(CLASS_NAMES, pixels.tolist(), strict=True)),
        'frame_share': dict(zip(CLASS_NAMES, frames.tolist(), strict=True)),
    }
