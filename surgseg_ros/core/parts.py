# SPDX-License-Identifier: Apache-2.0
"""Connected components of a mask that robotic tools consist of, sampled on a grid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.labels import BACKGROUND, NEEDLE, NO_DECISION, THREAD, WRIST
from surgseg_ros.core.segmentation import Points, select
from surgseg_ros.core.strips import Strip

CLEAR: Final = (BACKGROUND, NO_DECISION)
"""Labels that do not cover an instrument: tissue does not, and of NO_DECISION nothing is known."""

IS_CLEAR: Final = np.isin(np.arange(256), CLEAR)
"""(256,) whether each value of a mask is in CLEAR."""

MIN_SAMPLES: Final = 6
SAMPLE: Final = 96
_NEXT: Final = 1.5
"""Neighbours are less than this many steps of the grid apart, in x and in y."""

_CROSS: Final = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
_BRIDGE: Final = np.ones((9, 9), np.uint8)
"""A needle or thread that is narrower than this, in steps of the grid, cuts no part in two."""

_WRIST_END: Final = 0.5
"""Jaws start in the part of the wrist beyond this share of its length."""

MAX_PARTS: Final = 40
"""The largest parts are examined: ten tools with shaft, wrist and two jaws."""

NOISE_PARTS: Final = 50
"""A mask with more parts than this is noise, of which none are examined."""


@dataclass(frozen=True)
class Part:
    """
    A connected component of one class, or the share of it that belongs to one instrument.

    What a needle or a thread separates is connected.

    :param label: its class.
    :param points: (n, 2) x and y in pixels, samples on the grid.
    :param step: distance between neighbouring samples, in both directions.
    :param strip: the strip of a shaft; it points to the tip once that is known.
    :param is_rim: (n,) which points are at its edge; None if that is not known yet.
    """

    label: int
    points: Points
    step: int
    strip: Strip | None = None
    is_rim: NDArray[np.bool_] | None = None

    @cached_property
    def rim(self) -> Points:
        """(m, 2) the points at the edge of the part: those that lack a neighbour."""
        if self.is_rim is not None:
            return select(self.points, self.is_rim)
        columns, rows = (self.points.T / self.step).astype(np.intp)
        columns, rows = columns - columns.min() + 1, rows - rows.min() + 1
        width = int(columns.max()) + 2
        flat = rows * width + columns
        own = np.zeros((int(rows.max()) + 2, width), np.uint8)
        own.reshape(-1)[flat] = 1
        return select(self.points, cv2.erode(own, _CROSS).reshape(-1).take(flat) == 0)

    @cached_property
    def sample(self) -> Points:
        """(m, 2) at most SAMPLE points of its edge."""
        return self.rim[:: -(-len(self.rim) // SAMPLE)]

    @cached_property
    def box(self) -> tuple[float, float, float, float]:
        """Smallest x and y, and largest x and y of its points."""
        (left, top), (right, bottom) = self.rim.min(axis=0).tolist(), self.rim.max(axis=0).tolist()
        return left, top, right, bottom

    @property
    def middle(self) -> Points:
        """(2,) centroid of its points."""
        return np.asarray(self.points.mean(axis=0))


@dataclass
class ToolParts:
    """
    The parts of one robotic tool.

    :param shafts: pieces of its shaft.
    :param wrists: pieces of its wrist.
    :param claspers: pieces of its jaws.
    :param is_shared: whether a jaw touches several tools, or its jaws or wrist were cut out of a
        component that does, so that jaws may belong to another tool.
    :param is_continued: whether its parts are those of a tool of the last image.
    """

    shafts: list[Part]
    wrists: list[Part]
    claspers: list[Part]
    is_shared: bool = False
    is_continued: bool = False

    @property
    def parts(self) -> list[Part]:
        """All parts of the tool."""
        return [*self.shafts, *self.wrists, *self.claspers]

    @property
    def strip(self) -> Strip | None:
        """The strip of its shaft; None without one."""
        return self.shafts[0].strip if self.shafts else None

    @cached_property
    def width_px(self) -> float:
        """The width of its shaft at the end; without a shaft, estimated from its parts."""
        if self.strip is not None:
            return 2 * float(self.strip.half_at(self.strip.end_px))
        points = np.concatenate([part.points for part in self.parts])
        spread = points - points.mean(axis=0)
        minimum = float(np.linalg.eigvalsh(spread.T @ spread / len(points))[0])
        return max(2.0, 4 * math.sqrt(max(0.0, minimum)))

    @cached_property
    def wrist_end(self) -> Points:
        """(m, 2) the points at the edge of its wrist that are farther from its shaft."""
        rim = np.concatenate([part.rim for part in self.wrists])
        if self.strip is None:
            return rim
        away = np.hypot(*(rim - self.strip.end).T)
        return select(rim, away >= _WRIST_END * away.max())

    def add(self, part: Part) -> None:
        """
        Add a part.

        :param part: a wrist or a clasper.
        """
        (self.wrists if part.label == WRIST else self.claspers).append(part)
        for name in ('width_px', 'wrist_end'):
            self.__dict__.pop(name, None)


def sample_grid(mask: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    """
    Return a mask at the points of the grid.

    :param mask: (H, W) uint8 class index.
    :param step: distance between neighbouring points of the grid, in both directions.
    :return: (H / step, W / step) uint8 class index.
    """
    return np.ascontiguousarray(mask[step // 2 :: step, step // 2 :: step])


def find_parts(grid: NDArray[np.uint8], labels: tuple[int, ...], step: int) -> list[Part]:
    """
    Find the connected components of some classes.

    :param grid: (h, w) uint8 class index, as `sample_grid` returns it.
    :param labels: the classes.
    :param step: distance between neighbouring points of the grid, in pixels.
    :return: the MAX_PARTS largest components, in the order of the classes; none of noise.
    """
    found = [component for label in labels for component in _components(grid, label)]
    if len(found) > NOISE_PARTS:
        return []
    found = sorted(found, key=lambda component: -component.area)[:MAX_PARTS]
    found.sort(key=lambda component: labels.index(component.label))
    return [component.part(step) for component in found]


class _Component(NamedTuple):
    """
    A connected component of a class on the grid.

    :param label: the class.
    :param area: number of its cells.
    :param window: (4,) left, top, width and height in `marks`.
    :param marks: (h, w) number of the component of each cell of a part of the grid.
    :param number: that of this component.
    :param inner: (h, w) cells whose four neighbours are of the same class; others are 0.
    :param corner: column and row of their first cell.
    """

    label: int
    area: int
    window: NDArray[Any]
    marks: NDArray[Any]
    number: int
    inner: NDArray[Any]
    corner: tuple[int, int]

    def part(self, step: int) -> Part:
        """Return its cells as a part; `step` is their distance in pixels."""
        left, top, width, height = self.window.tolist()
        window = self.marks[top : top + height, left : left + width]
        found = cv2.findNonZero(cv2.inRange(window, self.number, self.number))
        columns, rows = np.ascontiguousarray(found.reshape(-1, 2).T) + self.window[:2, None]
        is_rim = self.inner.reshape(-1).take(rows * self.inner.shape[1] + columns) == 0
        points = np.stack([columns + self.corner[0], rows + self.corner[1]]) * float(step)
        points += step // 2
        return Part(self.label, points.T, step, is_rim=is_rim)


def _components(grid: NDArray[np.uint8], label: int) -> list[_Component]:
    """Find the components of a class that have enough samples, largest first."""
    chosen = cv2.inRange(grid, label, label)
    left, top, width, height = cv2.boundingRect(chosen)
    if width * height < MIN_SAMPLES:
        return []
    window = np.s_[top : top + height, left : left + width]
    chosen = chosen[window]
    whole = _bridged(chosen, grid[window])
    _, marks, stats, _ = cv2.connectedComponentsWithStats(whole, None, None, None, 8, cv2.CV_16U)
    if whole is not chosen:
        marks[chosen == 0] = 0
        stats[1:, cv2.CC_STAT_AREA] = np.bincount(marks.reshape(-1), minlength=len(stats))[1:]
    inner = cv2.erode(chosen, _CROSS, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    areas = stats[:, cv2.CC_STAT_AREA]
    order = 1 + np.argsort(-areas[1:], kind='stable')
    return [
        _Component(label, int(areas[n]), stats[n, :4], marks, int(n), inner, (left, top))
        for n in order
        if areas[n] >= MIN_SAMPLES
    ]


def _bridged(chosen: NDArray[Any], grid: NDArray[np.uint8]) -> NDArray[Any]:
    """Add to the cells of a class what a needle or a thread covers between two of them."""
    thin = cv2.inRange(grid, NEEDLE, THREAD)  # two classes that follow each other
    if cv2.countNonZero(thin):
        thin = cv2.bitwise_and(thin, cv2.morphologyEx(chosen, cv2.MORPH_CLOSE, _BRIDGE))
    return chosen | thin if cv2.countNonZero(thin) else chosen


def touch(first: Part, second: Part, step_px: float) -> bool:
    """
    Return whether two parts have neighbouring points.

    :param first: a part.
    :param second: another part.
    :param step_px: distance between neighbours in the grid.
    :return: whether a point of one part is next to a point of the other.
    """
    return are_near(first, second, _NEXT * step_px) and bool(
        len(neighbours(second.rim, first.rim, step_px))
    )


def neighbours(points: Points, others: Points, step_px: float) -> Points:
    """
    Select the points that are next to other points of the same grid.

    :param points: (n, 2) x and y in pixels.
    :param others: (m, 2) other points, at least one.
    :param step_px: distance between neighbours in the grid.
    :return: (k, 2) those of the points.
    """
    margin = _NEXT * step_px
    near = within(points, others, margin)
    rest = within(others, near, margin) if len(near) else near
    if not len(rest):
        return near[:0]
    apart = np.abs(near[:, None] - rest[None]).max(axis=2).min(axis=1)
    return select(near, apart <= margin)


def are_near(first: Part, second: Part, limit_px: float) -> bool:
    """
    Return whether the bounding rectangles of two parts are near; if not, the parts are not either.

    :param first: a part.
    :param second: another part.
    :param limit_px: largest gap in x and in y.
    :return: whether neither gap is larger.
    """
    left, top, right, bottom = first.box
    other_left, other_top, other_right, other_bottom = second.box
    across = max(other_left - right, left - other_right)
    return max(across, other_top - bottom, top - other_bottom) <= limit_px


def within(points: Points, others: Points, margin: float) -> Points:
    """
    Select the points in or near the bounding rectangle of other points.

    :param points: (n, 2) x and y in pixels.
    :param others: (m, 2) other points, at least one.
    :param margin: greatest distance from the rectangle in x and in y, in pixels.
    :return: (k, 2) those of the points.
    """
    low, high = others.min(axis=0) - margin, others.max(axis=0) + margin
    return select(points, ((points >= low) & (points <= high)).all(axis=1))


def distances(points: Points, parts: list[Part]) -> Points:
    """
    Compute the distances of points from parts.

    :param points: (n, 2) x and y in pixels.
    :param parts: at least one.
    :return: (n,) distances in pixels from the nearest point at the edge of a part.
    """
    return rim_distances(points, np.concatenate([part.rim for part in parts]))


def rim_distances(points: Points, others: Points) -> Points:
    """
    Compute the distances of points from the nearest of other points.

    :param points: (n, 2) x and y in pixels.
    :param others: (m, 2) other points, at least one.
    :return: (n,) distances in pixels; at most SAMPLE of the other points are used.
    """
    others = others[:: -(-len(others) // SAMPLE)]
    origin = others[0]  # relative to it, single precision is exact enough and twice as fast
    near, far = (points - origin).astype(np.float32), (others - origin).astype(np.float32)
    apart = (far**2).sum(axis=1) - 2 * near @ far.T
    squares = apart.min(axis=1) + (near**2).sum(axis=1)
    return np.asarray(np.sqrt(np.maximum(squares, 0)), np.float64)
