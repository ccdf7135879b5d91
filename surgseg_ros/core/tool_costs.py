# SPDX-License-Identifier: Apache-2.0
"""Distances of parts of robotic tools from the tools that they may belong to."""

from __future__ import annotations

import itertools
from typing import Final

import numpy as np

from surgseg_ros.core.labels import CLASPER, WRIST
from surgseg_ros.core.parts import Part, ToolParts, are_near, distances, neighbours, rim_distances
from surgseg_ros.core.segmentation import Field, Points

SHARED: Final = 0.35
"""A part whose cost is at most this for several tools is divided between them."""

_JAW_PIECE_COST: Final = 0.4
"""Extra cost of a gap to another piece of the jaws instead of the wrist, in tool widths."""

_COSINE: Final = 0.5
"""Cosine of the angle to the wrist's direction below which distances count more."""

_FAR: Final = 3.0
"""Tools farther away than this many of their widths are not compared; costs are larger then."""

_BEHIND: Final = 2.0
"""Factor for distances behind the end of the shaft, along the shaft."""

_JOINED: Final = 0.2
"""Shortest contact between a part and the one that it continues, in tool widths."""


class SampleCosts:
    """Computes costs of the samples of parts, and caches them until the tool changes."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, ...], Points] = {}

    def of(self, part: Part, tool: ToolParts) -> Points:
        """
        Return the cost of each sample of a part, see `costs_of`; infinite if the tool is far.

        :param part: a wrist or a clasper.
        :param tool: the tool that the part may belong to.
        :return: (n,) costs of its samples.
        """
        key = _key(part, tool)
        if key not in self._known:
            self.prepare([part], [tool])
        return self._known[key]

    def prepare(self, parts: list[Part], tools: list[ToolParts]) -> None:
        """
        Compute the costs of several parts together, which is faster.

        :param parts: parts of the same class.
        :param tools: the tools that they may belong to.
        """
        for tool in tools:
            limit_px = _FAR * tool.width_px
            near = []
            for part in parts:
                if any(are_near(part, other, limit_px) for other in tool.parts):
                    near.append(part)
                else:
                    self._known[_key(part, tool)] = np.full(len(part.sample), np.inf)
            if near:
                points = np.concatenate([part.sample.T for part in near], axis=1).T
                costs = costs_of(points, near[0].label, tool)
                ends = itertools.accumulate(len(part.sample) for part in near)
                for part, end in zip(near, ends):
                    self._known[_key(part, tool)] = costs[end - len(part.sample) : end]

    def order(self, part: Part, tools: list[ToolParts]) -> tuple[bool, float]:
        """
        Return the sort key of a part: parts near only one tool come first, then the nearest.

        :param part: a wrist or a clasper.
        :param tools: the tools that the part may belong to.
        :return: whether the part is near several tools, and its smallest cost.
        """
        minimum = sorted(float(self.of(part, tool).min()) for tool in tools)
        return len(minimum) > 1 and minimum[1] <= SHARED, minimum[0] if minimum else 0.0


def _key(part: Part, tool: ToolParts) -> tuple[int, ...]:
    return id(part), id(tool), len(tool.wrists), len(tool.claspers)


def costs_of(points: Points, label: int, tool: ToolParts, axial_weight: float = 1.0) -> Points:
    """
    Compute the distance of each point from the part that it would continue, in tool widths.

    :param points: (n, 2) x and y in pixels, of a part.
    :param label: label of the part, WRIST or CLASPER.
    :param tool: the tool that the part may belong to.
    :param axial_weight: weight of distances along the axis, beyond the end of the shaft.
    :return: (n,) costs.
    """
    if label == CLASPER and tool.wrists:
        gaps = _from_wrist(points, tool)
        if tool.claspers:  # the other piece of a jaw that a thread or needle covers
            beyond = distances(points, tool.claspers) + _JAW_PIECE_COST * tool.width_px
            gaps = np.minimum(gaps, beyond)
        return np.asarray(gaps / tool.width_px)
    strip = tool.strip
    if strip is None:
        both_jaws = label == CLASPER and not tool.wrists
        return (0.3 if both_jaws else 1) * distances(points, tool.parts) / tool.width_px
    along, across = strip.coordinates(points)
    half = float(strip.half_at(strip.end_px))
    beyond_px = along - strip.end_px
    beside_px = np.maximum(0, np.abs(across) - half)
    behind_px = np.maximum(0, -beyond_px - half)
    beyond_px = np.where(beyond_px < 0, _BEHIND * behind_px, beyond_px)
    costs = np.hypot(np.where(beyond_px > 0, axial_weight, 1.0) * beyond_px, beside_px) / (
        2 * half
    )
    if label == WRIST and tool.wrists:  # the other piece of a wrist that something covers
        costs = np.minimum(costs, distances(points, tool.wrists) / (2 * half))
    return np.asarray(costs)


def _from_wrist(points: Points, tool: ToolParts) -> Points:
    """Compute distances from the end of a wrist; those to its side and behind it count more."""
    rim = tool.wrist_end
    if tool.strip is None:
        return rim_distances(points, rim)
    end = rim.mean(axis=0)
    axis, out = end - tool.strip.end, points - end
    lengths = np.hypot(*out.T) * float(np.hypot(*axis))
    turned = _COSINE - (out @ axis) / np.maximum(lengths, 1e-9)
    return np.asarray(rim_distances(points, rim) * (1 + np.maximum(0, turned)))


def may_continue(part: Part, tool: ToolParts, field: Field) -> bool:
    """
    Return whether a part may continue a tool: whether it touches what is before it there.

    :param part: a wrist or a clasper.
    :param tool: the tool that it may belong to.
    :param field: the visible part of the image.
    :return: whether it does, along some length; also true if nothing of the tool is before it, or
        if it is a jaw and the border cuts off what is.
    """
    before = tool.shafts if part.label == WRIST else tool.wrists or tool.shafts
    if not before:
        return True
    if not tool.shafts and any(field.touches(known.rim).any() for known in before):
        return True
    rim = np.concatenate([known.rim for known in before])
    contact_px = len(neighbours(part.rim, rim, part.step)) * part.step
    return contact_px >= _JOINED * tool.width_px
