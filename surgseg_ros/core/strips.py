# SPDX-License-Identifier: Apache-2.0
"""Straight strips, such as shafts of instruments, fitted to the pixels of a mask."""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from surgseg_ros.core.segmentation import MIN_CONTACT, Field, Points, select

_BINS: Final = 24
_MIN_BINS: Final = 4
_ROUNDS: Final = 3
_CONVERGED_RAD: Final = 2e-2
"""The fit of a strip has converged if its direction changes by less than this."""

_NORMAL: Final = 1.4826
"""Standard deviation over median absolute deviation of a normal distribution."""

_STUB: Final = 2.0
"""Points may be a strip across their axis if they are at most this many times as long as wide."""


@dataclass(frozen=True)
class Strip:
    """
    A straight strip whose width may change linearly along it.

    :param origin: (2,) a point on its axis.
    :param direction: (2,) unit vector along the axis.
    :param start_px: start of the strip along the direction, from the origin.
    :param end_px: end of the strip.
    :param half_px: half of its width at the origin.
    :param slope: change of the half width along the direction.
    :param residual_px: standard deviation of its edges from straight lines.
    """

    origin: Points
    direction: Points
    start_px: float
    end_px: float
    half_px: float
    slope: float
    residual_px: float

    @property
    def normal(self) -> Points:
        """(2,) unit vector to the right of the direction, as seen in the image."""
        return np.array([-self.direction[1], self.direction[0]])

    @property
    def length_px(self) -> float:
        """Its length."""
        return self.end_px - self.start_px

    @property
    def width_px(self) -> float:
        """Mean width."""
        return 2 * float(self.half_at((self.start_px + self.end_px) / 2))

    @property
    def end(self) -> Points:
        """(2,) point on the axis at which the strip ends."""
        return np.asarray(self.origin + self.end_px * self.direction)

    @property
    def start(self) -> Points:
        """(2,) point on the axis at which the strip starts."""
        return np.asarray(self.origin + self.start_px * self.direction)

    def half_at(self, along_px: float | Points) -> float | Points:
        """Return half of the width at a position along the axis; at least half a pixel."""
        return np.maximum(self.half_px + self.slope * np.asarray(along_px), 0.5)

    def coordinates(self, points: Points) -> tuple[Points, Points]:
        """Return the coordinates of points along and across (positive: right), in pixels."""
        away = points - self.origin
        return away @ self.direction, away @ self.normal

    def reversed(self) -> 'Strip':
        """Return the same strip with the opposite direction."""
        ends = -self.end_px, -self.start_px
        return Strip(
            self.origin, -self.direction, *ends, self.half_px, -self.slope, self.residual_px
        )


def fit_strip(points: Points, field: Field, rim: Points | None = None) -> Strip:
    """
    Fit a strip: the bisector of two straight edges, each a robust fit to its points.

    :param points: (n, 2) on the field's grid, in reading order; at least three.
    :param field: the visible part of the image; edges at its border are ignored.
    :param rim: (m, 2) those of the points that lack a neighbour, in reading order, if known.
    :return: the strip; its direction is arbitrary.
    """
    step_px, origin = field.step, points.mean(axis=0)
    away = points - origin
    squares, vectors = np.linalg.eigh(away.T @ away)
    direction = vectors[:, 1]
    if squares[1] < _STUB**2 * squares[0]:
        direction = _inward(points, field, direction)
    rim = points if rim is None else rim
    rim = _ends_of_lines(rim, 0 if abs(direction[0]) > abs(direction[1]) else 1, step_px)
    for _ in range(_ROUNDS):
        normal = np.array([-direction[1], direction[0]])
        along, across = np.stack([direction, normal]) @ (rim - origin).T
        positions, sides = _edges(rim, along, across, field)  # (2, m) each: both edges
        if positions.shape[1] < _MIN_BINS:
            low, high = float(across.min()), float(across.max())
            middle, half = origin + (low + high) / 2 * normal, (high - low + step_px) / 2
            ends = float(along.min()), float(along.max())
            return Strip(middle, direction, *ends, half, 0.0, half)
        slopes, offsets = _median_lines(positions, sides)
        shift, lean = float(offsets.mean()), float(slopes.mean())
        origin = origin + shift * normal
        direction = direction + lean * normal
        direction /= math.hypot(*direction)
        if abs(lean) < _CONVERGED_RAD:
            break
    rests = np.abs(sides - slopes[:, None] * positions - offsets[:, None])
    residual = max(0.3, _NORMAL * float(_medians(rests.reshape(-1))))
    half, slope = float(offsets[1] - offsets[0]) / 2, float(slopes[1] - slopes[0]) / 2
    along = (rim - origin) @ direction
    pad = step_px / 2
    ends = float(along.min()) - pad, float(along.max()) + pad
    return Strip(origin, direction, *ends, half + pad, slope, residual)


