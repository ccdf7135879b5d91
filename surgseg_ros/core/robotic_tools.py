# SPDX-License-Identifier: Apache-2.0
"""Groups shafts, wrists and claspers of a mask into robotic tools, and divides what they share."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.known_tools import KnownTools, continue_tools
from surgseg_ros.core.labels import CLASPER, SHAFT, WRIST
from surgseg_ros.core.parts import (
    MIN_SAMPLES,
    Part,
    ToolParts,
    distances,
    find_parts,
    sample_grid,
    touch,
)
from surgseg_ros.core.segmentation import MIN_CONTACT, Field, Points, select
from surgseg_ros.core.shafts import EARS_SHARE, is_covered, join_shafts, orient_shaft
from surgseg_ros.core.strip_candidates import (
    StripArrays,
    TissueGrid,
    fill,
    find_candidates,
    sample_evenly,
)
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

_CONTACT: Final = 4.0
"""A jaw may belong to each tool whose distance is within this many samples of the smallest."""

_COINCIDING: Final = 0.6
"""Two tools coincide only if the shorter one is at least this share of the other one's length."""

_LARGER: Final = 1.4
"""Largest ratio of the area of a rectangle around two tools that coincide to that of one."""

_JAW_GAP: Final = 0.5
"""Largest gap between an unattached jaw and the tool that it belongs to, in lengths of the jaw."""

_JAW_SHARE: Final = 0.06
"""Each jaw covers at least this share of the region that no other one covers."""

_MAX_JAWS: Final = 6
_JAW_ROOT: Final = 0.15
"""Share of a jaw's length at either end that may be its root."""


class GroupedTools(NamedTuple):
    """
    The robotic tools that an image alone shows.

    :param tools: the tools.
    :param parts: the connected components that they consist of.
    """

    tools: list[ToolParts]
    parts: list[Part]


class ToolGrouping:
    """
    Groups the parts of robotic tools of one image into tools.

    What the image alone shows is found once, even if its tools are continued afterwards.
    """

    def __init__(self) -> None:
        self._alone: GroupedTools | None = None

    def tools(
        self, mask: NDArray[np.uint8], field: Field, known: KnownTools | None = None
    ) -> list[ToolParts]:
        """
        Return the tools.

        :param mask: (H, W) uint8 class index; the same in each call.
        :param field: the visible part of the image; the same in each call.
        :param known: the tools of the last image, which are continued; None: the image alone
            counts.
        :return: the tools, from left to right.
        """
        if self._alone is None:
            self._alone = group_tools(mask, field)
        tools, parts = self._alone
        if known is not None:
            tools = continue_tools(tools, parts, known, field)
        return sorted(tools, key=lambda tool: float(tool.parts[0].middle[0]))


