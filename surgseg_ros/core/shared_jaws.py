# SPDX-License-Identifier: Apache-2.0
"""Divides a region of jaws between the robotic tools that it touches."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.parts import Part, ToolParts
from surgseg_ros.core.strip_candidates import (
    StripArrays,
    TissueGrid,
    fill,
    find_candidates,
    sample_evenly,
)
from surgseg_ros.core.tool_costs import costs_of

_SHARE: Final = 0.06
"""Each jaw covers at least this share of the region that no other one covers."""

_MAX_JAWS: Final = 6
_ROOT: Final = 0.15
"""Share of a jaw's length at either end that may be its root."""


def owners_of_jaws(part: Part, tools: list[ToolParts], tissue: TissueGrid) -> NDArray[np.intp]:
    """
    Find which tool each point of a region of jaws belongs to.

    The region is split into straight jaws; a jaw belongs to the tool that one of its ends is
    nearest to, and what is in no jaw to the nearest tool.

    :param part: the region, of claspers.
    :param tools: the tools that it touches.
    :param tissue: what surrounds it.
    :return: (n,) index of the tool of each point.
    """
    points = part.points
    costs = np.stack([costs_of(points, part.label, tool) * tool.width_px for tool in tools])
    nearest = np.argmin(costs, axis=0)
    jaws = _jaws(part, tissue)
    if jaws is None:
        return np.asarray(nearest)
    strips, covered = jaws
    along, across = strips.coordinates(points)
    lengths = strips.ends_px - strips.starts_px
    owners = []
    for number, own in enumerate(covered):
        share = (along[own, number] - strips.starts_px[number]) / max(lengths[number], 1e-9)
        ends = [costs[:, own][:, end].mean(axis=1) for end in (share < _ROOT, share > 1 - _ROOT)]
        owners.append(int(np.min(ends, axis=0).argmin()))
    beside = np.where(covered.T, np.abs(across) / strips.half_at(along), np.inf)
    in_jaw = covered.any(axis=0)
    return np.asarray(np.where(in_jaw, np.array(owners)[beside.argmin(axis=1)], nearest))


def _jaws(part: Part, tissue: TissueGrid) -> tuple[StripArrays, NDArray[np.bool_]] | None:
    """Find the straight jaws of a region, and their points; None if they are not several."""
    sample = sample_evenly(part.points, part.step)
    min_points = _SHARE * len(sample)
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
