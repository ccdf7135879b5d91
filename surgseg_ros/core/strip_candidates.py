# SPDX-License-Identifier: Apache-2.0
"""Strips between straight edges of a region, of which shafts that touch or cross may consist."""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.labels import BACKGROUND
from surgseg_ros.core.segmentation import Points, select
from surgseg_ros.core.strips import Strip

_MAX_FILLED, _MAX_CANDIDATES = 24, 12
_MAX_EDGES: Final = 16
_MIN_EDGE: Final = 6.0
"""Shortest edge, in steps of the grid."""

_TOLERANCE: Final = 1.3
"""Largest distance between an outline and its polygon, in steps of the grid."""

_FREE: Final = 0.6
"""Least share of an edge beside which there is tissue; elsewhere something covers the region."""

_WEDGE: Final = math.cos(0.45)
"""Cosine of the largest angle between the two edges of a strip."""

_FILLED: Final = 0.8
"""Least share of the width of a strip that is not tissue, everywhere along it."""

_STUB: Final = 0.8
"""Shortest strip, in widths."""

_MARGIN: Final = 0.75
"""A strip contains points up to this many steps of the grid beside it."""

_SAMPLES: Final = 500
"""Candidates are compared by about this many points of a region."""

_ACROSS: Final = np.linspace(-0.9, 0.9, 9)
_ALONG: Final = np.linspace(0.1, 0.9, 9)

_TISSUE, _OUTSIDE = 0, 2


class StripArrays(NamedTuple):
    """
    Several strips, each as `Strip` describes it.

    :param origins: (k, 2) a point on each axis.
    :param directions: (k, 2) unit vectors along them.
    :param starts_px: (k,) where they start.
    :param ends_px: (k,) where they end.
    :param halves_px: (k,) half of the width at the origin.
    :param slopes: (k,) change of the half width along the direction.
    """

    origins: Points
    directions: Points
    starts_px: Points
    ends_px: Points
    halves_px: Points
    slopes: Points

    @classmethod
    def of(cls, *strips: Strip) -> StripArrays:
        """Return the arrays of strips."""
        rows = [(s.start_px, s.end_px, s.half_px, s.slope) for s in strips]
        origins, directions = [s.origin for s in strips], [s.direction for s in strips]
        return cls(np.array(origins), np.array(directions), *np.array(rows).T)

    def strip(self, number: int) -> Strip:
        """Return one of them."""
        start, end, half, slope = (float(values[number]) for values in self[2:])
        return Strip(self.origins[number], self.directions[number], start, end, half, slope, 1.0)

    def take(self, chosen: Any) -> StripArrays:
        """Select some of them, by a slice, indices or a mask."""
        return StripArrays(*(values[chosen] for values in self))

    def half_at(self, along_px: Points) -> Points:
        """Return half of the width at (..., k) positions along each strip."""
        return np.maximum(self.halves_px + self.slopes * along_px, 0.5)

    def coordinates(self, points: Points) -> tuple[Points, Points]:
        """Return (n, k) coordinates of (n, 2) points along and across each strip."""
        (u, v), (x, y) = self.directions.T, self.origins.T
        along = points @ np.stack([u, v]) - (x * u + y * v)
        across = points @ np.stack([-v, u]) - (y * u - x * v)
        return along, across

    def within(self, along: Points, across: Points, step: int) -> NDArray[np.bool_]:
        """Return which points, given by (n, k) coordinates, are not beside a strip."""
        return np.abs(across) <= self.halves_px + self.slopes * along + _MARGIN * step


