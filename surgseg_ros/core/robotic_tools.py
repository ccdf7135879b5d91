# SPDX-License-Identifier: Apache-2.0
"""The parts of robotic tools in a mask: which shaft, wrist and clasper are one tool."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.labels import BACKGROUND, CLASPER, SHAFT, WRIST
from surgseg_ros.core.strips import (
    Points,
    Strip,
    angle_between,
    split_strips,
    strip_along,
)

GRID_ROWS: Final = 270
"""The structure is found in every nth row and column, so that about so many rows are left."""

LEAST_SAMPLES: Final = 6
_SAMPLE: Final = 96
MOST_PARTS: Final = 24
"""Of each class, the largest; a mask of noise has thousands, and none of them is an instrument."""

_FARTHEST: Final = 1.3
"""A part belongs to a shaft if the gap is at most this many of the shaft's widths."""

_TOUCHING: Final = 0.3
"""Across a wider gap, in the shaft's widths, only if something covers it."""

_COVERED: Final = 0.6

_SHARED: Final = 0.35
"""A part that is as near as this to two shafts is divided between them."""

_BEHIND: Final = 2.0
"""By how much more a gap counts that lies behind the shaft's end, along the shaft."""


@dataclass(frozen=True)
class Part:
    """
    A connected region of one class, or the share of it that belongs to one instrument.

    :param label: its class.
    :param points: (n, 2) x and y in pixels, samples on the grid.
    :param strip: of a shaft; its direction points to the tip once that is known.
    """

    label: int
    points: Points
    strip: Strip | None = None

    @property
    def middle(self) -> Points:
        """(2,) the centre of its points."""
        return np.asarray(self.points.mean(axis=0))


@dataclass
class ToolParts:
    """The parts of one robotic tool: pieces of its shaft, of its wrist and of its clasper."""

    shafts: list[Part]
    wrists: list[Part]
    claspers: list[Part]

    @property
    def parts(self) -> list[Part]:
        """All of them."""
        return [*self.shafts, *self.wrists, *self.claspers]


def grid_step(size: tuple[int, int]) -> int:
    """Return how many pixels apart the samples are in an image of (H, W) pixels."""
    return max(1, round(size[0] / GRID_ROWS))


def find_parts(mask: NDArray[np.uint8], labels: tuple[int, ...]) -> list[Part]:
    """
    Find the connected regions of some classes.

    :param mask: (H, W) uint8 class index.
    :param labels: the classes.
    :return: the largest regions of each class, in the order of the classes.
    """
    step = grid_step((mask.shape[0], mask.shape[1]))
    first = step // 2
    small = np.ascontiguousarray(mask[first::step, first::step])
    parts = []
    for label in labels:
        chosen = cv2.inRange(small, label, label)
        _, marks, stats, _ = cv2.connectedComponentsWithStats(
            chosen, None, None, None, 8, cv2.CV_16U
        )
        areas = stats[1:, cv2.CC_STAT_AREA]
        large = [n for n in np.argsort(-areas, kind='stable') if areas[n] >= LEAST_SAMPLES]
        for number in large[:MOST_PARTS]:
            left, top, width, height = stats[number + 1, :4]
            window = marks[top : top + height, left : left + width] == number + 1
            rows, columns = np.nonzero(window)
            points = np.stack([columns + left, rows + top], axis=1) * float(step) + first
            parts.append(Part(label, points))
    return parts


def group_tools(mask: NDArray[np.uint8]) -> list[ToolParts]:
    """
    Tell robotic tools apart.

    Each shaft begins a tool; wrists continue shafts, claspers continue wrists. What continues
    nothing is a tool of its own.

    :param mask: (H, W) uint8 class index.
    :return: the tools, from the left.
    """
    size = mask.shape[0], mask.shape[1]
    step = float(grid_step(size))
    found = find_parts(mask, (SHAFT, WRIST, CLASPER))
    ends = [part for part in found if part.label != SHAFT]
    shafts = []
    for part in found:
        if part.label == SHAFT:
            for strip, own in split_strips(part.points, step, size):
                shafts.append(Part(SHAFT, part.points[own], strip))
    tools = [ToolParts(group, [], []) for group in _joined(shafts, ends)]
    for tool in tools:
        _point_to_the_tip(tool, ends, size)
    for label in (WRIST, CLASPER):
        waiting = [part for part in ends if part.label == label]
        for part in sorted(waiting, key=lambda part: _least_cost(part, tools)):
            _attach(part, tools, mask)
    return sorted(tools, key=lambda tool: float(tool.parts[0].middle[0]))


