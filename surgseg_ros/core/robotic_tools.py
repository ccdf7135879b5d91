# SPDX-License-Identifier: Apache-2.0
"""Groups shafts, wrists and claspers of a mask into robotic tools."""

from __future__ import annotations

import dataclasses
from typing import Final

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.labels import CLASPER, SHAFT, WRIST
from surgseg_ros.core.parts import (
    IS_CLEAR,
    MIN_SAMPLES,
    Part,
    ToolParts,
    are_near,
    distances,
    find_parts,
    sample_grid,
    touch,
)
from surgseg_ros.core.segmentation import MIN_CONTACT, Field, Points, select
from surgseg_ros.core.strip_candidates import TissueGrid
from surgseg_ros.core.strips import angle_between, strip_along
from surgseg_ros.core.tool_costs import SHARED, SampleCosts, costs_of, may_continue
from surgseg_ros.core.touching_strips import split_strips

_MAX_GAP: Final = 1.3
"""A part belongs to a tool if the gap between them is at most this many shaft widths."""

_MAX_OPEN_GAP: Final = 0.15
"""Widest gap to a tool that nothing needs to cover, in shaft widths."""

_WRIST_GAP: Final = 0.5
"""The same for a wrist, if no other tool claims it."""

_AXIAL_WEIGHT: Final = 0.1
"""Where a wrist is divided, distances beyond the shaft count this much, those from its axis 1."""

_COVERED_SHARE: Final = 0.6
_BETWEEN: Final = np.linspace(0, 1, 9)[1:-1, None]

_CONTACT: Final = 4.0
"""A jaw may belong to each tool whose distance is within this many samples of the smallest."""

_EARS: Final = 0.4
"""Largest area of the ears of a forked shaft, as a share of the wrist between them."""

_JAW_GAP: Final = 0.5
"""Largest gap between an unattached jaw and the tool that it belongs to, in lengths of the jaw."""


def group_tools(mask: NDArray[np.uint8], field: Field) -> list[ToolParts]:
    """
    Group the parts of robotic tools into tools.

    Each shaft starts a tool; wrists are attached to shafts, claspers to wrists. A part that cannot
    be attached becomes a tool of its own.

    :param mask: (H, W) uint8 class index.
    :param field: the visible part of the image.
    :return: the tools, from left to right.
    """
    grid = sample_grid(mask, field.step)
    found = find_parts(grid, (SHAFT, WRIST, CLASPER), field.step)
    ends = [part for part in found if part.label != SHAFT]
    tissue, shafts = TissueGrid(grid, field.step), []
    for part in found:
        if part.label == SHAFT:
            strips = split_strips(part, tissue, field)
            if len(strips) == 1:
                shafts.append(dataclasses.replace(part, strip=strips[0][0]))
                continue
            for strip, own in strips:
                shafts.append(Part(SHAFT, select(part.points, own), field.step, strip))
    tools = [ToolParts(group, [], []) for group in _join_shafts(shafts, ends, mask, field)]
    for tool in tools:
        _orient_shaft(tool, ends, field)
    costs = SampleCosts()
    for label in (WRIST, CLASPER):
        waiting = [part for part in ends if part.label == label]
        costs.prepare(waiting, tools)
        for part in sorted(waiting, key=lambda part: costs.order(part, tools)):
            _attach(part, tools, costs, mask, field)
    return sorted(tools, key=lambda tool: float(tool.parts[0].middle[0]))


def _join_shafts(
    shafts: list[Part], ends: list[Part], mask: NDArray[np.uint8], field: Field
) -> list[list[Part]]:
    """Group the pieces of shafts that something in front of them, or their wrist, separates."""
    groups: list[list[Part]] = []
    entering = [part for part in ends if field.touches(part.rim).any()]
    for part in sorted(shafts, key=lambda part: -len(part.points)):
        for group in groups:
            known = group[0], part
            are_ears = _are_ears(*known, ends, field.step)
            if are_ears or (_is_parallel(*known) and _are_parallel_ears(*known, entering)):
                group.append(part)
                break
            if _enter_separately(*known, field) or _ends_in_wrist(*known, ends):
                continue
            apart = continues(*known) and _is_bridged(group, part, mask)
            if apart or _is_visible_beside(*known) or _are_parallel_ears(*known, ends):
                group.append(part)
                break
        else:
            groups.append([part])
    return groups


def _is_bridged(group: list[Part], piece: Part, mask: NDArray[np.uint8]) -> bool:
    """Return whether something other than tissue covers the gap between pieces of a shaft."""
    sample = piece.sample
    nearest = sample[int(distances(sample, group).argmin())]
    return _is_covered(nearest, piece, ToolParts(group, [], []), mask)