class TissueGrid:
    """
    Which points of the grid are tissue.

    :param grid: (h, w) the mask at the points of the grid, uint8 class index.
    :param step: distance between neighbouring points, in pixels.
    """

    def __init__(self, grid: NDArray[np.uint8], step: int) -> None:
        self.step = step
        height, width = grid.shape
        self._states = np.full((height + 2, width + 2), _OUTSIDE, np.uint8)
        self._states[1:-1, 1:-1] = grid != BACKGROUND

    def states(self, columns: Points, rows: Points) -> NDArray[np.uint8]:
        """Return _TISSUE, _OUTSIDE (of the image) or another value for cells of the grid."""
        height, width = self._states.shape
        columns, rows = np.clip(columns, -1, width - 2), np.clip(rows, -1, height - 2)
        samples = ((rows + 1) * width + columns + 1).astype(np.intp)
        return np.asarray(self._states.reshape(-1).take(samples))

    def filled_shares(self, strips: StripArrays, along: Points) -> Points:
        """
        Compute which share of the width of strips is not tissue.

        :param strips: k strips.
        :param along: (n, k) positions along each.
        :return: (n, k) shares; NaN beyond the image.
        """
        across = strips.half_at(along)[..., None] * _ACROSS  # (n, k, 9)
        (x, y), (u, v) = strips.origins.T, strips.directions.T
        columns = (x + along * u)[..., None] - v[:, None] * across
        rows = (y + along * v)[..., None] + u[:, None] * across
        states = self.states(np.floor(columns / self.step), np.floor(rows / self.step))
        seen = np.count_nonzero(states != _OUTSIDE, axis=2)
        tissue = np.count_nonzero(states == _TISSUE, axis=2)
        return np.where(seen > 0, 1 - tissue / np.maximum(seen, 1), np.nan)

    def has_tissue_to_left(self, edges: Points) -> NDArray[np.bool_]:
        """Return (n,) whether tissue is to the left of (n, 2, 2) edges, given in cells."""
        along = edges[:, 1] - edges[:, 0]
        outwards = 2 * np.stack([-along[:, 1], along[:, 0]], 1) / np.hypot(*along.T)[:, None]
        samples = (edges[:, 0] + outwards)[:, None] + _ALONG[:, None] * along[:, None]
        states = self.states(*np.rint(samples).transpose(2, 0, 1))
        return np.asarray(np.count_nonzero(states == _TISSUE, axis=1) >= _FREE * len(_ALONG))


class Candidates(NamedTuple):
    """
    The strips of which a region may consist, largest first.

    :param strips: k strips.
    :param covered: (k, m) which points of a sample of the region each contains.
    """

    strips: StripArrays
    covered: NDArray[np.bool_]


def find_candidates(
    points: Points, sample: Points, tissue: TissueGrid, min_points: float
) -> Candidates:
    """
    Find the strips between two edges of a region that it fills.

    :param points: (n, 2) of the region, on the grid.
    :param sample: (m, 2) some of them, evenly distributed.
    :param tissue: what surrounds the region.
    :param min_points: smallest number of points of the sample in a strip.
    :return: the candidates.
    """
    strips = _between(_edges(points, tissue))
    covered = strips.within(*strips.coordinates(sample), tissue.step).T
    chosen = _largest(covered, min_points, _MAX_FILLED)
    strips, covered = fill(strips.take(chosen), sample, tissue)
    lengths = strips.ends_px - strips.starts_px
    widths = 2 * strips.half_at((strips.starts_px + strips.ends_px) / 2)
    covered[lengths < _STUB * widths] = False
    chosen = _largest(covered, min_points, _MAX_CANDIDATES)
    return Candidates(strips.take(chosen), covered[chosen])


def _largest(covered: NDArray[np.bool_], min_points: float, count: int) -> NDArray[np.intp]:
    """List the rows of a (k, m) mask with the most points, if they have at least some."""
    counts = np.count_nonzero(covered, axis=1)
    order = np.argsort(-counts, kind='stable')[:count]
    return np.asarray(order[counts[order] >= max(min_points, 1)])


def fill(
    strips: StripArrays, points: Points, tissue: TissueGrid, samples: int = 64
) -> tuple[StripArrays, NDArray[np.bool_]]:
    """
    Extend strips along their axes, and cut them where tissue begins.

    :param strips: k strips.
    :param points: (n, 2) of the region.
    :param tissue: what surrounds the region.
    :param samples: number of positions along a strip at which its width is examined.
    :return: the strips, and the (k, n) masks of the points that each contains; one that contains
        none has no length.
    """
    along, across = strips.coordinates(points)
    inside = strips.within(along, across, tissue.step)
    low, high = _range(along, inside)
    spacing = (high - low) / samples
    at = low + (np.arange(samples)[:, None] + 0.5) * spacing
    is_gap = tissue.filled_shares(strips, at) < _FILLED  # none beyond the image
    middle, margin = (strips.starts_px + strips.ends_px) / 2, spacing / 2
    first = np.where(is_gap & (at <= middle), at, -np.inf).max(axis=0) + margin
    last = np.where(is_gap & (at >= middle), at, np.inf).min(axis=0) - margin
    inside &= (along >= first) & (along <= last)
    starts, ends = _range(along, inside)
    return strips._replace(starts_px=starts, ends_px=ends), inside.T