def _joined(shafts: list[Part], ends: list[Part]) -> list[list[Part]]:
    """Join pieces of one shaft that something in front of it separates, or its own wrist."""
    groups: list[list[Part]] = []
    for part in sorted(shafts, key=lambda part: -len(part.points)):
        for group in groups:
            if continues(group[0], part) or _flanks(group[0], part, ends):
                group.append(part)
                break
        else:
            groups.append([part])
    return groups


_STUB: Final = 2.5
"""A shaft of fewer widths says little of its direction: what it carries says more."""

_CLEAR: Final = 0.8
"""Cosine of the angle from which on the two disagree."""

_PARALLEL_RAD: Final = 0.2
_OFFSET: Final = 0.3
_APART: Final = 4.0


def continues(shaft: Part, piece: Part) -> bool:
    """
    Tell whether a piece continues a shaft or a rod.

    :param shaft: with its strip.
    :param piece: the smaller one, with its strip.
    :return: whether the piece lies on the axis, beyond the shaft, and is as wide.
    """
    strip, other = shaft.strip, piece.strip
    if strip is None or other is None:
        return False
    along, across = strip.coordinates(piece.points)
    half = float(strip.half_at(float(along.mean())))
    gap = max(strip.start_px - float(along.max()), float(along.min()) - strip.end_px)
    fits = abs(float(across.mean())) < _OFFSET * half * 2 and gap > -half
    wide = float(np.ptp(across))
    if not fits or gap > _APART * 2 * half or not 0.5 < wide / (2 * half) < 1.6:
        return False
    turned = angle_between(strip.direction, other.direction)
    return min(turned, np.pi - turned) < _PARALLEL_RAD or other.length_px < 1.5 * wide


def _flanks(shaft: Part, piece: Part, ends: list[Part]) -> bool:
    """Whether both are the ears of one shaft: parallel, with a wrist between them."""
    strip, other = shaft.strip, piece.strip
    if strip is None or other is None:
        return False
    along, across = strip.coordinates(piece.points)
    side = float(np.sign(across.mean()))
    gap = float((side * across).min()) - float(strip.half_at(float(along.mean())))
    overlap = min(strip.end_px, float(along.max())) - max(strip.start_px, float(along.min()))
    if gap < 0 or overlap < 0.5 * min(strip.length_px, float(np.ptp(along))):
        return False
    for part in ends:
        if part.label == WRIST:
            at, beside = strip.coordinates(part.points)
            near = (at > along.min()) & (at < along.max()) & (side * beside > 0)
            between = near & (side * beside < float((side * across).min()) + strip.half_px)
            if between.any() and float(np.ptp(beside[between])) > 0.6 * gap:
                return True
    return False


def _point_to_the_tip(tool: ToolParts, ends: list[Part], size: tuple[int, int]) -> None:
    """Turn the directions of a tool's shaft to the end that is not where it enters the image."""
    shaft = tool.shafts[0]
    strip = shaft.strip
    if strip is None:
        return
    low, high = strip.start_px, strip.end_px
    for piece in tool.shafts[1:]:
        along, _ = strip.coordinates(piece.points)
        low, high = min(low, float(along.min())), max(high, float(along.max()))
    strip = dataclasses.replace(strip, start_px=low, end_px=high)
    if strip.length_px < _STUB * strip.width_px and ends:
        hint = _towards_what_it_carries(shaft, ends, strip.width_px)
        if hint is not None and abs(float(hint @ strip.direction)) < _CLEAR:
            strip = strip_along(shaft.points, hint, float(grid_step(size)))
            tool.shafts[0] = dataclasses.replace(shaft, strip=strip)
            return
    votes = [border_gap(strip.start, size), border_gap(strip.end, size)]
    width = strip.width_px
    clear = abs(votes[0] - votes[1]) > 0.5 * width
    forward = votes[0] < votes[1]
    if not clear and ends:  # both ends are at the border, or both are not
        gaps = [
            min(float(_gaps(end[None], [part])[0]) for part in ends)
            for end in (strip.start, strip.end)
        ]
        forward = gaps[1] <= gaps[0]
    tool.shafts[0] = dataclasses.replace(shaft, strip=strip if forward else strip.reversed())


