# SPDX-License-Identifier: Apache-2.0
"""The parts of robotic tools in a mask: which shaft, wrist and clasper are one tool."""

from __future__ import annotations

import dataclasses
from typing import Final

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.field import Field, Points
from surgseg_ros.core.labels import CLASPER, SHAFT, WRIST
from surgseg_ros.core.parts import (
    CLEAR,
    LEAST_SAMPLES,
    Part,
    ToolParts,
    distances,
    find_parts,
    tool_width,
    touch,
)
from surgseg_ros.core.strips import angle_between, split_strips, strip_along
from surgseg_ros.core.tool_costs import SHARED, SampleCosts, costs_of

_FARTHEST: Final = 1.3
"""A part belongs to a shaft if the gap is at most this many of the shaft's widths."""

_TOUCHING: Final = 0.15
"""Across a wider gap, in the shaft's widths, only if something covers it."""

_COVERED: Final = 0.6

_CONTACT: Final = 4.0
"""A jaw hangs on the nearest tool, and on others that are as near but for so many samples."""

_EARS: Final = 0.4
"""Most area of a forked shaft's ears, in that of the wrist between them."""

_JAW_GAP: Final = 0.5
"""A jaw that continues nothing belongs to a tool no farther away than this, in its own length."""


def group_tools(mask: NDArray[np.uint8], field: Field) -> list[ToolParts]:
    """
    Tell robotic tools apart.

    Each shaft begins a tool; wrists continue shafts, claspers continue wrists. What continues
    nothing is a tool of its own.

    :param mask: (H, W) uint8 class index.
    :param field: where instruments are seen.
    :return: the tools, from the left.
    """
    found = find_parts(mask, (SHAFT, WRIST, CLASPER))
    ends = [part for part in found if part.label != SHAFT]
    shafts = []
    for part in found:
        if part.label == SHAFT:
            for strip, own in split_strips(part.points, field):
                shafts.append(Part(SHAFT, part.points[own], field.step, strip))
    tools = [ToolParts(group, [], []) for group in _joined(shafts, ends, field)]
    for tool in tools:
        _point_to_the_tip(tool, ends, field)
    costs = SampleCosts()
    for label in (WRIST, CLASPER):
        waiting = [part for part in ends if part.label == label]
        for part in sorted(waiting, key=lambda part: costs.order(part, tools)):
            _attach(part, tools, costs, mask, field)
    return sorted(tools, key=lambda tool: float(tool.parts[0].middle[0]))


def _joined(shafts: list[Part], ends: list[Part], field: Field) -> list[list[Part]]:
    """Join pieces of one shaft that something in front of it separates, or its own wrist."""
    groups: list[list[Part]] = []
    for part in sorted(shafts, key=lambda part: -len(part.points)):
        for group in groups:
            if _are_ears(group[0], part, ends, field.step):
                group.append(part)
                break
            if _enter_apart(group[0], part, field) or _ends_before(group[0], part, ends):
                continue
            known = group[0], part
            if continues(*known) or _lies_within(*known) or _flanks(*known, ends):
                group.append(part)
                break
        else:
            groups.append([part])
    return groups


def _are_ears(first: Part, second: Part, ends: list[Part], step_px: float) -> bool:
    """Whether two shafts are what is seen of one beside the wrist that both touch."""
    area = len(first.points) + len(second.points)
    return any(
        area < _EARS * len(part.points)
        and touch(first, part, step_px)
        and touch(second, part, step_px)
        for part in ends
        if part.label == WRIST
    )


def _enter_apart(first: Part, second: Part, field: Field) -> bool:
    """Whether two shafts enter the image at different places: they are two tools."""
    places = []
    for part in (first, second):
        if part.strip is None:
            return False
        ends = np.stack([part.strip.start, part.strip.end])
        gaps = field.gaps(ends)
        if gaps.min() > part.strip.width_px / 2:
            return False
        places.append(ends[gaps.argmin()])
        width_px = part.strip.width_px
    return float(np.hypot(*(places[0] - places[1]))) > 2 * width_px


