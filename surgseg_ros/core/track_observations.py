# SPDX-License-Identifier: Apache-2.0
"""
Prepares the instruments of an image for the tracker.

Pieces of an instrument that was whole in the last image and is partly covered now are joined. Then
the features are computed by which the instruments are compared with tracks.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.detections import Instrument, join_instruments
from surgseg_ros.core.known_tools import sample_tools
from surgseg_ros.core.labels import HOLDER, NEEDLE, NO_DECISION, SUCTION, THREAD
from surgseg_ros.core.runs import Runs, coarse_masks
from surgseg_ros.core.segmentation import Points

MAX_TRACKED: Final = 64
"""Only the largest instruments get an id; lost tracks are limited to the same number."""

_ROWS: Final = 64
"""Number of rows of an instrument that are sampled."""

_LONG_LABELS: Final = (SUCTION, HOLDER, NEEDLE, THREAD)
"""Long instruments; clips lie side by side, and robotic tools have parts of their own."""

_MAX_PIECES: Final = 8
"""With more instruments of a class, none are joined: each pair of them is compared."""

_INSIDE: Final = 0.8
"""Least share of a piece that lies in the cells of the whole instrument, or next to them."""

_GROWTH: Final = 1.3
"""The pieces have at most this many times the area of the whole instrument."""

_MAX_GAP: Final = 0.35
"""Widest gap between two pieces, in image heights."""

_COVERED_SHARE: Final = 0.8
"""Least share of the gap that instruments of other classes cover."""

_END_SAMPLE: Final = 50
"""Number of runs of a piece of which the ends are compared."""

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
    :param samples: as `sample_tools` returns them, of these instruments.
    """

    indices: NDArray[np.intp]
    features: Features | None
    samples: NDArray[np.uint8]


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
    samples = sample_tools([instrument.parts for instrument in chosen], size)
    return Observed(indices, _features(chosen, size) if chosen else None, samples)


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


class PreviousInstruments(NamedTuple):
    """
    Instruments of the last image, one row each.

    :param labels: (n,) class.
    :param areas_px: (n,) number of pixels.
    :param masks: (n, rows, columns) whether each was in a cell, or is predicted there.
    """

    labels: NDArray[np.intp]
    areas_px: NDArray[np.float64]
    masks: NDArray[np.bool_]


def may_be_pieces(instruments: Sequence[Instrument], size: tuple[int, int]) -> bool:
    """
    Return whether `rejoin_pieces` may join some of the instruments, whatever there was before.

    :param instruments: instruments of an image, as `find_instruments` returns them.
    :param size: (H, W) of the image in pixels.
    :return: whether instruments of other classes cover the gap between two of one.
    """
    for label in _LONG_LABELS:
        indices = [index for index, one in enumerate(instruments) if one.label == label]
        if 1 < len(indices) <= _MAX_PIECES:
            covers, ends = _gaps(instruments, indices, size)
            if any(covers.cover_gap(ends[a], ends[b]) for a, b in combinations(indices, 2)):
                return True
    return False


def rejoin_pieces(
    instruments: Sequence[Instrument], previous: PreviousInstruments, size: tuple[int, int]
) -> Sequence[Instrument]:
    """
    Join instruments that were one in the last image, if others cover the gaps between them now.

    Pieces alone may not show that they belong together: of a short one, direction and radius are
    unknown.

    :param instruments: instruments of the image, as `find_instruments` returns them.
    :param previous: instruments of the last image.
    :param size: (H, W) of the image in pixels.
    :return: the instruments, in the order of `find_instruments`.
    """
    groups: list[list[int]] = []
    for label in _LONG_LABELS:
        chosen = np.flatnonzero(previous.labels == label)
        indices = [index for index, one in enumerate(instruments) if one.label == label]
        if not len(chosen) or not 1 < len(indices) <= _MAX_PIECES:
            continue
        pieces = [instruments[index] for index in indices]
        owners = _owners(pieces, previous.masks[chosen], size)
        for owner in np.flatnonzero(np.bincount(owners[owners >= 0]) > 1).tolist():
            members = [indices[n] for n in np.flatnonzero(owners == owner).tolist()]
            group = _connected(instruments, members, size)
            area_px = sum(instruments[index].area_px for index in group)
            if len(group) > 1 and area_px <= _GROWTH * previous.areas_px[chosen[owner]]:
                groups.append(group)
    return join_instruments(instruments, groups) if groups else instruments