def _towards_what_it_carries(shaft: Part, ends: list[Part], width_px: float) -> Points | None:
    """Find the direction from a shaft to the wrist or clasper that touches it, if one does."""
    sample = shaft.points[:: max(1, len(shaft.points) // _SAMPLE)]
    gaps = [float(_gaps(sample, [part]).min()) for part in ends]
    nearest = int(np.argmin(gaps))
    if gaps[nearest] > 0.5 * width_px:
        return None
    away = ends[nearest].middle - shaft.middle
    return np.asarray(away / max(float(np.hypot(*away)), 1e-9))


def border_gap(point: Points, size: tuple[int, int]) -> float:
    """
    Compute how far a point is from the image's border.

    :param point: (2,) x and y in pixels.
    :param size: (H, W) of the image in pixels.
    :return: the distance in pixels; 0 beyond the border.
    """
    height, width = size
    return max(0.0, float(min(point[0], point[1], width - 1 - point[0], height - 1 - point[1])))


def _attach(part: Part, tools: list[ToolParts], mask: NDArray[np.uint8]) -> None:
    """Give a wrist or a clasper to the tool that it continues, in shares if to several."""
    sample = part.points[:: max(1, len(part.points) // _SAMPLE)]
    costs = [_costs(sample, part.label, tool) for tool in tools]
    near = [
        n
        for n, cost in enumerate(costs)
        if cost.min() <= _TOUCHING
        or (cost.min() <= _FARTHEST and _is_covered(sample[cost.argmin()], tools[n], mask))
    ]
    if not near:
        own = ToolParts([], [], [])
        _part_list(own, part.label).append(part)
        tools.append(own)
        return
    close = [n for n in near if costs[n].min() <= _SHARED]
    if len(close) < 2:
        nearest = [float(np.sort(costs[n])[: 1 + len(sample) // 4].mean()) for n in near]
        _part_list(tools[near[int(np.argmin(nearest))]], part.label).append(part)
        return
    owner = np.argmin([_costs(part.points, part.label, tools[n]) for n in close], axis=0)
    for place, number in enumerate(close):
        own_points = part.points[owner == place]
        if len(own_points) >= LEAST_SAMPLES:
            _part_list(tools[number], part.label).append(Part(part.label, own_points))


def _is_covered(point: Points, tool: ToolParts, mask: NDArray[np.uint8]) -> bool:
    """Whether something, and not tissue, is seen between a point and a tool."""
    others = np.concatenate([part.points for part in tool.parts])
    nearest = others[int(np.hypot(*(others - point).T).argmin())]
    line = np.rint(np.linspace(point, nearest, 9)[1:-1]).astype(np.intp)
    return bool((mask[line[:, 1], line[:, 0]] != BACKGROUND).mean() >= _COVERED)


def _least_cost(part: Part, tools: list[ToolParts]) -> float:
    sample = part.points[:: max(1, len(part.points) // _SAMPLE)]
    return min((float(_costs(sample, part.label, tool).min()) for tool in tools), default=0.0)


def _part_list(tool: ToolParts, label: int) -> list[Part]:
    return tool.wrists if label == WRIST else tool.claspers


def _costs(points: Points, label: int, tool: ToolParts) -> Points:
    """Compute how far each point is from what it would continue, in widths of the tool."""
    if label == CLASPER and tool.wrists:
        return _gaps(points, tool.wrists) / tool_width(tool)
    if not tool.shafts or tool.shafts[0].strip is None:
        both_jaws = label == CLASPER and not tool.wrists
        return (0.3 if both_jaws else 1) * _gaps(points, tool.parts) / tool_width(tool)
    strip = tool.shafts[0].strip
    along, across = strip.coordinates(points)
    half = float(strip.half_at(strip.end_px))
    beyond_px = along - strip.end_px
    beside_px = np.maximum(0, np.abs(across) - half)
    behind_px = np.maximum(0, -beyond_px - half)
    beyond_px = np.where(beyond_px < 0, _BEHIND * behind_px, beyond_px)
    costs = np.hypot(beyond_px, beside_px) / (2 * half)
    if label == WRIST and tool.wrists:  # a piece beyond something that covers the wrist
        costs = np.minimum(costs, _gaps(points, tool.wrists) / (2 * half))
    return np.asarray(costs)


def _gaps(points: Points, parts: list[Part]) -> Points:
    """Compute the distance of each point from the nearest of about 64 points of some parts."""
    others = np.concatenate([part.points for part in parts])
    others = others[:: max(1, len(others) // 64)]
    squares = (points**2).sum(axis=1)[:, None] + (others**2).sum(axis=1)[None]
    least = (squares - 2 * points @ others.T).min(axis=1)
    return np.asarray(np.sqrt(np.maximum(least, 0)))


def tool_width(tool: ToolParts) -> float:
    """
    Measure a tool.

    :param tool: its parts.
    :return: the width of its shaft at the end in pixels; without one, about that of its parts.
    """
    if tool.shafts and tool.shafts[0].strip is not None:
        strip = tool.shafts[0].strip
        return 2 * float(strip.half_at(strip.end_px))
    points = np.concatenate([part.points for part in tool.parts])
    spread = points - points.mean(axis=0)
    least = float(np.linalg.eigvalsh(spread.T @ spread / len(points))[0])
    return max(2.0, 4 * math.sqrt(max(0.0, least)))