def _lies_within(shaft: Part, piece: Part) -> bool:
    """Whether a piece is what is seen of a shaft beside something that lies on it."""
    if shaft.strip is None:
        return False
    along, across = shaft.strip.coordinates(piece.rim)
    overlaps = (
        float(along.min()) < shaft.strip.end_px and float(along.max()) > shaft.strip.start_px
    )
    half = float(shaft.strip.half_at(float(along.mean())))
    return overlaps and float(np.abs(across).max()) < _INSIDE * half


def _ends_before(first: Part, second: Part, ends: list[Part]) -> bool:
    """Whether a wrist between two shafts touches one of them alone: it is the end of that one."""
    strip, step_px = first.strip, first.step
    if strip is None:
        return False
    along, _ = strip.coordinates(second.rim)
    low, high = strip.end_px, float(along.min())
    if float(along.mean()) < strip.start_px:
        low, high = float(along.max()), strip.start_px
    between = (
        part
        for part in ends
        if part.label == WRIST and low < float(strip.coordinates(part.middle)[0]) < high
    )
    return any(touch(first, part, step_px) != touch(second, part, step_px) for part in between)


_STUB: Final = 2.5
"""A shaft of fewer widths says little of its direction: what it carries says more."""

_CLEAR: Final = 0.8
"""Cosine of the angle from which on the two disagree."""

_PARALLEL_RAD: Final = 0.2
_INSIDE: Final = 1.15
_OFFSET: Final = 0.3


def continues(shaft: Part, piece: Part, apart: float = 4.0) -> bool:
    """
    Tell whether a piece continues a shaft or a rod.

    :param shaft: with its strip.
    :param piece: the smaller one, with its strip.
    :param apart: the widest gap between them, in widths.
    :return: whether the piece lies on the axis, beyond the shaft, and is as wide.
    """
    strip, other = shaft.strip, piece.strip
    if strip is None or other is None:
        return False
    along, across = strip.coordinates(piece.rim)
    half = float(strip.half_at(float(along.mean())))
    gap = max(strip.start_px - float(along.max()), float(along.min()) - strip.end_px)
    fits = abs(float(across.mean())) < _OFFSET * half * 2 and gap > -half
    wide = float(np.ptp(across))
    if not fits or gap > apart * 2 * half:
        return False
    if float(np.abs(across).max()) < _INSIDE * half:  # what is seen of it between other things
        return True
    if not 0.5 < wide / (2 * half) < 1.6:
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


def _point_to_the_tip(tool: ToolParts, ends: list[Part], field: Field) -> None:
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
            strip = strip_along(shaft.points, hint, field.step)
            tool.shafts[0] = dataclasses.replace(shaft, strip=strip)
            return
    votes = np.maximum(0, field.gaps(np.stack([strip.start, strip.end])))
    width = strip.width_px
    clear = abs(votes[0] - votes[1]) > 0.5 * width > votes.min()
    forward = bool(votes[0] < votes[1])
    if not clear and ends:  # both ends are at the border, or both are not
        gaps = [
            min(float(distances(end[None], [part])[0]) for part in ends)
            for end in (strip.start, strip.end)
        ]
        forward = gaps[1] <= gaps[0]
    tool.shafts[0] = dataclasses.replace(shaft, strip=strip if forward else strip.reversed())


def _towards_what_it_carries(shaft: Part, ends: list[Part], width_px: float) -> Points | None:
    """Find the direction from a shaft to the wrist or clasper that touches it, if one does."""
    sample = shaft.sample
    gaps = [float(distances(sample, [part]).min()) for part in ends]
    nearest = int(np.argmin(gaps))
    if gaps[nearest] > 0.5 * width_px:
        return None
    away = ends[nearest].middle - shaft.middle
    return np.asarray(away / max(float(np.hypot(*away)), 1e-9))