def _inward(points: Points, field: Field, axis: Points) -> Points:
    """Return the direction from where points touch the border, if that is long; else the axis."""
    contact = select(points, field.touches(points))
    if len(contact) < MIN_CONTACT:
        return axis
    away = points.mean(axis=0) - contact.mean(axis=0)
    length = math.hypot(*away)
    is_long = 2 * math.hypot(*np.ptp(contact, axis=0)) >= float(np.ptp(points @ axis))
    return np.asarray(away / length) if is_long and length > field.step else axis


def _ends_of_lines(points: Points, axis: int, step_px: int) -> Points:
    """Return the first and the last point of each column (axis 0) or row (axis 1)."""
    lines = (points[:, axis] / step_px).astype(np.intp)
    lines -= lines.min()
    positions = points[:, 1 - axis]
    low = np.full(int(lines.max()) + 1, np.inf)
    high = low.copy()
    low[lines[::-1]], high[lines] = positions[::-1], positions  # the last one remains
    full = np.flatnonzero(low < np.inf)
    line = full * step_px + points[:, axis].min()
    ends = [np.stack([line, position[full]], 1) for position in (low, high)]
    return np.concatenate(ends)[:, :: 1 - 2 * axis]


def _edges(points: Points, along: Points, across: Points, field: Field) -> tuple[Points, Points]:
    """
    Find the points with the smallest and with the largest coordinate across, in bins along.

    :return: their (2, m) coordinates along and across; none at the border.
    """
    start = float(along.min())
    length = float(along.max()) - start
    count = max(1, min(_BINS, int(length / (1.5 * field.step))))
    bins = np.minimum(((along - start) / max(length, 1e-9) * count).astype(np.intp), count - 1)
    low = float(across.min())
    order = np.argsort(bins * (float(across.max()) - low + 1) + across - low, kind='stable')
    firsts = np.flatnonzero(np.diff(bins[order], prepend=-1))
    both = order[np.stack([firsts, np.append(firsts[1:], len(bins)) - 1])]
    inside = field.gaps(points[both]).min(axis=0) > field.step
    both = both[:, inside]
    return along[both], across[both]


def _median_lines(x: Points, y: Points) -> tuple[Points, Points]:
    """
    Fit lines to (m, n) points with n different x each; half of the points may be outliers.

    A. F. Siegel, Robust regression using repeated medians, Biometrika 69 (1982).
    """
    apart = ~np.eye(x.shape[1], dtype=bool)
    runs, rises = ((rows[:, None] - rows[:, :, None])[:, apart] for rows in (x, y))
    slopes = _medians(_medians((rises / runs).reshape(*x.shape, -1)))
    return slopes, _medians(y - slopes[:, None] * x)


def _medians(values: Points) -> Points:
    """Compute medians along the last axis; for few values faster than NumPy's median."""
    ordered, count = np.sort(values), values.shape[-1]
    return np.asarray((ordered[..., (count - 1) // 2] + ordered[..., count // 2]) / 2)


def strip_along(points: Points, direction: Points, step_px: float) -> Strip:
    """
    Create the strip of constant width in a given direction that contains the points.

    :param points: (n, 2) on a regular grid.
    :param direction: (2,) unit vector.
    :param step_px: distance between neighbours in the grid.
    :return: the strip; the middle of the points is on its axis.
    """
    origin = points.mean(axis=0)
    normal = np.array([-direction[1], direction[0]])
    along, across = (points - origin) @ direction, (points - origin) @ normal
    low, high = float(across.min()), float(across.max())
    pad = step_px / 2
    ends = float(along.min()) - pad, float(along.max()) + pad
    half = (high - low) / 2 + pad
    return Strip(origin + (low + high) / 2 * normal, direction, *ends, half, 0.0, half / 4)


def angle_between(first: Points, second: Points) -> float:
    """
    Compute the angle between two directions.

    :param first: (2,) unit vector.
    :param second: (2,) unit vector.
    :return: angle in radians, 0 to pi.
    """
    return math.acos(float(np.clip(first @ second, -1, 1)))
