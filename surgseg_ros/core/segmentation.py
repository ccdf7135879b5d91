# SPDX-License-Identifier: Apache-2.0
"""The segmentation of an image, the region of interest, and its border; cheap to import."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.labels import NO_DECISION

if TYPE_CHECKING:
    from surgseg_ros.core.detections import Instrument


ROI_FIXED: Final = 'fixed'
ROI_AUTO: Final = 'auto'
ROI_MODES: Final = (ROI_FIXED, ROI_AUTO)
"""Sources of the region of interest: the parameter `roi`, or the images."""

SIDE_BY_SIDE: Final = 'side_by_side'
TOP_BOTTOM: Final = 'top_bottom'
STEREO_LAYOUTS: Final = ('none', SIDE_BY_SIDE, TOP_BOTTOM)
"""Arrangements of the views of two cameras in one image."""

CAMERAS: Final = ('left', 'right')
"""Names of the first and the second camera, and of their folders in the folder of a video."""


def split_views(image: NDArray[Any], layout: str) -> tuple[NDArray[Any], ...]:
    """
    Split an image into the views of its cameras, without a copy.

    :param image: (H, W, …).
    :param layout: one of STEREO_LAYOUTS.
    :return: the image itself; or the left and right half, or the upper and lower one.
    :raises ValueError: if its width or height cannot be halved.
    """
    if layout not in (SIDE_BY_SIDE, TOP_BOTTOM):
        return (image,)
    axis = 1 if layout == SIDE_BY_SIDE else 0
    if image.shape[axis] % 2:
        raise ValueError(
            f'an image of {image.shape[1]}x{image.shape[0]} has an odd '
            f'{"width" if axis else "height"}: stereo_layout {layout} needs two halves of the '
            'same size; crop the image at its source, or set stereo_layout to none'
        )
    first, second = np.split(image, 2, axis)
    return first, second


@dataclass(frozen=True)
class Circle:
    """
    A circle in an image.

    :param x_px: column of its centre.
    :param y_px: row of its centre.
    :param radius_px: distance of the farthest pixels in it.
    """

    x_px: float
    y_px: float
    radius_px: float

    def distances(self, rows: NDArray[Any], columns: NDArray[Any]) -> NDArray[np.float64]:
        """
        Return the distances of pixels from the centre.

        :param rows: their rows.
        :param columns: their columns, broadcastable with the rows.
        :return: the distances in pixels.
        """
        return np.asarray(np.hypot(columns - self.x_px, rows - self.y_px), np.float64)


@dataclass(frozen=True)
class Roi:
    """
    Region of interest: the part of an image that the endoscope fills, in pixels.

    :param x_px: first column.
    :param y_px: first row.
    :param width_px: columns.
    :param height_px: rows.
    :param circle: if given, only the pixels in this circle are of interest.
    """

    x_px: int
    y_px: int
    width_px: int
    height_px: int
    circle: Circle | None = None

    def view(self, plane: NDArray[Any]) -> NDArray[Any]:
        """
        Select this part of an array, without a copy.

        :param plane: (H, W, …).
        :return: (height_px, width_px, …).
        :raises ValueError: if it reaches beyond the array.
        """
        self.check(plane.shape[0], plane.shape[1])
        bottom, right = self.y_px + self.height_px, self.x_px + self.width_px
        return plane[self.y_px : bottom, self.x_px : right]

    def check(self, height: int, width: int) -> None:
        """
        Check that an image contains it.

        :param height: rows of the image.
        :param width: columns of the image.
        :raises ValueError: if it reaches beyond the image.
        """
        bottom, right = self.y_px + self.height_px, self.x_px + self.width_px
        if not (0 <= self.y_px < bottom <= height and 0 <= self.x_px < right <= width):
            raise ValueError(
                f'{self} reaches beyond the image of {width}x{height} pixels: '
                'set roi to [x, y, width, height] inside it, or to [0, 0, 0, 0] for all of it'
            )

    def outside(self) -> NDArray[np.uint8]:
        """
        Return which pixels of the view are outside the circle.

        :return: (height_px, width_px) uint8, read-only: NO_DECISION outside, 0 in the circle.
        """
        return _outside(self)


@lru_cache(maxsize=8)
def _outside(roi: Roi) -> NDArray[np.uint8]:
    plane = np.zeros((roi.height_px, roi.width_px), np.uint8)
    if roi.circle is not None:
        rows, columns = np.ogrid[: roi.height_px, : roi.width_px]
        distances = roi.circle.distances(rows + roi.y_px, columns + roi.x_px)
        plane[distances > roi.circle.radius_px] = NO_DECISION
    plane.flags.writeable = False
    return plane


@dataclass(frozen=True)
class GridConfidence:
    """
    Confidence at the points of the network's grid, which is coarser than the image.

    :param grid: (h, w) uint8, probability of the likeliest class times 255.
    :param roi: the part of the image that the grid covers.
    """

    grid: NDArray[np.uint8]
    roi: Roi

    def sum_runs(
        self, rows: NDArray[np.intp], starts: NDArray[np.intp], ends: NDArray[np.intp]
    ) -> NDArray[np.float64]:
        """
        Sum the confidence over runs of pixels; a pixel has the confidence of its grid point.

        :param rows: (n,) row of each run, within the roi.
        :param starts: (n,) first column of each run.
        :param ends: (n,) column after the last of each run.
        :return: (n,) sums, times 255.
        """
        height, width = self.grid.shape
        scale = width / self.roi.width_px
        lines = (2 * (rows - self.roi.y_px) + 1) * height // (2 * self.roi.height_px)

        def before(columns: NDArray[np.intp]) -> NDArray[np.float64]:
            position = (columns - self.roi.x_px) * scale
            indices = np.minimum(position.astype(np.intp), width - 1)
            rest = (position - indices) * self.grid[lines, indices]
            return np.asarray(self._sums[lines, indices] + rest, np.float64)

        sums: NDArray[np.float64] = (before(ends) - before(starts)) / scale
        return sums

    @property
    def mean(self) -> float:
        """Mean over the roi, 0..1; all points of the grid have the same weight."""
        return float(self.grid.mean()) / 255

    @cached_property
    def _sums(self) -> NDArray[np.uint32]:
        """(h, w) of all points to the left in the row."""
        sums = np.cumsum(self.grid, 1, np.uint32)
        return np.asarray(sums - self.grid, np.uint32)


@dataclass(frozen=True)
class Segmentation:
    """
    The segmentation of one image.

    :param mask: (H, W) uint8, the class index of each pixel, or NO_DECISION (255).
    :param confidence: (H, W) uint8, the probability of the chosen class times 255; None unless
        requested.
    :param stage_ms: milliseconds by stage, in the order of execution.
    :param grid_confidence: the confidence at the network's own resolution, which is cheaper and
        enough for the scores of instruments; None unless requested.
    :param instruments: the instruments in the mask, ordered by label; None unless requested. If no
        pixel is decided, a single one with label NO_DECISION, score 0 and the whole image as box.
    :param roi: the part of the image that was segmented; None for the whole image.
    """

    mask: NDArray[np.uint8]
    confidence: NDArray[np.uint8] | None = None
    stage_ms: Mapping[str, float] = field(default_factory=dict)
    grid_confidence: GridConfidence | None = None
    instruments: tuple[Instrument, ...] | None = None
    roi: Roi | None = None

    @classmethod
    def undecided(cls, size: tuple[int, int]) -> Segmentation:
        """
        Create the result for an image without a decision.

        :param size: (H, W) of the image in pixels.
        :return: a mask of NO_DECISION with confidence 0.
        """
        return cls(np.full(size, NO_DECISION, np.uint8), np.zeros(size, np.uint8))


Points = NDArray[np.float64]
"""
(n, 2) x and y in pixels; integers are centres of pixels.

