# SPDX-License-Identifier: Apache-2.0
"""Keypoints of shafts and robotic tools: tips, joints, and where a shaft enters the image."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

from surgseg_ros.core.keypoints import Geometry, Keypoint, KeypointKind, make_point
from surgseg_ros.core.parts import Part, ToolParts, neighbours
from surgseg_ros.core.segmentation import MIN_CONTACT, Field, Points
from surgseg_ros.core.strips import Strip

_SIGMA: Final = {
    KeypointKind.TIP: 0.008,
    KeypointKind.LEFT_JAW_TIP: 0.023,
    KeypointKind.RIGHT_JAW_TIP: 0.023,
    KeypointKind.JAW_PIVOT: 0.1,
    KeypointKind.WRIST_JOINT: 0.12,
}
"""
Standard deviations in shaft widths, beside that of the grid. On the exact masks of 20 synthetic
videos of 50 frames (seeds 1720000 and 1730000, ten with --touching), 75 of 100 errors of tips in x
or y are smaller, 70 of those of jaws, 70 of pivots and 66 of wrist joints.
"""

_UNCERTAIN_SIGMA: Final = 0.4
"""
Standard deviation of tips of jaws that may belong to another tool, in shaft widths. Of 33 in
synthetic scenes, 28 were off by more than 25 pixels at 1080p (of 100 others, 15).
"""

_ROOT: Final = 0.12
"""Share of the samples of a part by which its start or end is determined."""

_GAP_RAD: Final = 0.05

_COVERED_PIVOT: Final = 0.25
"""Without a wrist, the pivot is this far inside the end of the shaft, in its widths."""

_FAR: Final = 0.5
"""Two jaws are distinguished by their samples beyond this share of their length."""

_BEHIND: Final = 0.5
"""
A piece of a clasper is not a jaw if its middle is farther than this behind the end of the shaft,
in widths: a network takes thread, stains and the shaft's own entry for claspers.
"""

_LONG_SHAFT: Final = 2.5
"""With a wrist, that is known only of shafts that are longer than this, in widths."""

_SMALL_WRIST: Final = 0.25
"""Wrists below this area, in squares of the shaft's width, do not tell which end has the tip."""

_STRAY: Final = 0.25
"""
A piece of a clasper with less than this share of the samples of the largest one is not a jaw if it
lies on the other side of the wrist: a network takes screws and cables of the wrist for claspers.
"""

_MIN_SHARE: Final = 0.15

_TIP_SHARE: Final = 0.95


def tool_geometry(tool: ToolParts, field: Field) -> Geometry:
    """
    Find the keypoints of a robotic tool.

    :param tool: its parts.
    :param field: the visible part of the image.
    :return: the keypoints, as far as they can be found.
    """
    step, strip, width = float(field.step), tool.strip, tool.width_px
    found: list[Keypoint] = []
    heading, joint = None, None
    is_crossing = _is_crossing(tool, field)
    if strip is not None:
        points = shaft_points(strip, field)
        found += [p._replace(is_hidden=p.is_hidden or is_crossing) for p in points]
        heading, joint = strip.direction, strip.end
    wrist = _all(tool.wrists)
    claspers = _jaws(tool)
    clasper = _all(claspers)
    if strip is not None and len(wrist):
        joint = _wrist_joint(strip, wrist)
        found.append(_point(KeypointKind.WRIST_JOINT, joint, strip.direction, width, field))
    roots = _contact(claspers, tool.wrists or tool.shafts, step)
    pivot = _pivot(joint, wrist, clasper, roots)
    if pivot is not None and len(roots) and not len(wrist):
        pivot = _root(roots, clasper, width)
    opening = None
    if pivot is not None:
        towards = clasper.mean(axis=0) - pivot
        heading = heading if heading is not None else towards
        if len(wrist):
            found.append(_point(KeypointKind.JAW_PIVOT, pivot, towards, width, field))
        tips = jaw_tips(clasper, pivot, step)
        points = _cut_off(_tip_points(tips, pivot, heading, width, field), clasper, field)
        points = _as_uncertain(points, width) if tool.is_shared or is_crossing else points
        found += points
        if not any(point.is_hidden or point.is_beyond for point in points):
            opening = _opening_deg(tips, pivot)
    return Geometry(tuple(sorted(found)), opening, width if strip is not None else None)


