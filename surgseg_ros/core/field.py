# SPDX-License-Identifier: Apache-2.0
"""The part of an image in which instruments are visible, and its border, which cuts them off."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.segmentation import Roi

Points = NDArray[np.float64]
"""(n, 2) x and y in pixels; integers are centres of pixels."""

GRID_ROWS: Final = 270
"""Shapes are analysed on a grid of every nth row and column, with about this many rows."""


@dataclass(frozen=True)
class Field:
    """
    The part of an image in which instruments are visible.

    :param size: (H, W) of the image in pixels.
    :param roi: the part of the image that was segmented; None for the whole image.
    """

    size: tuple[int, int]
    roi: Roi | None = None

    @property
    def step(self) -> int:
        """Distance between neighbouring samples of the grid, in pixels."""
        return max(1, round(self.size[0] / GRID_ROWS))

    @property
    def limits(self) -> tuple[Points, Points]:
        """(2,) centre of the first pixel, and (2,) centre of the last pixel."""
        roi = self.roi or Roi(0, 0, self.size[1], self.size[0])
        first = np.array([roi.x_px, roi.y_px], float)
        return first, first + np.array([roi.width_px - 1, roi.height_px - 1])

    @property
    def middle(self) -> Points:
        """(2,) centre of the field."""
        first, last = self.limits
        return np.asarray((first + last) / 2)

    def gaps(self, points: Points) -> Points:
        """
        Compute the distances of points from the border.

        :param points: (..., 2) x and y in pixels.
        :return: (...) distances in pixels; negative outside the border.
        """
        first, last = self.limits
        gaps = np.minimum(points - first, last - points).min(axis=-1)
        if self.roi is None or self.roi.circle is None:
            return np.asarray(gaps)
        circle = self.roi.circle
        away = circle.distances(points[..., 1], points[..., 0])
        return np.asarray(np.minimum(gaps, circle.radius_px - away))

    def border_hit(self, start: Points, direction: Points) -> Points:
        """
        Intersect a ray with the border; a ray that starts outside ends where it leaves the field.

        :param start: (2,) x and y in pixels.
        :param direction: (2,) unit vector.
        :return: (2,) the intersection; `start` if the ray does not meet the border.
        """
        first, last = self.limits
        with np.errstate(divide='ignore', invalid='ignore'):
            steps = (np.where(direction > 0, last, first) - start) / direction
        length = float(steps[np.isfinite(steps) & (direction != 0)].min(initial=np.inf))
        if self.roi is not None and self.roi.circle is not None:
            circle = self.roi.circle
            away = start - [circle.x_px, circle.y_px]
            along = float(away @ direction)
            square = along**2 - float(away @ away) + circle.radius_px**2
            length = min(length, math.sqrt(max(0.0, square)) - along)
        return np.asarray(start + max(0.0, length) * direction)