def group_tools(mask: NDArray[np.uint8], field: Field) -> GroupedTools:
    """
    Group the parts of robotic tools into tools.

    Each shaft starts a tool; wrists are attached to shafts, claspers to wrists. A part that cannot
    be attached becomes a tool of its own.

    :param mask: (H, W) uint8 class index.
    :param field: the visible part of the image.
    :return: the tools that the image alone shows.
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
    tools = [ToolParts(group, [], []) for group in join_shafts(shafts, ends, mask, field)]
    for tool in tools:
        orient_shaft(tool, ends, field)
    costs = SampleCosts()
    for label in (WRIST, CLASPER):
        waiting = [part for part in ends if part.label == label]
        costs.prepare(waiting, tools)
        for part in sorted(waiting, key=lambda part: costs.order(part, tools)):
            _attach(part, tools, costs, mask, field, tissue)
    return GroupedTools(_join_coinciding(tools), found)


def _join_coinciding(tools: list[ToolParts]) -> list[ToolParts]:
    """Join tools whose boxes nearly coincide: a network takes parts of a rod for other classes."""
    kept: list[tuple[ToolParts, NDArray[np.float32]]] = []
    for tool in tools:
        rim = np.concatenate([part.rim for part in tool.parts]).astype(np.float32)
        for known, other in kept:
            if _coincide(rim, other) and not _are_split(tool, known):
                known.shafts.extend(tool.shafts)
                for part in (*tool.wrists, *tool.claspers):
                    known.add(part)
                known.is_shared = True
                break
        else:
            kept.append((tool, rim))
    return [tool for tool, _ in kept]


def _are_split(first: ToolParts, second: ToolParts) -> bool:
    """Return whether the shafts of two tools touch, as those of a region that was split do."""
    pairs = itertools.product(first.shafts, second.shafts)
    return any(touch(one, other, one.step) for one, other in pairs)


def _coincide(first: NDArray[np.float32], second: NDArray[np.float32]) -> bool:
    """Return whether two tools, given by their rims, are about as long and in the same place."""
    low = np.maximum(first.min(axis=0), second.min(axis=0))
    high = np.minimum(first.max(axis=0), second.max(axis=0))
    extents = [np.ptp(rim, axis=0) for rim in (first, second)]
    if (high - low < _COINCIDING * np.maximum(*extents)).any():
        return False
    both = cv2.minAreaRect(np.concatenate([first, second]))[1]
    sizes = [sorted(cv2.minAreaRect(rim)[1]) for rim in (first, second)]
    large = max(sizes, key=math.prod)
    as_long = min(size[1] for size in sizes) >= _COINCIDING * large[1]
    return as_long and math.prod(both) <= _LARGER * math.prod(large)


def _attach(
    part: Part,
    tools: list[ToolParts],
    known: SampleCosts,
    mask: NDArray[np.uint8],
    field: Field,
    tissue: TissueGrid,
) -> None:
    """Attach a wrist or a clasper to its tool; split it if it belongs to several tools."""
    sample = part.sample
    costs = [known.of(part, tool) for tool in tools]
    near = _possible_owners(part, tools, costs, mask)
    if near and np.count_nonzero(field.touches(part.rim)) >= MIN_CONTACT:
        near = [n for n in near if may_continue(part, tools[n], field)]
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
    find = _owners_of_jaws if part.label == CLASPER else _owners_of_wrist
    owner = find(part, [tools[n] for n in close], tissue)
    shares = [(n, select(part.points, owner == index)) for index, n in enumerate(close)]
    shares = [(n, points) for n, points in shares if len(points) >= MIN_SAMPLES]
    for number, points in shares:
        tools[number].is_shared |= len(shares) > 1
        tools[number].add(Part(part.label, points, part.step))


def _owners_of_wrist(wrist: Part, tools: list[ToolParts], _: TissueGrid) -> NDArray[np.intp]:
    """Return the index of the tool of each point of a wrist, by distances from their axes."""
    away = [costs_of(wrist.points, WRIST, t, _AXIAL_WEIGHT) * t.width_px for t in tools]
    return np.asarray(np.argmin(away, axis=0))


def _owners_of_jaws(part: Part, tools: list[ToolParts], tissue: TissueGrid) -> NDArray[np.intp]:
    """
    Return the index of the tool of each point of a region of jaws.

    The region is split into straight jaws; a jaw belongs to the tool that one of its ends is
    nearest to, and what is in no jaw to the nearest tool.
    """
    points = part.points
    costs = np.stack([costs_of(points, part.label, tool) * tool.width_px for tool in tools])
    nearest = np.argmin(costs, axis=0)
    jaws = _straight_jaws(part, tissue)
    if jaws is None:
        return np.asarray(nearest)
    strips, covered = jaws
    along, across = strips.coordinates(points)
    lengths = strips.ends_px - strips.starts_px
    owners = []
    for number, own in enumerate(covered):
        share = (along[own, number] - strips.starts_px[number]) / max(lengths[number], 1e-9)
        roots = share < _JAW_ROOT, share > 1 - _JAW_ROOT
        ends = [costs[:, own][:, root].mean(axis=1) for root in roots]
        owners.append(int(np.min(ends, axis=0).argmin()))
    beside = np.where(covered.T, np.abs(across) / strips.half_at(along), np.inf)
    in_jaw = covered.any(axis=0)
    return np.asarray(np.where(in_jaw, np.array(owners)[beside.argmin(axis=1)], nearest))


def _straight_jaws(part: Part, tissue: TissueGrid) -> tuple[StripArrays, NDArray[np.bool_]] | None:
    """Find the straight jaws of a region, and their points; None if they are not several."""
    sample = sample_evenly(part.points, part.step)
    min_points = _JAW_SHARE * len(sample)
    candidates = find_candidates(part.points, sample, tissue, min_points)
    uncovered, chosen = np.ones(len(sample), bool), list[int]()
    while len(chosen) < _MAX_JAWS and len(candidates.covered):
        gains = np.count_nonzero(candidates.covered & uncovered, axis=1)
        best = int(gains.argmax())
        if gains[best] < min_points:
            break
        chosen.append(best)
        uncovered &= ~candidates.covered[best]
    if len(chosen) < 2:
        return None
    strips, covered = fill(candidates.strips.take(chosen), part.points, tissue, 128)
    return (strips, covered) if covered.any(axis=1).all() else None


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
            cost.min() <= _MAX_GAP and is_covered(part.sample[cost.argmin()], part, tools[n], mask)
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
    small = area < EARS_SHARE * len(wrist.points)
    return small and any(touch(shaft, wrist, step_px) for shaft in tool.shafts)


def _touches_shaft(tool: ToolParts, wrist: Part) -> bool:
    return any(touch(shaft, wrist, wrist.step) for shaft in tool.shafts)


def _nearest_tool(jaw: Points, tools: list[ToolParts]) -> list[int]:
    """Return the tool nearest to a jaw, if the gap is small relative to the length of the jaw."""
    length = float(np.hypot(*np.ptp(jaw, axis=0)))
    gaps = [float(distances(jaw, tool.parts).min()) for tool in tools]
    nearest = int(np.argmin(gaps)) if gaps else 0
    return [nearest] if gaps and gaps[nearest] < _JAW_GAP * length else []