def exact_sigma_px(kind: KeypointKind, width_px: float, step_px: float) -> float:
    """
    Return the standard deviation of a keypoint of a robotic tool on exact masks.

    :param kind: a kind between wrist joint and tips.
    :param width_px: width of the tool's shaft.
    :param step_px: distance between neighbouring samples.
    :return: the deviation of x and of y, in pixels.
    """
    return math.hypot(step_px / 6, _SIGMA[kind] * width_px)


def _jaws(tool: ToolParts) -> list[Part]:
    """Return the pieces of the jaws, without those behind the wrist or the end of the shaft."""
    claspers = _beyond_shaft(tool)
    if len(claspers) < 2 or not tool.wrists:
        return claspers
    largest = max(claspers, key=lambda part: len(part.points))
    middle = _all(tool.wrists).mean(axis=0)
    towards, minimum = largest.middle - middle, _STRAY * len(largest.points)
    return [
        part
        for part in claspers
        if len(part.points) >= minimum or float((part.middle - middle) @ towards) > 0
    ]


def _beyond_shaft(tool: ToolParts) -> list[Part]:
    """Return the pieces of claspers beyond the end of the shaft, all if that has no direction."""
    strip = tool.strip
    if strip is None:
        return tool.claspers
    is_long = strip.length_px > _LONG_SHAFT * tool.width_px
    is_larger = _count(tool.shafts) > _count(tool.wrists)
    if tool.wrists and not (is_long and is_larger):  # the wrist may be bent back
        return tool.claspers
    limit_px = strip.end_px - _BEHIND * tool.width_px
    middles = np.array([part.middle for part in tool.claspers]).reshape(-1, 2)
    along, _ = strip.coordinates(middles)
    return [part for part, at in zip(tool.claspers, along, strict=True) if at > limit_px]


def _is_crossing(tool: ToolParts, field: Field) -> bool:
    """
    Return whether both ends of a shaft are at the border, so that either may be its entry.

    A wrist tells which it is, if it is not a speck.
    """
    strip, wrist_px = tool.strip, _count(tool.wrists) * field.step**2
    if strip is None or wrist_px > _SMALL_WRIST * tool.width_px**2:
        return False
    ends = (strip.end, strip.direction), (strip.start, -strip.direction)
    gaps = (np.hypot(*(field.border_hit(end, outward) - end)) for end, outward in ends)
    return bool(max(gaps) < tool.width_px / 2)


def _count(parts: Iterable[Part]) -> int:
    """Count the samples of parts."""
    return sum(len(part.points) for part in parts)


def _point(
    kind: KeypointKind, position: Points, direction: Points, width_px: float, field: Field
) -> Keypoint:
    """Create a keypoint whose standard deviation is proportional to the width of the tool."""
    return make_point(kind, position, direction, exact_sigma_px(kind, width_px, field.step), field)


def _all(parts: Iterable[Part]) -> Points:
    points = [part.points for part in parts]
    return np.concatenate(points) if points else np.empty((0, 2))


