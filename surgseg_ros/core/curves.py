# SPDX-License-Identifier: Apache-2.0
"""Fits the arc of a needle and the centre line of a thread to the pixels of a mask."""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.labels import BACKGROUND, NO_DECISION
from surgseg_ros.core.segmentation import Field, Points

LINE_POINTS: Final = 16
"""Number of points on the line of a thread."""

_MIN_POINTS: Final = 8
_NEAR_ARC: Final = 0.3
_END: Final = 0.1
"""Share of an arc beside a point of it by which the position of the point is fitted."""


class Arc(NamedTuple):
    """
    The arc of a needle.

    :param centre: (2,) centre of the circle, in pixels.
    :param radius_px: radius of the circle.
    :param start: (2,) one end.
    :param stop: (2,) the other end.
    :param middle: (2,) halfway along the arc.
    :param start_width: width near the first end, in arbitrary units.
    :param stop_width: width near the other end, in the same units.
    :param middle_width: width in the middle, in the same units.
    :param residual_px: standard deviation of the samples' distances from the circle.
    """

    centre: Points
    radius_px: float
    start: Points
    stop: Points
    middle: Points
    start_width: float
    stop_width: float
    middle_width: float
    residual_px: float


def fit_arc(points: Points, step_px: float) -> Arc | None:
    """
    Fit an arc to samples of a needle.

    :param points: (n, 2) x and y in pixels.
    :param step_px: distance between neighbouring samples.
    :return: the arc; None if there are too few samples, or if they lie on a line.
    """
    fitted = fit_circle(points) if len(points) >= _MIN_POINTS else None
    if fitted is None:
        return None
    centre, radius = fitted
    away = points - centre
    extent = float(np.hypot(*np.ptp(points, axis=0)))
    if radius > 4 * extent:
        return None
    angles = np.sort(np.arctan2(away[:, 1], away[:, 0]))
    gaps = np.diff(angles, append=angles[0] + 2 * math.pi)
    index = int(gaps.argmax())
    first, length = float(angles[(index + 1) % len(angles)]), 2 * math.pi - float(gaps[index])
    turned = (np.arctan2(away[:, 1], away[:, 0]) - first) % (2 * math.pi)
    distance = np.hypot(*away.T)

    def at(share: float) -> Points:
        """Return a point of the arc; the ends are half a step beyond the last samples."""
        near = np.abs(turned - share * length) <= _END * length
        value = _value_at_zero(turned[near] - share * length, distance[near]) or radius
        angle = first + share * length + (share - 0.5) * step_px / radius
        return centre + value * np.array([math.cos(angle), math.sin(angle)])

    start, middle, stop = at(0.0), at(0.5), at(1.0)
    near_px = _END * length * radius  # not an angle: obliquely seen needles are ellipses
    start_width, stop_width, both_sides = (
        float(np.count_nonzero(np.hypot(*(points - point).T) <= near_px))
        for point in (start, stop, middle)
    )
    residual = float(np.std(distance))
    widths = start_width, stop_width, both_sides / 2
    return Arc(centre, radius, start, stop, middle, *widths, residual)


def _value_at_zero(x: Points, y: Points) -> float:
    """Return the value at 0 of the line that fits (n,) y at (n,) x; 0 without any."""
    if not len(x):
        return 0.0
    middle = float(x.mean())
    square = float(((x - middle) ** 2).sum())
    slope = float(((x - middle) * y).sum()) / square if square > 0 else 0.0
    return float(y.mean()) - slope * middle