def _are_ears(first: Part, second: Part, ends: list[Part], step_px: float) -> bool:
    """Return whether two pieces are the visible ears of one shaft, on both sides of its wrist."""
    area = len(first.points) + len(second.points)
    return any(
        area < _EARS * len(part.points)
        and touch(first, part, step_px)
        and touch(second, part, step_px)
        for part in ends
        if part.label == WRIST
    )


def _enter_separately(first: Part, second: Part, field: Field) -> bool:
    """Return whether two shafts enter the image at different positions, so they are two tools."""
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


def _is_visible_beside(shaft: Part, piece: Part) -> bool:
    """Return whether a piece is what remains visible of a shaft beside a cover."""
    if shaft.strip is None:
        return False
    along, across = shaft.strip.coordinates(piece.rim)
    overlaps = (
        float(along.min()) < shaft.strip.end_px and float(along.max()) > shaft.strip.start_px
    )
    half = float(shaft.strip.half_at(float(along.mean())))
    return overlaps and float(np.abs(across).max()) < _INSIDE * half


def _ends_in_wrist(first: Part, second: Part, ends: list[Part]) -> bool:
    """Return whether a wrist between two shafts touches, and so ends, only one of them."""
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
"""A shorter shaft, in widths, does not define its own direction; the part attached to it does."""

_AGREEMENT: Final = 0.8
"""The two directions disagree if the cosine of the angle between them is below this."""

_PARALLEL_RAD: Final = 0.2
_TURNED_RAD: Final = 0.4
_INSIDE: Final = 1.15
_OFFSET: Final = 0.3