def shaft_points(strip: Strip, field: Field) -> list[Keypoint]:
    """
    Find where a shaft enters the image, its edges there, and its axis.

    :param strip: the shaft, oriented towards the tip.
    :param field: the visible part of the image.
    :return: the keypoints; that of the axis is at the end of the shaft.
    """
    kinds = KeypointKind
    direction, normal = strip.direction, strip.normal
    entry = field.border_hit(strip.end, -direction)
    along = float((entry - strip.origin) @ direction)
    found = [
        make_point(kinds.SHAFT_AXIS, strip.end, direction, strip.residual_px, field),
        make_point(kinds.SHAFT_ENTRY, entry, direction, 1.3 * strip.residual_px, field),
    ]
    reaches = strip.start_px - along < 2 * float(strip.half_at(along))
    if not reaches:
        return [found[0], found[1]._replace(is_hidden=True)]
    for kind, side in ((kinds.LEFT_SHAFT_EDGE, -1.0), (kinds.RIGHT_SHAFT_EDGE, 1.0)):
        lean = direction + side * strip.slope * normal
        start = strip.end + side * float(strip.half_at(strip.end_px)) * normal
        edge = field.border_hit(start, -lean / float(np.hypot(*lean)))
        found.append(make_point(kind, edge, direction, 2 * strip.residual_px, field))
    return found


def _wrist_joint(strip: Strip, wrist: Points) -> Points:
    """Find the point on the axis at which the wrist starts."""
    along, _ = strip.coordinates(wrist)
    root = float(np.quantile(along, _ROOT / 2))
    return np.asarray(strip.origin + root * strip.direction)


def _pivot(joint: Points | None, wrist: Points, clasper: Points, roots: Points) -> Points | None:
    """Find the pivot of the jaws, between their start and the end of the wrist or shaft."""
    if not len(clasper):
        return None
    if len(wrist):
        base = joint if joint is not None else wrist.mean(axis=0)
    elif joint is not None:
        return joint
    else:
        return None
    direction = clasper.mean(axis=0) - base
    direction = direction / max(float(np.hypot(*direction)), 1e-9)
    along = (clasper - base) @ direction
    end = float(np.quantile((wrist - base) @ direction, 1 - _ROOT / 2))
    root, near = (float(value) for value in np.quantile(along, (_ROOT / 2, _ROOT)))
    normal = np.array([-direction[1], direction[0]])
    if len(roots):  # jaws may lie around the end of the wrist, one farther back than the other
        beside = (roots - base) @ normal
        across = float(beside.min() + beside.max()) / 2
    else:
        across = float(((clasper - base) @ normal)[along <= near].mean())
    return np.asarray(base + min(end, (root + end) / 2) * direction + across * normal)


def _contact(claspers: Sequence[Part], others: Sequence[Part], step_px: float) -> Points:
    """Find the points at the edge of jaws that touch the wrist, or another part of the tool."""
    if not claspers or not others:
        return np.empty((0, 2))
    return neighbours(_rims(claspers), _rims(others), step_px)


def _root(roots: Points, clasper: Points, width_px: float) -> Points:
    """Find the middle of where the jaws touch a shaft without a wrist; the pivot is there."""
    root = roots.mean(axis=0)
    back = root - clasper.mean(axis=0)
    return np.asarray(root + _COVERED_PIVOT * width_px * back / max(math.hypot(*back), 1e-9))


def _rims(parts: Iterable[Part]) -> Points:
    return np.concatenate([part.rim for part in parts])