def fit_circle(points: Points) -> tuple[Points, float] | None:
    """
    Fit a circle by Taubin's method, which is hardly biased towards small radii.

    G. Taubin, Estimation of planar curves, surfaces and nonplanar space curves defined by implicit
    equations with applications to edge and range image segmentation, IEEE TPAMI 13 (1991).

    :param points: (n, 2) with n at least 3.
    :return: (2,) centre and radius; None if the points lie on a line.
    """
    middle = points.mean(axis=0)
    x, y = (points - middle).T
    z = x * x + y * y
    mean = float(z.mean())
    if mean <= 0:
        return None
    scaled = (z - mean) / (2 * math.sqrt(mean))
    _, _, vectors = np.linalg.svd(np.stack([scaled, x, y], axis=1), full_matrices=False)
    a, b, c = vectors[2]
    a = a / (2 * math.sqrt(mean))
    if abs(a) < 1e-9:
        return None
    d = -mean * a
    centre = np.array([-b, -c]) / (2 * a)
    radius = math.sqrt(max(0.0, b * b + c * c - 4 * a * d)) / (2 * abs(a))
    return centre + middle, radius


def lies_on(arc: Arc, points: Points) -> bool:
    """Return whether most of the points lie near the circle of an arc."""
    gaps = np.abs(np.hypot(*(points - arc.centre).T) - arc.radius_px)
    return float(np.median(gaps)) < _NEAR_ARC * arc.radius_px


def centre_line(points: Points, cell_px: float) -> Points:
    """
    Order the samples of a thread from one end to the other.

    :param points: (n, 2) samples on a grid; separate pieces are connected at their nearest points.
    :param cell_px: size of the grid cells; the samples in a cell become one point of the line.
    :return: (m, 2) the shortest path through the thread between its two most distant ends.
    """
    # Imported here: the node imports this module when it starts, and SciPy takes long to import.
    from scipy.sparse.csgraph import dijkstra
    from scipy.spatial import cKDTree

    indices = np.floor(points / cell_px).astype(np.intp)
    _, number = np.unique(indices[:, 0] * 1_000_000 + indices[:, 1], return_inverse=True)
    number = number.reshape(-1)
    count = np.bincount(number).astype(float)
    nodes = np.stack([np.bincount(number, points[:, axis]) / count for axis in (0, 1)], axis=1)
    if len(nodes) < 3:
        return nodes
    pairs = cKDTree(nodes).query_pairs(1.9 * cell_px, output_type='ndarray')
    graph = _graph(nodes, pairs)
    away = dijkstra(graph, True, 0)
    if np.isinf(away).any():
        graph = _graph(nodes, _connect_components(nodes, pairs))
        away = dijkstra(graph, True, 0)
    begin = int(away.argmax())
    away, before = dijkstra(graph, True, begin, return_predecessors=True)
    path = [int(away.argmax())]
    while path[-1] != begin:
        path.append(int(before[path[-1]]))
    return np.asarray(nodes[path[::-1]])


def _graph(nodes: Points, pairs: NDArray[np.intp]) -> Any:
    """Create the graph with an edge for each pair of nodes, as long as the pair is apart."""
    from scipy.sparse import csr_array

    lengths = np.hypot(*(nodes[pairs[:, 0]] - nodes[pairs[:, 1]]).T)
    froms, tos = np.concatenate([pairs, pairs[:, ::-1]]).T
    order = np.argsort(froms, kind='stable')  # sorted by row, as csr_array requires
    rows = np.searchsorted(froms[order], np.arange(len(nodes) + 1))
    return csr_array((np.tile(lengths, 2)[order], tos[order], rows), shape=(len(nodes),) * 2)