def _range(along: Points, inside: NDArray[np.bool_]) -> tuple[Points, Points]:
    """Return the smallest and largest of (n, k) positions inside, by column; else 0."""
    low = np.where(inside, along, np.inf).min(axis=0)
    high = np.where(inside, along, -np.inf).max(axis=0)
    found = np.isfinite(low)
    return np.where(found, low, 0.0), np.where(found, high, 0.0)


def sample_evenly(points: Points, step: int) -> Points:
    """
    Select the points of a region on a coarser grid.

    :param points: (n, 2) on a grid.
    :param step: distance between neighbours, in pixels.
    :return: about _SAMPLES of them, or all if they are fewer.
    """
    spacing = math.isqrt(len(points) // _SAMPLES) + 1
    if spacing == 1:
        return points
    columns, rows = (points.T / step).astype(np.int32)
    chosen = (columns // spacing * spacing == columns) & (rows // spacing * spacing == rows)
    return select(points, chosen)


def _edges(points: Points, tissue: TissueGrid) -> Points:
    """Find (n, 2, 2) straight edges beside tissue; all have the region on one side."""
    step = tissue.step
    columns, rows = (points.T / step).astype(np.int32)
    (left, top), (right, bottom) = (
        (int(columns.min()), int(rows.min())),
        (int(columns.max()), int(rows.max())),
    )
    image = np.zeros((bottom - top + 1, right - left + 1), np.uint8)
    image.reshape(-1)[(rows - top) * image.shape[1] + columns - left] = 1
    outlines, _ = cv2.findContours(image, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    polygons = [
        cv2.approxPolyDP(outline, _TOLERANCE, True).reshape(-1, 2)
        for outline in outlines
        if len(outline) >= 2 * _MIN_EDGE
    ]
    if not polygons:
        return np.empty((0, 2, 2))
    starts = np.concatenate(polygons)
    stops = np.concatenate([np.roll(polygon, -1, axis=0) for polygon in polygons])
    edges = np.stack([starts, stops], 1) + np.array([left, top], float)
    lengths = np.hypot(*(edges[:, 1] - edges[:, 0]).T)
    order = np.argsort(-lengths, kind='stable')[: np.count_nonzero(lengths >= _MIN_EDGE)]
    free = edges[order][tissue.has_tissue_to_left(edges[order])][:_MAX_EDGES]
    return np.asarray(free * step + step // 2)


def _between(edges: Points) -> StripArrays:
    """Return the strips between two of (n, 2, 2) edges that are opposite sides of one."""
    away = edges[:, 1] - edges[:, 0]
    away /= np.hypot(*away.T)[:, None]
    one, other = np.triu_indices(len(edges), 1)
    facing = -(away[one] * away[other]).sum(axis=1) >= _WEDGE  # opposite edges run opposite ways
    one, other = one[facing], other[facing]
    directions = away[one] - away[other]
    directions /= np.hypot(*directions.T)[:, None]
    normals = np.stack([-directions[:, 1], directions[:, 0]], 1)
    corners = np.concatenate([edges[one], edges[other, ::-1]], axis=1)  # (k, 4, 2)
    origins = corners.mean(axis=1)
    out = corners - origins[:, None]
    along, across = ((out * axes[:, None]).sum(axis=2) for axes in (directions, normals))
    slopes = (across[:, 1::2] - across[:, ::2]) / (along[:, 1::2] - along[:, ::2])
    offsets = across[:, ::2] - slopes * along[:, ::2]
    origins = origins + offsets.mean(axis=1)[:, None] * normals
    halves, slopes = (offsets[:, 0] - offsets[:, 1]) / 2, (slopes[:, 0] - slopes[:, 1]) / 2
    found = StripArrays(origins, directions, along.min(axis=1), along.max(axis=1), halves, slopes)
    return found.take(halves > 0)  # elsewhere, the region is not between them