Many points are stored column by column, as the transpose of a (2, n) array: NumPy reduces rows of
two numbers many times more slowly.
"""


def select(points: Points, chosen: NDArray[np.bool_]) -> Points:
    """
    Select points; the result is stored column by column, and faster than `points[chosen]`.

    :param points: (n, 2).
    :param chosen: (n,) whether each is selected.
    :return: (m, 2).
    """
    return np.asarray(np.compress(chosen, points.T, axis=1).T)


GRID_ROWS: Final = 270
"""Shapes are analysed on a grid of every nth row and column, with about this many rows."""

ROUND_PX: Final = 2.0
"""A circle that is found in images may be larger than the content by this much."""

MIN_CONTACT: Final = 3
"""Minimum number of samples with which a region touches the border."""


@dataclass(frozen=True)
class Field:
    """
    The part of an image in which instruments are visible.

    :param size: (H, W) of the image in pixels.
    :param roi: the part of the image that was segmented; None for the whole image.
    """

    size: tuple[int, int]
    roi: Roi | None = None

    @cached_property
    def step(self) -> int:
        """Distance between neighbouring samples of the grid, in pixels."""
        return max(1, round(self.size[0] / GRID_ROWS))

    @cached_property
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

    @property
    def round_px(self) -> float:
        """How far the content may end inside the border: ROUND_PX if it is a circle, else 0."""
        return ROUND_PX if self.roi is not None and self.roi.circle is not None else 0.0

    def gaps(self, points: Points) -> Points:
        """
        Compute the distances of points from the border.

        :param points: (..., 2) x and y in pixels.
        :return: (...) distances in pixels; negative outside the border.
        """
        first, last = self.limits
        sides = np.minimum(points - first, last - points)
        gaps = np.minimum(sides[..., 0], sides[..., 1])  # many times faster than min(axis=-1)
        if self.roi is None or self.roi.circle is None:
            return np.asarray(gaps)
        circle = self.roi.circle
        away = circle.distances(points[..., 1], points[..., 0])
        return np.asarray(np.minimum(gaps, circle.radius_px - away))

    def touches(self, points: Points) -> NDArray[np.bool_]:
        """
        Find the points that are next to the border.

        :param points: (n, 2) x and y in pixels, on the grid.
        :return: (n,) whether the distance of each from the border is at most a step of the grid;
            and ROUND_PX more if the border is a circle.
        """
        return np.asarray(self.gaps(points) <= 1.01 * self.step + self.round_px)

    def contacts(self, points: Points) -> list[Points]:
        """
        Find where points touch the border.

        :param points: (n, 2) x and y in pixels, on the grid.
        :return: the (m, 2) points of each contact, longest first.
        """
        at_border = select(points, self.touches(points))
        if not len(at_border):
            return []
        away = at_border - self.middle
        around = at_border[np.argsort(np.arctan2(away[:, 1], away[:, 0]), kind='stable')]
        steps = np.diff(around, axis=0, append=around[:1])
        cut = np.flatnonzero(np.hypot(*steps.T) > 3 * self.step)
        if not len(cut):
            return [at_border]
        turned = np.roll(around, -int(cut[-1]) - 1, axis=0)
        groups = np.split(turned, (cut[:-1] - cut[-1]) % len(around))
        return sorted((g for g in groups if len(g) >= MIN_CONTACT), key=len, reverse=True)

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