def _connect_components(nodes: Points, pairs: NDArray[np.intp]) -> NDArray[np.intp]:
    """Add the shortest edges that connect the separate components of the graph."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ones = np.ones(len(pairs), bool)
    graph = coo_array((ones, (pairs[:, 0], pairs[:, 1])), shape=(len(nodes),) * 2)
    count, part = connected_components(graph, directed=False)
    for _ in range(count - 1):
        first, others = np.flatnonzero(part == part[0]), np.flatnonzero(part != part[0])
        gaps = np.hypot(*(nodes[first][:, None] - nodes[others][None]).transpose(2, 0, 1))
        one, other = np.unravel_index(gaps.argmin(), gaps.shape)
        pairs = np.concatenate([pairs, [[first[one], others[other]]]])
        part[part == part[others[other]]] = part[0]
    return pairs


def resample(line: Points, count: int = LINE_POINTS) -> Points:
    """
    Place points at equal distances along a line.

    :param line: (n, 2) with n at least 1.
    :param count: number of points.
    :return: (count, 2) points, including the first and the last point of the line.
    """
    travelled = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(line, axis=0).T))])
    at = np.linspace(0, travelled[-1], count)
    return np.stack([np.interp(at, travelled, line[:, axis]) for axis in (0, 1)], axis=1)


LINE_CELLS: Final = 90
"""Number of cells of `centre_line` per image height."""

_GAP_CELLS: Final = 14.0
"""Widest gap between two pieces of the same thread, in cells, if tissue covers it."""

_COVERED_GAP_CELLS: Final = 36.0
"""Widest gap between two pieces of the same thread, in cells, if a tool covers it."""

_BODY: Final = 400

_TOUCH_CELLS: Final = 1.5
"""Largest distance, in cells, from the end of a piece to a sample of one that it touches."""

_TURN_RAD: Final = 0.9

_ARC_TURN_RAD: Final = 1.45
"""Largest turn at both ends of a gap if they are alike, as those of an arc are."""


class ThreadEnds(NamedTuple):
    """
    The ends of a piece of thread: two, or one if the piece is hardly longer than wide.

    :param ends: (2,) x and y of each end, in pixels.
    :param directions: (2,) direction of each end, pointing outwards; not normalized.
    :param body: (n, 2) at most _BODY of its samples.
    """

    ends: tuple[Points, ...]
    directions: tuple[Points, ...]
    body: Points


def thread_ends(points: Points, field: Field) -> ThreadEnds:
    """
    Find the ends of a piece of thread.

    :param points: (n, 2) samples of the piece.
    :param field: the visible part of the image.
    :return: its ends.
    """
    line = centre_line(points, field.size[0] / LINE_CELLS)
    body = points[:: len(points) // _BODY + 1]
    if len(line) < 2:
        return ThreadEnds((line[0],), (np.zeros(2),), body)
    span = min(3, len(line) - 1)
    return ThreadEnds(
        (line[0], line[-1]), (line[0] - line[span], line[-1] - line[-1 - span]), body
    )


def is_same_thread(thread: ThreadEnds, piece: ThreadEnds, mask: NDArray[np.uint8]) -> bool:
    """
    Return whether a piece of thread continues another one across a short gap.

    :param thread: ends of the one piece.
    :param piece: ends of the other piece.
    :param mask: (H, W) uint8 class index, in which other objects may cover the gap.
    :return: whether one end of each piece points at the other piece, or an end touches it.
    """
    cell = mask.shape[0] / LINE_CELLS
    if _touches(thread, piece, cell) or _touches(piece, thread, cell):
        return True
    for start, out in zip(thread.ends, thread.directions):
        for stop, back in zip(piece.ends, piece.directions):
            gap = stop - start
            length = math.hypot(*gap)
            if length > _COVERED_GAP_CELLS * cell:
                continue
            if length > _GAP_CELLS * cell:
                line = np.rint(np.linspace(start, stop, 9)[1:-1]).astype(np.intp)
                between = mask[line[:, 1], line[:, 0]]
                if np.isin(between, (BACKGROUND, NO_DECISION)).mean() >= 0.5:
                    continue
            turns = _turn(out, gap), _turn(gap, -back)
            larger = max(map(abs, turns))
            is_arc = larger < _ARC_TURN_RAD and abs(turns[0] - turns[1]) < _TURN_RAD
            if larger < _TURN_RAD or is_arc:
                return True
    return False


def _touches(thread: ThreadEnds, piece: ThreadEnds, cell: float) -> bool:
    """Return whether an end of one is at the other, as where a loop of thread crosses itself."""
    gaps = [float(np.hypot(*(piece.body - end).T).min()) for end in thread.ends]
    return min(gaps) < _TOUCH_CELLS * cell


def _turn(first: Points, second: Points) -> float:
    """Compute the angle from one direction to another, -pi to pi; 0 if either is zero."""
    cross = float(first[0] * second[1] - first[1] * second[0])
    return math.atan2(cross, float(first @ second))