def _owners(
    pieces: Sequence[Instrument], masks: NDArray[np.bool_], size: tuple[int, int]
) -> NDArray[np.intp]:
    """Return (n,) the only whole instrument in which each piece lies; -1 if none or several."""
    runs = [piece.runs for piece in pieces if piece.runs is not None]
    numbers = np.repeat(np.arange(len(runs)), [len(one.rows) for one in runs])
    _, rows, starts, ends = (np.concatenate(column) for column in zip(*runs))
    of_pieces = coarse_masks(numbers, rows, starts, ends, size)
    shares = of_pieces / of_pieces.sum(axis=(1, 2), keepdims=True)
    near = [cv2.dilate(whole.astype(np.uint8), np.ones((3, 3), np.uint8)) for whole in masks]
    inside = np.einsum('wrc,prc->wp', np.stack(near), shares) >= _INSIDE
    return np.where(inside.sum(axis=0) == 1, inside.argmax(axis=0), -1)


def _connected(
    instruments: Sequence[Instrument], members: list[int], size: tuple[int, int]
) -> list[int]:
    """Return the largest member and those that it reaches across covered gaps."""
    covers, ends = _gaps(instruments, members, size)
    rest = sorted(members, key=lambda index: -instruments[index].area_px)
    group = [rest.pop(0)]
    for index in group:  # it grows in this loop
        pairs = {other: sorted((index, other)) for other in rest}  # as `may_be_pieces` has them
        reached = [n for n, (a, b) in pairs.items() if covers.cover_gap(ends[a], ends[b])]
        group += reached
        rest = [other for other in rest if other not in reached]
    return group


def _gaps(
    instruments: Sequence[Instrument], members: list[int], size: tuple[int, int]
) -> tuple[_Covers, dict[int, Points]]:
    """Return what may cover gaps between members of a class, and the ends of these."""
    label = instruments[members[0]].label
    covers = _Covers([one for one in instruments if one.label != label], size)
    return covers, {index: _ends(instruments[index].runs) for index in members}


class _Covers:
    """
    Finds whether instruments cover the gap between two pieces.

    :param instruments: the instruments that may cover it.
    :param size: (H, W) of the image in pixels.
    """

    def __init__(self, instruments: Sequence[Instrument], size: tuple[int, int]) -> None:
        self._max_gap_px, width = _MAX_GAP * size[0], size[1]
        runs = [one.runs for one in instruments if one.runs is not None]
        # The first run lies before the image, so that every pixel has one before it.
        firsts = np.concatenate([[-1], *(one.rows * width + one.starts for one in runs)])
        lasts = np.concatenate([[-1], *(one.rows * width + one.ends - 1 for one in runs)])
        order = np.argsort(firsts)
        self._firsts, self._lasts, self._width = firsts[order], lasts[order], width

    def cover_gap(self, ends: Points, others: Points) -> bool:
        """Return whether the line between the nearest points is short, and covered."""
        gaps = np.hypot(*(ends[:, None] - others[None]).transpose(2, 0, 1))
        one, other = np.unravel_index(gaps.argmin(), gaps.shape)
        if gaps[one, other] > self._max_gap_px:
            return False
        line = np.rint(np.linspace(ends[one], others[other], 17)[1:-1]).astype(np.intp)
        pixels = line[:, 1] * self._width + line[:, 0]
        before = np.searchsorted(self._firsts, pixels, 'right') - 1
        return bool((pixels <= self._lasts[before]).mean() >= _COVERED_SHARE)


def _ends(runs: Runs | None) -> Points:
    """Return (n, 2) x and y of the first and the last pixel of some runs."""
    if runs is None:
        return np.empty((0, 2))
    count = len(runs.rows)
    some = runs.take(np.linspace(0, count - 1, min(count, _END_SAMPLE)).astype(np.intp))
    columns = np.concatenate([some.starts, some.ends - 1])
    return np.stack([columns, np.tile(some.rows, 2)], axis=1).astype(float)