def continues(shaft: Part, piece: Part, apart: float = 4.0) -> bool:
    """
    Return whether a piece continues a shaft or a rod.

    :param shaft: a shaft or rod, with its strip.
    :param piece: a smaller piece, with its strip.
    :param apart: the widest gap between them, in widths of the shaft.
    :return: whether the piece lies on the axis, beyond the end of the shaft, with the same width.
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
    turned = angle_between(strip.direction, other.direction)
    turned = min(turned, np.pi - turned)
    if float(np.abs(across).max()) < _INSIDE * half:  # visible between other objects
        is_slanted = _TURNED_RAD < turned < np.pi / 2 - _TURNED_RAD
        return not is_slanted or other.length_px < _STUB * other.width_px
    if not 0.5 < wide / (2 * half) < 1.6:
        return False
    return turned < _PARALLEL_RAD or other.length_px < 1.5 * wide


def _is_parallel(shaft: Part, piece: Part) -> bool:
    """Return whether the directions of two shafts are alike, or opposite."""
    if shaft.strip is None or piece.strip is None:
        return False
    turned = angle_between(shaft.strip.direction, piece.strip.direction)
    return min(turned, np.pi - turned) < _TURNED_RAD


def _are_parallel_ears(shaft: Part, piece: Part, ends: list[Part]) -> bool:
    """Return whether both are the ears of one shaft: parallel, with a wrist between them."""
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
        if part.label == WRIST and touch(shaft, part, part.step) and touch(piece, part, part.step):
            at, beside = strip.coordinates(part.points)
            near = (at > along.min()) & (at < along.max()) & (side * beside > 0)
            between = near & (side * beside < float((side * across).min()) + strip.half_px)
            if between.any() and float(np.ptp(beside[between])) > 0.6 * gap:
                return True
    return False


def _orient_shaft(tool: ToolParts, ends: list[Part], field: Field) -> None:
    """Orient a shaft from where it enters the image towards the tip."""
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
        hint = _direction_to_attached(shaft, ends, strip.width_px)
        if hint is not None and abs(float(hint @ strip.direction)) < _AGREEMENT:
            strip = strip_along(shaft.points, hint, field.step)
            tool.shafts[0] = dataclasses.replace(shaft, strip=strip)
            return
    votes = np.maximum(0, field.gaps(np.stack([strip.start, strip.end])))
    width = strip.width_px
    clear = abs(votes[0] - votes[1]) > 0.5 * width > votes.min()
    forward = bool(votes[0] < votes[1])
    if not clear and ends:  # both ends are at the border, or both are not
        both = np.stack([strip.start, strip.end])
        gaps = np.min([distances(both, [part]) for part in ends], axis=0)
        forward = gaps[1] <= gaps[0]
    tool.shafts[0] = dataclasses.replace(shaft, strip=strip if forward else strip.reversed())


def _direction_to_attached(shaft: Part, ends: list[Part], width_px: float) -> Points | None:
    """Return the direction from a shaft to the wrist or clasper that touches it, if one does."""
    ends = [part for part in ends if are_near(shaft, part, 0.5 * width_px)]
    if not ends:
        return None
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
    """Attach a wrist or a clasper to its tool; split it if it belongs to several tools."""
    sample = part.sample
    costs = [known.of(part, tool) for tool in tools]
    near = _possible_owners(part, tools, costs, mask)
    if near and np.count_nonzero(field.touches(part.rim)) >= MIN_CONTACT:
        near = [n for n in near if may_continue(part, tools[n])]
    if not near:
        own = ToolParts([], [], [])
        own.add(part)
        tools.append(own)
        return
    close = [n for n in near if costs[n].min() <= SHARED]
    if part.label == CLASPER and len(close) > 1:
        close = _touching(part, tools, close)
        for n in close:  # even if only one of them can be its owner, that is a guess
            tools[n].is_shared |= len(close) > 1
        close = near = _without_jaws(part, tools, close) or close
    if len(close) < 2:
        nearest = [float(np.sort(costs[n])[: 1 + len(sample) // 4].mean()) for n in near]
        tools[near[int(np.argmin(nearest))]].add(part)
        return
    away = [
        costs_of(part.points, part.label, tools[n], _AXIAL_WEIGHT) * tools[n].width_px
        for n in close
    ]
    owner = np.argmin(away, axis=0)
    shares = [(n, select(part.points, owner == place)) for place, n in enumerate(close)]
    shares = [(n, points) for n, points in shares if len(points) >= MIN_SAMPLES]
    for number, points in shares:
        tools[number].is_shared |= len(shares) > 1
        tools[number].add(Part(part.label, points, part.step))


def _possible_owners(
    part: Part, tools: list[ToolParts], costs: list[Points], mask: NDArray[np.uint8]
) -> list[int]:
    """List the tools that a wrist or a clasper is near, given the costs of its sample."""
    near = [
        n
        for n, cost in enumerate(costs)
        if cost.min() <= _MAX_OPEN_GAP
        or _has_fork_only(tools[n], part, part.step)
        or (
            cost.min() <= _MAX_GAP
            and _is_covered(part.sample[cost.argmin()], part, tools[n], mask)
        )
    ]
    if not near and part.label == WRIST:
        near = [
            n
            for n, (tool, cost) in enumerate(zip(tools, costs))
            if cost.min() <= _WRIST_GAP or _touches_shaft(tool, part)
        ]
    if not near and part.label == CLASPER:
        near = _nearest_tool(part.sample, tools)
    return near


def _touching(jaw: Part, tools: list[ToolParts], numbers: list[int]) -> list[int]:
    """Select the tools that a jaw touches, or those to which it is as near."""
    rims = [costs_of(jaw.rim, CLASPER, tools[n]) * tools[n].width_px for n in numbers]
    gaps = [float(rim.min()) for rim in rims]
    return [n for n, gap in zip(numbers, gaps) if gap <= min(gaps) + _CONTACT * jaw.step]


def _without_jaws(jaw: Part, tools: list[ToolParts], numbers: list[int]) -> list[int]:
    """Return the only tool without jaws, if the jaws of each other tool are as large as this."""
    areas = {n: sum(len(part.points) for part in tools[n].claspers) for n in numbers}
    bare = [n for n in numbers if not areas[n]]
    whole = all(area >= len(jaw.points) for area in areas.values() if area)
    return bare if len(bare) == 1 and whole else []


def _has_fork_only(tool: ToolParts, wrist: Part, step_px: float) -> bool:
    """Return whether a shaft is only a bit of a fork, which has no useful direction."""
    if wrist.label != WRIST or not tool.shafts:
        return False
    area = sum(len(shaft.points) for shaft in tool.shafts)
    small = area < _EARS * len(wrist.points)
    return small and any(touch(shaft, wrist, step_px) for shaft in tool.shafts)


def _touches_shaft(tool: ToolParts, wrist: Part) -> bool:
    return any(touch(shaft, wrist, wrist.step) for shaft in tool.shafts)


def _nearest_tool(jaw: Points, tools: list[ToolParts]) -> list[int]:
    """Return the tool nearest to a jaw, if the gap is small relative to the length of the jaw."""
    length = float(np.hypot(*np.ptp(jaw, axis=0)))
    gaps = [float(distances(jaw, tool.parts).min()) for tool in tools]
    nearest = int(np.argmin(gaps)) if gaps else 0
    return [nearest] if gaps and gaps[nearest] < _JAW_GAP * length else []


def _is_covered(point: Points, part: Part, tool: ToolParts, mask: NDArray[np.uint8]) -> bool:
    """Return whether something other than tissue covers the gap between a point and a tool."""
    others = np.concatenate([part.rim for part in tool.parts])
    nearest = others[int(np.hypot(*(others - point).T).argmin())]
    columns, rows = np.rint(point + _BETWEEN * (nearest - point)).astype(np.intp).T
    between = mask[rows, columns]
    covered = ~IS_CLEAR[between]
    if part.label == WRIST:
        covered &= (between != WRIST) & (between != CLASPER)
    return bool(np.count_nonzero(covered) >= _COVERED_SHARE * len(between))