def _attach(
    part: Part,
    tools: list[ToolParts],
    known: SampleCosts,
    mask: NDArray[np.uint8],
    field: Field,
) -> None:
    """Give a wrist or a clasper to the tool that it continues, in shares if to several."""
    sample = part.sample
    costs = [known.of(part, tool) for tool in tools]
    near = [
        n
        for n, cost in enumerate(costs)
        if cost.min() <= _TOUCHING
        or _ends_in(tools[n], part, field.step)
        or (cost.min() <= _FARTHEST and _is_covered(sample[cost.argmin()], part, tools[n], mask))
    ]
    if not near and part.label == CLASPER:
        near = _beside(sample, tools)
    if not near:
        own = ToolParts([], [], [])
        _part_list(own, part.label).append(part)
        tools.append(own)
        return
    close = [n for n in near if costs[n].min() <= SHARED]
    if part.label == CLASPER and len(close) > 1:
        close = near = _holding(part, [tools[n] for n in close], close)
    if len(close) < 2:
        nearest = [float(np.sort(costs[n])[: 1 + len(sample) // 4].mean()) for n in near]
        _part_list(tools[near[int(np.argmin(nearest))]], part.label).append(part)
        return
    away = [costs_of(part.points, part.label, tools[n]) * tool_width(tools[n]) for n in close]
    owner = np.argmin(away, axis=0)
    for place, number in enumerate(close):
        own_points = part.points[owner == place]
        if len(own_points) >= LEAST_SAMPLES:
            tools[number].is_shared |= part.label == CLASPER
            _part_list(tools[number], part.label).append(Part(part.label, own_points, field.step))


def _holding(jaw: Part, tools: list[ToolParts], numbers: list[int]) -> list[int]:
    """Find the tools that a jaw may hang on: those it touches, or the only one without jaws."""
    gaps = [float((costs_of(jaw.rim, CLASPER, tool) * tool_width(tool)).min()) for tool in tools]
    limit_px = min(gaps) + _CONTACT * jaw.step
    touching = [place for place, gap in enumerate(gaps) if gap <= limit_px]
    bare = [place for place in touching if not tools[place].claspers]
    area = len(jaw.points)
    whole = all(
        sum(len(part.points) for part in tools[place].claspers) >= area
        for place in touching
        if place not in bare
    )
    chosen = bare if len(bare) == 1 and whole else touching
    return [numbers[place] for place in chosen]


def _ends_in(tool: ToolParts, wrist: Part, step_px: float) -> bool:
    """Whether a tool's shaft is so little of a fork that its direction says nothing of a wrist."""
    if wrist.label != WRIST or not tool.shafts:
        return False
    area = sum(len(shaft.points) for shaft in tool.shafts)
    small = area < _EARS * len(wrist.points)
    return small and any(touch(shaft, wrist, step_px) for shaft in tool.shafts)


def _beside(jaw: Points, tools: list[ToolParts]) -> list[int]:
    """Find the tool to whose jaws or wrist a jaw is near, in its own length: what it hangs on."""
    length = float(np.hypot(*np.ptp(jaw, axis=0)))
    gaps = [float(distances(jaw, tool.parts).min()) for tool in tools]
    nearest = int(np.argmin(gaps)) if gaps else 0
    return [nearest] if gaps and gaps[nearest] < _JAW_GAP * length else []


def _is_covered(point: Points, part: Part, tool: ToolParts, mask: NDArray[np.uint8]) -> bool:
    """Whether something, and not tissue, is seen between a point of a part and a tool."""
    others = np.concatenate([part.rim for part in tool.parts])
    nearest = others[int(np.hypot(*(others - point).T).argmin())]
    line = np.rint(np.linspace(point, nearest, 9)[1:-1]).astype(np.intp)
    clear = (*CLEAR, WRIST, CLASPER) if part.label == WRIST else CLEAR
    between = mask[line[:, 1], line[:, 0]]
    return bool(np.isin(between, clear, invert=True).mean() >= _COVERED)


def _part_list(tool: ToolParts, label: int) -> list[Part]:
    return tool.wrists if label == WRIST else tool.claspers