def jaw_tips(clasper: Points, pivot: Points, step_px: float) -> list[Points]:
    """
    Find the tips of a single jaw, or of two open jaws.

    :param clasper: (n, 2) samples of the jaws.
    :param pivot: (2,) pivot of the jaws.
    :param step_px: distance between neighbouring samples.
    :return: one or two points, (2,) each.
    """
    away = clasper - pivot
    radius = np.hypot(*away.T)
    middle = away.mean(axis=0)
    turned = away @ np.array([[middle[0], -middle[1]], [middle[1], middle[0]]])
    angle = np.arctan2(turned[:, 1], turned[:, 0])
    far = np.flatnonzero(radius > _FAR * radius.max())
    order = far[np.argsort(angle[far], kind='stable')]
    gaps = np.diff(angle[order])
    if len(gaps):
        index = int(gaps.argmax())
        minimum = max(_GAP_RAD, 1.6 * step_px / float(radius[order].mean()))
        share = (index + 1) / len(order)
        if gaps[index] > minimum and _MIN_SHARE < share < 1 - _MIN_SHARE:
            tips = []
            for group in (order[index::-1], order[index + 1 :]):  # from the inner edge outwards
                inner = math.atan2(middle[1], middle[0]) + float(angle[group[len(group) // 20]])
                along = np.array([math.cos(inner), math.sin(inner)])
                tips.append(_tip(clasper[group], pivot, along, step_px))
            return tips
    return _closed_tips(clasper[order], pivot, step_px)


def _closed_tips(jaws: Points, pivot: Points, step_px: float) -> list[Points]:
    """Find the tips of closed jaws: halfway between the middle and either side of their end."""
    towards = jaws.mean(axis=0) - pivot
    tip = _tip(jaws, pivot, towards / max(float(np.hypot(*towards)), 1e-9), step_px)
    direction = (tip - pivot) / max(float(np.hypot(*(tip - pivot))), 1e-9)
    along = (jaws - pivot) @ direction
    normal = np.array([-direction[1], direction[0]])
    ends = ((jaws - pivot) @ normal)[along >= 0.9 * along.max()]
    quarter = float(np.ptp(ends) + step_px) / 4
    return [tip - quarter * normal, tip + quarter * normal]


def _tip(jaw: Points, pivot: Points, direction: Points, step_px: float) -> Points:
    """Find the middle of the far end of a jaw in a direction, which is a unit vector."""
    along = (jaw - pivot) @ direction
    length = float(along.max())
    normal = np.array([-direction[1], direction[0]])
    across = (jaw - pivot) @ normal
    end = float(across[along >= _TIP_SHARE * length].mean())
    return np.asarray(pivot + (length + step_px / 2) * direction + end * normal)


def _cut_off(points: list[Keypoint], clasper: Points, field: Field) -> list[Keypoint]:
    """Flag the tips of jaws that end at the border: those of the jaws lie beyond it."""
    if np.count_nonzero(field.touches(clasper)) < MIN_CONTACT:
        return points
    flagged = []
    for point in points:
        is_cut = float(field.gaps(point.xy_px)) < 2 * field.step + field.round_px
        is_tip = point.kind == KeypointKind.TIP
        beyond = point.is_beyond or (is_cut and not is_tip)
        flagged.append(point._replace(is_hidden=is_tip, is_beyond=beyond))
    return flagged


def _as_uncertain(points: list[Keypoint], width_px: float) -> list[Keypoint]:
    """Flag keypoints as hidden, and increase their standard deviation."""
    sigma_px = _UNCERTAIN_SIGMA * width_px
    return [p._replace(sigma_px=max(p.sigma_px, sigma_px), is_hidden=True) for p in points]


def _opening_deg(tips: list[Points], pivot: Points) -> float:
    if len(tips) < 2:
        return 0.0
    first, second = (tip - pivot for tip in tips)
    cross = float(first[0] * second[1] - first[1] * second[0])
    return abs(math.degrees(math.atan2(cross, float(first @ second))))


def _tip_points(
    tips: list[Points], pivot: Points, heading: Points, width_px: float, field: Field
) -> list[Keypoint]:
    """Create the keypoints of the tips: left and right as seen along the shaft, and the middle."""
    middle = np.mean(tips, axis=0)
    found = [_point(KeypointKind.TIP, middle, middle - pivot, width_px, field)]
    side = [float(heading[0] * (t - pivot)[1] - heading[1] * (t - pivot)[0]) for t in tips]
    left, right = tips[int(np.argmin(side))], tips[int(np.argmax(side))]
    for kind, tip in ((KeypointKind.LEFT_JAW_TIP, left), (KeypointKind.RIGHT_JAW_TIP, right)):
        found.append(_point(kind, tip, tip - pivot, width_px, field))
    return found
