# SPDX-License-Identifier: Apache-2.0
"""The frames of a bag as arrays for its timeline."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.evaluation.metrics import SCORED

Array = NDArray[np.float64]

_WIDE_GAP: Final = 0.5
"""A gap that is at least this share of the whole leaves no room for the data."""

_NINE: Final = len(SCORED)


class Series(NamedTuple):
    """
    A bag's frames in order; NaN where a value is unknown.

    :param at: (N,) seconds since the first image, or the frame's number.
    :param is_time: whether `at` is seconds.
    :param iou: (N,) official, mean over the classes.
    :param nsd: (N,) the same.
    :param floor: (N,) score of a prediction of background only.
    :param confidence: (N,) mean over the network's grid.
    :param no_decision: (N,) share of the pixels.
    :param instruments: (N,) number of instruments found.
    :param truth: (N, 9) 1 where the truth shows the class.
    :param predicted: (N, 9) the same of the mask.
    :param lost: (N,) 1 where the frame was failed, rejected or dropped.
    """

    at: Array
    is_time: bool
    iou: Array
    nsd: Array
    floor: Array
    confidence: Array
    no_decision: Array
    instruments: Array
    truth: Array
    predicted: Array
    lost: Array


def read_series(over_time: Sequence[Mapping[str, Any]]) -> Series:
    """
    Convert the frames in the output of `evaluate_bag` to arrays.

    :param over_time: of a bag, see `results`.
    :return: the arrays.
    """
    at, is_time = _places(over_time)
    truth = _each(over_time, lambda frame: _shown(frame['truth']), _NINE)
    return Series(
        at,
        is_time,
        _each(over_time, lambda frame: _mean(frame['iou'])),
        _each(over_time, lambda frame: _mean(frame['nsd'])),
        1 - truth.mean(1),
        _each(over_time, lambda frame: frame['confidence']),
        _each(over_time, lambda frame: frame['no_decision']),
        _each(over_time, lambda frame: _found(frame['instruments'])),
        truth,
        _each(over_time, lambda frame: _shown(frame['predicted']), _NINE),
        _each(over_time, lambda frame: float(frame['fate'] != 'mask')),
    )


def _each(
    frames: Sequence[Mapping[str, Any]],
    value: Callable[[Mapping[str, Any]], float | Sequence[float] | None],
    columns: int = 0,
) -> Array:
    unknown = [np.nan] * columns if columns else np.nan
    values = [unknown if (known := value(frame)) is None else known for frame in frames]
    return np.array(values, float).reshape((-1, columns) if columns else -1)


def _mean(values: Sequence[float] | None) -> float | None:
    return None if values is None else sum(values) / len(values)


def _shown(labels: Sequence[int] | None) -> list[float] | None:
    return None if labels is None else [float(label in labels) for label in SCORED]


def _found(labels: Sequence[int] | None) -> float | None:
    """Count the instruments; 255 stands for no decision."""
    return None if labels is None else float(sum(label < 255 for label in labels))


def _places(frames: Sequence[Mapping[str, Any]]) -> tuple[Array, bool]:
    """Return seconds, or the frames' numbers if stamps do not measure time."""
    stamps = [frame['stamp_ns'] for frame in frames]
    numbers = np.arange(len(frames), dtype=float)
    known = [stamp for stamp in stamps if stamp is not None]
    if len(known) < 2 or 0 in known:
        return numbers, False
    seconds = np.array([(stamp - known[0]) / 1e9 for stamp in known])
    steps, span = np.diff(seconds), seconds[-1] - seconds[0]
    if (steps < 0).any() or span <= 0 or (len(steps) > 2 and steps.max() > _WIDE_GAP * span):
        return numbers, False
    is_known = np.array([stamp is not None for stamp in stamps])
    return np.interp(numbers, numbers[is_known], seconds), True
