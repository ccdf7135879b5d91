# SPDX-License-Identifier: Apache-2.0
"""Assigns the pixels of a mask to instruments, where instruments touch or are cut in two."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.curves import Arc, fit_arc, is_same_thread, lies_on, thread_ends
from surgseg_ros.core.known_tools import KnownTools
from surgseg_ros.core.labels import (
    CATHETER,
    CLAMPS,
    HOLDER,
    NEEDLE,
    ROBOTIC_TOOL,
    SUCTION,
    THREAD,
)
from surgseg_ros.core.parts import IS_CLEAR, MIN_SAMPLES, Part, ToolParts
from surgseg_ros.core.robotic_tools import ToolGrouping
from surgseg_ros.core.runs import Runs
from surgseg_ros.core.segmentation import Field, Points
from surgseg_ros.core.shafts import continues
from surgseg_ros.core.strips import fit_strip


def separate_instruments(
    mask: NDArray[np.uint8],
    runs: Runs,
    regions: NDArray[np.intp],
    field: Field,
    known: KnownTools | None = None,
    grouping: ToolGrouping | None = None,
) -> list[tuple[Runs, ToolParts | None]]:
    """
    Turn connected components into instruments: split tools that touch, and join pieces of one.

    :param mask: (H, W) uint8 class index.
    :param runs: the runs to use; all parts of robotic tools have the kind ROBOTIC_TOOL.
    :param regions: (n,) connected component of each run, as `connect` returns it.
    :param field: the visible part of the image.
    :param known: robotic tools of the last image, see `ToolGrouping`.
    :param grouping: the grouping of earlier calls for this image.
    :return: the runs of each instrument, and its parts if it is a robotic tool; every run belongs
        to one instrument.
    """
    is_tool = runs.kinds == ROBOTIC_TOOL
    tools, others = (_pieces(runs, regions, np.flatnonzero(x)) for x in (is_tool, ~is_tool))
    found: list[tuple[Runs, ToolParts | None]] = [(piece, None) for piece in tools]
    if len(tools) <= MAX_REGIONS:
        owners = _Owners(mask, runs, regions, field)
        found = owners.tools(np.flatnonzero(is_tool), grouping or ToolGrouping(), known)
    return found + [(piece, None) for piece in join_pieces(others, mask, field)]


MAX_REGIONS: Final = 150
"""With more connected components of tools, each is one. Twenty tools in pieces have fewer."""


def _pieces(runs: Runs, regions: NDArray[np.intp], chosen: NDArray[np.intp]) -> list[Runs]:
    """Return the runs of each connected component of the chosen ones."""
    order = chosen[np.argsort(regions[chosen], kind='stable')]
    borders = np.flatnonzero(np.diff(regions[order])) + 1
    return [runs.take(region) for region in np.split(order, borders) if len(region)]


class _Owners:
    """
    Finds which runs belong to which robotic tool.

    :param mask: (H, W) uint8 class index.
    :param runs: the runs of the mask.
    :param regions: (n,) connected component of each run.
    """

    def __init__(
        self, mask: NDArray[np.uint8], runs: Runs, regions: NDArray[np.intp], field: Field
    ) -> None:
        self._runs, self._regions, self._width = runs, regions, mask.shape[1]
        self._mask, self._field = mask, field

    def tools(
        self, chosen: NDArray[np.intp], grouping: ToolGrouping, known: KnownTools | None
    ) -> list[tuple[Runs, ToolParts | None]]:
        """Return the tools that consist of the chosen runs, which are in reading order."""
        if not len(chosen):
            return []
        tools = grouping.tools(self._mask, self._field, known)
        members: dict[int, set[int]] = {}
        rows = self._runs.rows[chosen] * self._width
        starts, ends = rows + self._runs.starts[chosen], rows + self._runs.ends[chosen]
        for number, tool in enumerate(tools):
            columns, lines = np.concatenate([part.rim for part in tool.parts]).T.astype(np.intp)
            pixels = lines * self._width + columns
            indices = np.searchsorted(starts, pixels, 'right') - 1
            is_chosen = (indices >= 0) & (pixels < ends[indices])  # others are below the minimum
            for root in np.unique(self._regions[chosen[indices[is_chosen]]]).tolist():
                members.setdefault(root, set()).add(number)
        own: dict[int, list[Runs]] = {}
        alone: list[tuple[Runs, ToolParts | None]] = []
        order = chosen[np.argsort(self._regions[chosen], kind='stable')]
        borders = np.flatnonzero(np.diff(self._regions[order])) + 1
        for region in np.split(order, borders):
            numbers = members.get(int(self._regions[region[0]]), set())
            runs = self._runs.take(region)
            if not numbers:
                alone.append((runs, None))
            elif len(numbers) == 1:
                own.setdefault(min(numbers), []).append(runs)
            else:
                shared = [tools[n] for n in sorted(numbers)]
                for number, part in _divide(runs, shared, sorted(numbers), self._field.step):
                    own.setdefault(number, []).append(part)
        return [*((_merged(group), tools[n]) for n, group in sorted(own.items())), *alone]


def _divide(
    runs: Runs, tools: list[ToolParts], numbers: list[int], step: int
) -> list[tuple[int, Runs]]:
    """Split runs between tools; a cell of the grid belongs to the tool with the nearest sample."""
    owner_of, (left, top) = _nearest_tools(runs, tools, step)
    width = owner_of.shape[1]
    flat = owner_of.reshape(-1)
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1  # cells whose owner is a new one
    lines = (runs.rows // step - top) * width - left
    firsts, lasts = lines + runs.starts // step, lines + (runs.ends - 1) // step
    before = np.searchsorted(changes, firsts, 'right')
    counts = np.searchsorted(changes, lasts, 'right') - before + 1
    whole = np.repeat(np.arange(len(counts)), counts)
    begins = np.cumsum(counts) - counts
    is_first = np.zeros(len(whole), bool)
    is_first[begins] = True
    indices = np.arange(len(whole)) - begins[whole] + before[whole] - 1
    grid_index = np.where(is_first, firsts[whole], changes.take(indices, mode='clip'))
    starts = np.where(is_first, runs.starts[whole], (grid_index - lines[whole]) * step)
    is_last = np.roll(is_first, -1)
    ends = np.where(is_last, runs.ends[whole], np.roll(starts, -1))
    cut, owners = Runs(runs.kinds[whole], runs.rows[whole], starts, ends), flat[grid_index]
    return [
        (number, cut.take(np.flatnonzero(owners == index)))
        for index, number in enumerate(numbers, 1)
        if (owners == index).any()
    ]


def _nearest_tools(
    runs: Runs, tools: list[ToolParts], step: int
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """
    Find the tool with the nearest sample of each cell of the grid, from 1.

    :return: the grid around the runs and the tools; column and row of its first cell.
    """
    own = [
        (np.concatenate([part.rim for part in tool.parts]).T / step).astype(np.intp)
        for tool in tools
    ]
    columns = np.array([runs.starts.min(), runs.ends.max() - 1]) // step
    rows = runs.rows[[0, -1]] // step
    ends = np.concatenate([[columns, rows], *own], axis=1)
    (left, top), (right, bottom) = ends.min(axis=1).tolist(), ends.max(axis=1).tolist()
    grid = np.zeros((bottom - top + 1, right - left + 1), np.uint8)
    for number, (x, y) in enumerate(own, 1):
        grid[y - top, x - left] = number
    _, nearest = cv2.distanceTransformWithLabels(
        np.equal(grid, 0).view(np.uint8), cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL
    )
    tool_of = np.concatenate([np.zeros(1, np.uint8), grid[grid > 0]])  # labels ascend from 1
    return np.asarray(tool_of[nearest]), (left, top)


def _merged(pieces: list[Runs]) -> Runs:
    """Merge the runs of several pieces, in reading order."""
    if len(pieces) == 1:
        return pieces[0]
    joined = Runs(*(np.concatenate(columns) for columns in zip(*pieces)))
    return joined.take(np.lexsort((joined.starts, joined.rows)))


def sample_runs(runs: Runs, step: int) -> Points:
    """
    Sample pixels on a grid.

    :param runs: the pixels.
    :param step: distance between neighbouring samples, in both directions.
    :return: (n, 2) x and y on the grid; the middles of the runs if few of them are on the grid.
    """
    first = step // 2
    chosen = runs.take(np.flatnonzero(runs.rows % step == first))
    starts = -(-(chosen.starts - first) // step)
    counts = np.maximum(0, (chosen.ends - 1 - first) // step - starts + 1)
    if counts.sum() < MIN_SAMPLES:
        middles = (runs.starts + runs.ends - 1) / 2
        return np.stack([middles, runs.rows.astype(float)]).T
    of_run = np.repeat(np.arange(len(counts)), counts)
    columns = np.arange(len(of_run)) - np.repeat(np.cumsum(counts) - counts - starts, counts)
    return np.stack([columns * step + first, chosen.rows[of_run]]).astype(float).T


def join_pieces(pieces: list[Runs], mask: NDArray[np.uint8], field: Field) -> list[Runs]:
    """
    Join pieces of a rod, needle or thread that are separated by something in front of it.

    :param pieces: connected components.
    :param mask: (H, W) uint8 class index.
    :param field: the visible part of the image.
    :return: the instruments.
    """
    joined = []
    for label in sorted({int(piece.kinds[0]) for piece in pieces}):
        group = [piece for piece in pieces if int(piece.kinds[0]) == label]
        describe, same, max_pieces = _CONTINUATIONS[label]
        if not 1 < len(group) <= max_pieces:
            joined += group
            continue
        group.sort(key=lambda piece: -int(piece.lengths.sum()))
        kept: list[list[tuple[Runs, Any]]] = []
        for piece in group:
            form = describe(sample_runs(piece, field.step), field)
            own, others = [(piece, form)], []
            for members in kept:
                is_same = any(same(known, form, mask) for _, known in members)
                if is_same:
                    own += members
                else:
                    others.append(members)
            kept = [*others, own]
        joined += [_merged([piece for piece, _ in members]) for members in kept]
    return joined


_COVERED_GAP: Final = 20.0
"""Widest gap between two pieces of a rod if something covers it, in widths of the rod."""

_COVERED_SHARE: Final = 0.8
_MAX_GAP: Final = 0.35
"""Widest gap that something may cover, in image heights."""

_NARROW: Final = 0.06
"""The same for pieces that nothing else shows to belong together."""

_SAMPLE: Final = 200


def _rod(points: Points, field: Field) -> Part | None:
    if len(points) < 3:
        return None
    return Part(0, points, field.step, fit_strip(points, field))


def _is_same_rod(rod: Part | None, piece: Part | None, mask: NDArray[np.uint8]) -> bool:
    if rod is None or piece is None:
        return False
    if continues(rod, piece) or _is_near(rod.points, piece.points, mask):
        return True
    return continues(rod, piece, _COVERED_GAP) and _is_covered(rod.points, piece.points, mask)


def _is_covered(
    first: Points, second: Points, mask: NDArray[np.uint8], max_gap: float = _MAX_GAP
) -> bool:
    """Return whether the gap is at most a share of the image's height, and covered."""
    first, second = (points[:: max(1, len(points) // _SAMPLE)] for points in (first, second))
    apart = np.maximum(
        second.min(axis=0) - first.max(axis=0), first.min(axis=0) - second.max(axis=0)
    )
    if apart.max() > max_gap * mask.shape[0]:
        return False
    gaps = np.hypot(*(first[:, None] - second[None]).transpose(2, 0, 1))
    one, other = np.unravel_index(gaps.argmin(), gaps.shape)
    if gaps[one, other] > max_gap * mask.shape[0]:
        return False
    line = np.linspace(first[one], second[other], 17)[1:-1]
    columns, rows = np.rint(line).astype(np.intp).T
    return bool(np.count_nonzero(IS_CLEAR[mask[rows, columns]]) < (1 - _COVERED_SHARE) * len(line))


def _is_near(first: Points, second: Points, mask: NDArray[np.uint8]) -> bool:
    """Return whether something narrow covers all of the gap between two pieces."""
    return _is_covered(first, second, mask, _NARROW)


def _points(points: Points, _: Field) -> Points:
    return points


_ARC_RESIDUAL: Final = 0.08
"""Largest standard deviation of two pieces from a common circle, as a share of its radius."""

_RADIUS_RATIO: Final = 1.5
"""Largest ratio between the radius of the common circle and that of the larger piece."""

_Needle = tuple[Points, Arc | None]


def _needle(points: Points, field: Field) -> _Needle:
    return points, fit_arc(points, field.step)


def _is_same_needle(needle: _Needle, piece: _Needle, mask: NDArray[np.uint8]) -> bool:
    points, own = needle
    if own is not None and lies_on(own, piece[0]):
        return True
    both = np.concatenate([points, piece[0]])  # a short piece alone does not determine the circle
    arc = fit_arc(both, Field((mask.shape[0], mask.shape[1])).step)
    if arc is None or arc.residual_px > _ARC_RESIDUAL * arc.radius_px:
        return False
    fits = own is None or 1 / _RADIUS_RATIO < arc.radius_px / own.radius_px < _RADIUS_RATIO
    return fits and _is_covered(points, piece[0], mask)


_CONTINUATIONS: Final[dict[int, tuple[Callable[..., Any], Callable[..., bool], int]]] = {
    SUCTION: (_rod, _is_same_rod, 8),
    HOLDER: (_rod, _is_same_rod, 8),
    CATHETER: (_points, _is_covered, 8),
    CLAMPS: (_points, _is_near, 16),
    NEEDLE: (_needle, _is_same_needle, 8),
    THREAD: (thread_ends, is_same_thread, 16),
}
"""
By class: the function that describes a piece, the one that compares two of them, and the largest
number of pieces that are compared; of more, none are joined.
"""
