# SPDX-License-Identifier: Apache-2.0
"""Features of the instruments of an image, by which a tracker compares them with tracks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.detections import Instrument
from surgseg_ros.core.labels import NO_DECISION
from surgseg_ros.core.runs import Runs, coarse_masks

MAX_TRACKED: Final = 64
"""Only the largest instruments get an id; lost tracks are limited to the same number."""

_ROWS: Final = 64
"""Number of rows of an instrument that are sampled."""

Values = NDArray[np.float64]


class Features(NamedTuple):
    """
    Features by which tracks and instruments are compared; one row each.

    :param labels: (n,) class.
    :param centroids: (n, 2) x and y of the centroid, from the image's centre, in image heights.
    :param axes: (n, 2) cosine and sine of twice the axis's angle, times its distinctness, 0..1.
    :param areas: (n,) logarithm of the number of pixels.
    :param masks: (n, rows, columns) share of the pixels in each cell; a vector of norm 1.
    """

    labels: NDArray[np.intp]
    centroids: Values
    axes: Values
    areas: Values
    masks: Values


class Observed(NamedTuple):
    """
    The instruments of an image as a tracker sees them.

    :param indices: (n,) which instruments are tracked, ascending.
    :param features: their features; None if there are none.
    """

    indices: NDArray[np.intp]
    features: Features | None


def observe(instruments: Sequence[Instrument], size: tuple[int, int]) -> Observed:
    """
    Choose the instruments to track, and compute their features.

    :param instruments: instruments of an image, as `find_instruments` returns them; without a
        decision, as `without_decision` returns them.
    :param size: (H, W) of the image in pixels.
    :return: the MAX_TRACKED largest instruments; none without a decision.
    """
    indices = _largest(instruments)
    chosen = [instruments[n] for n in indices]
    return Observed(indices, _features(chosen, size) if chosen else None)


def _largest(instruments: Sequence[Instrument]) -> NDArray[np.intp]:
    """Return the sorted indices of the instruments to track."""
    areas = [0 if i.runs is None or i.label == NO_DECISION else i.area_px for i in instruments]
    order = sorted(range(len(areas)), key=lambda index: -areas[index])[:MAX_TRACKED]
    return np.array(sorted(index for index in order if areas[index]), np.intp)


def _features(instruments: Sequence[Instrument], size: tuple[int, int]) -> Features:
    """Compute features from samples of the runs of instruments."""
    samples = [_sampled(i.runs) for i in instruments if i.runs is not None]
    owners = np.repeat(np.arange(len(samples)), [len(runs.rows) for runs in samples])
    _, rows, starts, ends = (np.concatenate(columns) for columns in zip(*samples))
    lengths = ends - starts
    areas = np.bincount(owners, lengths)
    x = np.bincount(owners, lengths * (starts + ends - 1) / 2) / areas
    y = np.bincount(owners, lengths * rows) / areas
    middle = (np.array(size[::-1]) - 1) / 2
    centroids = (np.stack([x, y], axis=1) - middle) / size[0]
    return Features(
        np.array([i.label for i in instruments], np.intp),
        centroids,
        np.array([_axis(i) for i in instruments]),
        np.log([float(i.area_px) for i in instruments]),
        coarse_masks(owners, rows, starts, ends, size),
    )


def _sampled(runs: Runs) -> Runs:
    """Select some rows of an instrument, from which its position can be computed."""
    step = (int(runs.rows[-1]) - int(runs.rows[0])) // _ROWS + 1
    return runs.take(np.flatnonzero((runs.rows - runs.rows[0]) % step == 0)) if step > 1 else runs


def _axis(instrument: Instrument) -> tuple[float, float]:
    """Return cosine and sine of twice the axis's angle; a shorter vector is less distinct."""
    box = instrument.box
    angle_rad, length, width = box.angle_rad, box.size_x_px, box.size_y_px
    shafts = instrument.parts.shafts if instrument.parts else []
    if shafts and shafts[0].strip is not None:
        strip = shafts[0].strip
        angle_rad = float(np.arctan2(strip.direction[1], strip.direction[0]))
        length, width = max(strip.length_px, length), min(strip.width_px, width)
    clear = 1 - min(1.0, width / max(length, 1e-9))
    return clear * float(np.cos(2 * angle_rad)), clear * float(np.sin(2 * angle_rad))
