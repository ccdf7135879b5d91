# SPDX-License-Identifier: Apache-2.0
"""Sums up what a data set holds, and chooses samples that show it."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.detections import draw_overlay
from surgseg_ros.core.labels import CLASS_NAMES
from surgseg_ros.training.data_errors import Examination
from surgseg_ros.training.dataset import DataError, Sample, Scan

_SHOWN: Final = 16


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


def class_shares(class_px: NDArray[np.int64]) -> tuple[list[float], list[float]]:
    """
    Compute how often each class occurs.

    :param class_px: (N, 10) pixels of each class in each sample.
    :return: of each class the share of all pixels, and the share of samples that have any.
    """
    pixels = class_px.sum(0) / max(1, class_px.sum())
    frames = (class_px > 0).sum(0) / max(1, len(class_px))
    return pixels.tolist(), frames.tolist()


def draw_sample(sample: Sample, width_px: int) -> NDArray[np.uint8]:
    """
    Draw the ground truth over an image, both reduced.

    :param sample: one without errors.
    :param width_px: of the result.
    :return: (H, width_px, 3) uint8 RGB.
    """
    image, mask = sample.read()
    size = (width_px, max(1, round(width_px * image.shape[0] / image.shape[1])))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
    truth = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST).astype(np.uint8)
    return draw_overlay(small, truth)


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
    pixels, frames = class_shares(class_px)
    return {
        'frames': len(examinations),
        'sizes': dict(sizes.most_common()),
        'pixel_share': dict(zip(CLASS_NAMES, pixels, strict=True)),
        'frame_share': dict(zip(CLASS_NAMES, frames, strict=True)),
    }
