# SPDX-License-Identifier: Apache-2.0
"""
Joins the pieces of shafts that something covers, and orients shafts towards their tips.

The end of a shaft may be a fork (clevis) that holds the wrist. Its two arms are the ears: where
the wrist or an instrument covers the rest of the fork, they are separate pieces of shaft.
"""

from __future__ import annotations

import dataclasses
from typing import Final

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.labels import CLASPER, WRIST
from surgseg_ros.core.parts import IS_CLEAR, Part, ToolParts, are_near, distances, touch
from surgseg_ros.core.segmentation import Field, Points
from surgseg_ros.core.strips import Strip, angle_between, strip_along

_COVERED_SHARE: Final = 0.6
_BETWEEN: Final = np.linspace(0, 1, 9)[1:-1, None]

EARS_SHARE: Final = 0.4
"""Largest area of the ears of a shaft, as a share of the area of the wrist between them."""

_TINY_SHARE: Final = 0.01
"""A piece of shaft below this share of the area of a wrist that it touches is not a shaft."""


def join_shafts(
    shafts: list[Part], ends: list[Part], mask: NDArray[np.uint8], field: Field
) -> list[list[Part]]:
    """
    Group the pieces of shafts that something in front of them, or their wrist, separates.

    :param shafts: the pieces, with their strips.
    :param ends: all wrists and claspers.
    :param mask: (H, W) uint8 class index.
    :param field: the visible part of the image.
    :return: the pieces of each shaft, the largest first.
    """
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
            enter = all(field.touches(one.rim).any() for one in known)  # which ears do not
            ears = not enter and _are_parallel_ears(*known, ends)
            if apart or _is_visible_beside(*known) or ears:
                group.append(part)
                break
        else:
            groups.append([part])
    return groups


def _is_bridged(group: list[Part], piece: Part, mask: NDArray[np.uint8]) -> bool:
    """Return whether something other than tissue covers the gap between pieces of a shaft."""
    sample = piece.sample
    nearest = sample[int(distances(sample, group).argmin())]
    return is_covered(nearest, piece, ToolParts(group, [], []), mask)


def _are_ears(first: Part, second: Part, ends: list[Part], step_px: float) -> bool:
    """
    Return whether two pieces are the visible ears of one shaft, on both sides of its wrist.

    So is the second one, which is smaller, if it is tiny beside the wrist of the first.
    """
    area = len(first.points) + len(second.points)
    return any(
        (area < EARS_SHARE * len(part.points) or _is_tiny(second, part))
        and touch(first, part, step_px)
        and touch(second, part, step_px)
        for part in ends
        if part.label == WRIST
    )


def _is_tiny(piece: Part, wrist: Part) -> bool:
    return len(piece.points) < _TINY_SHARE * len(wrist.points)


def _enter_separately(first: Part, second: Part, field: Field) -> bool:
    """Return whether two shafts enter the image at different positions, so they are two tools."""
    entries = []
    for part in (first, second):
        if part.strip is None:
            return False
        ends = np.stack([part.strip.start, part.strip.end])
        gaps = field.gaps(ends)
        if gaps.min() > part.strip.width_px / 2:
            return False
        entries.append(ends[gaps.argmin()])
        width_px = part.strip.width_px
    return float(np.hypot(*(entries[0] - entries[1]))) > 2 * width_px


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

_MAX_GAP: Final = 4.0
"""Widest gap between the pieces of a shaft or rod, or before its wrist, in widths."""

_ONE_END: Final = 3
"""Wrists and claspers are at one end of a shaft if more than this many times as much is there."""

_SPECK: Final = 0.1
"""That is needed in addition, in squares of a shaft's width."""

_PARALLEL_RAD: Final = 0.2
_TURNED_RAD: Final = 0.4
_INSIDE: Final = 1.15
_OFFSET: Final = 0.3


def continues(shaft: Part, piece: Part, apart: float = _MAX_GAP) -> bool:
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


def orient_shaft(tool: ToolParts, ends: list[Part], field: Field) -> None:
    """
    Orient a shaft from where it enters the image towards the tip.

    :param tool: the tool; the strip of its first shaft is replaced.
    :param ends: all wrists and claspers.
    :param field: the visible part of the image.
    """
    shaft = tool.shafts[0]
    strip = shaft.strip
    if strip is None:
        return
    low, high = strip.start_px, strip.end_px
    wrists = [part for part in ends if part.label == WRIST]
    for piece in tool.shafts[1:]:
        if not any(_is_tiny(piece, wrist) and touch(piece, wrist, field.step) for wrist in wrists):
            along, _ = strip.coordinates(piece.points)
            low, high = min(low, float(along.min())), max(high, float(along.max()))
    strip = dataclasses.replace(strip, start_px=low, end_px=high)
    if strip.length_px < _STUB * strip.width_px and ends:
        hint = _direction_to_attached(shaft, ends, strip.width_px)
        if hint is not None and abs(float(hint @ strip.direction)) < _AGREEMENT:
            strip = strip_along(shaft.points, hint, field.step)
            tool.shafts[0] = dataclasses.replace(shaft, strip=strip)
            return
    forward = _is_forward(strip, ends, field)
    tool.shafts[0] = dataclasses.replace(shaft, strip=strip if forward else strip.reversed())


def _is_forward(strip: Strip, ends: list[Part], field: Field) -> bool:
    """
    Return whether the tip of a tool is at the end of its shaft, not at its start.

    A shaft enters at the border. If both ends are there, or neither is, wrists and claspers are at
    the tip, if they are at one end; a network also finds specks of them where the endoscope's view
    ends inside the image. Else the tip is at the end that is nearer to the middle of the image.
    """
    both, width = np.stack([strip.start, strip.end]), strip.width_px
    gaps = np.maximum(0, field.gaps(both))
    if abs(gaps[0] - gaps[1]) > 0.5 * width > gaps.min():
        return bool(gaps[0] < gaps[1])
    for limit in (1.0, _MAX_GAP):  # first those that touch the shaft, then those behind a gap
        first, last = (_count_beyond(each, ends, limit) for each in (strip.reversed(), strip))
        if max(first, last) > _ONE_END * min(first, last) + _SPECK * (width / field.step) ** 2:
            return first < last
    away = np.hypot(*(both - field.middle).T)
    return bool(away[0] > away[1])


def _count_beyond(strip: Strip, parts: list[Part], limit: float) -> int:
    """Count the samples of wrists and claspers up to `limit` widths beyond the end of a shaft."""
    width, count = strip.width_px, 0
    for part in parts:
        along, across = strip.coordinates(part.points)
        beyond = along - strip.end_px
        near = (beyond > -width / 2) & (beyond < limit * width) & (np.abs(across) < width)
        count += int(np.count_nonzero(near))
    return count


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


def is_covered(point: Points, part: Part, tool: ToolParts, mask: NDArray[np.uint8]) -> bool:
    """
    Return whether something other than tissue covers the gap between a point and a tool.

    :param point: (2,) a point of the part.
    :param part: a part.
    :param tool: a tool that it may belong to.
    :param mask: (H, W) uint8 class index.
    :return: whether it does; wrists and claspers do not cover the gap to a wrist.
    """
    others = np.concatenate([part.rim for part in tool.parts])
    nearest = others[int(np.hypot(*(others - point).T).argmin())]
    columns, rows = np.rint(point + _BETWEEN * (nearest - point)).astype(np.intp).T
    between = mask[rows, columns]
    covered = ~IS_CLEAR[between]
    if part.label == WRIST:
        covered &= (between != WRIST) & (between != CLASPER)
    return bool(np.count_nonzero(covered) >= _COVERED_SHARE * len(between))
