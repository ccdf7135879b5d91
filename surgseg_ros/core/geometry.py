# SPDX-License-Identifier: Apache-2.0
"""Finds the keypoints of instruments of all classes in a mask."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.curves import LINE_CELLS, Arc, centre_line, fit_arc, resample
from surgseg_ros.core.detections import Instrument
from surgseg_ros.core.instances import sample_runs
from surgseg_ros.core.keypoints import Geometry, Keypoint, KeypointKind, hide_tip, make_point
from surgseg_ros.core.labels import (
    CATHETER,
    CLAMPS,
    HOLDER,
    NEEDLE,
    ROBOTIC_TOOL,
    ROBOTIC_TOOL_PARTS,
    SUCTION,
    THREAD,
)
from surgseg_ros.core.segmentation import Field, Points, Roi, select
from surgseg_ros.core.strips import fit_strip
from surgseg_ros.core.tool_geometry import shaft_points, tool_geometry

MAX_INSTRUMENTS: Final = 64

_NEAR: Final = 0.006
"""A point is hidden if no pixel of its instrument is within this distance, in image heights."""

_MIN_SAMPLES: Final = 3

_ENDS: Final = (KeypointKind.TIP, KeypointKind.LEFT_JAW_TIP, KeypointKind.RIGHT_JAW_TIP)
_OF_MODEL: Final[dict[int, dict[KeypointKind, float]]] = {
    ROBOTIC_TOOL: {
        KeypointKind.TIP: 0.4,
        KeypointKind.LEFT_JAW_TIP: 0.5,
        KeypointKind.RIGHT_JAW_TIP: 0.5,
        KeypointKind.JAW_PIVOT: 0.25,
        KeypointKind.WRIST_JOINT: 0.2,
    },
    NEEDLE: dict.fromkeys(
        (KeypointKind.NEEDLE_POINT, KeypointKind.NEEDLE_TAIL, KeypointKind.NEEDLE_THREAD_END), 6.0
    ),
    HOLDER: {KeypointKind.TIP: 0.4},
    THREAD: {KeypointKind.THREAD_END: 0.3},
    CLAMPS: {KeypointKind.CENTRE: 0.08},
    CATHETER: {KeypointKind.CENTRE: 0.08},
}
"""
Standard deviations that a model adds to those on exact masks, by class and kind of keypoint, as
shares of `Instrument.error_px`: most errors are those of a wrong part, whose size that is about.
Fitted to masks of models/default of drawn scenes; docs/instruments.md has the shares of errors
within them. It hardly finds needles (6 is from 13 ends), and no needle holders, for which that of
tools is assumed. Other kinds, such as the tips of suction tools, need none.
"""

_COVERS: Final = (*ROBOTIC_TOOL_PARTS, SUCTION, HOLDER)
_PROBE: Final = 0.012
"""Distance beyond an end at which to look for something that covers it, in image heights."""

_THREAD_NEAR: Final = 0.03
"""Largest distance from a thread to the end of a needle that it is tied to, in image heights."""

_AT_BORDER: Final = 0.015
"""An end of a needle is cut off if samples this near to it touch the border, in image heights."""

_THIN: Final = 0.85
"""The point of a needle is thinner than this, in widths of its middle and of its cut end."""


def find_geometries(
    instruments: Sequence[Instrument], mask: NDArray[np.uint8], roi: Roi | None = None
) -> list[Geometry]:
    """
    Find the keypoints of all instruments of an image.

    :param instruments: as `find_instruments` returns them. Only the MAX_INSTRUMENTS largest get
        keypoints, since a mask of noise has thousands of instruments.
    :param mask: (H, W) uint8 class index.
    :param roi: the part of the image that was segmented; None for the whole image.
    :return: the keypoints of each instrument that can be found; none without a decision.
    :raises TypeError: if `instruments` is None, as in results without instruments.
    """
    _check_instruments(instruments)
    field = Field((mask.shape[0], mask.shape[1]), roi)
    chosen = sorted(instruments, key=lambda i: -i.area_px)[:MAX_INSTRUMENTS]
    threads = [i.runs for i in chosen if i.label == THREAD and i.runs is not None]
    samples = [sample_runs(thread, field.step) for thread in threads]
    of_threads = np.concatenate(samples) if samples else np.empty((0, 2))
    numbers = {id(instrument) for instrument in chosen}
    return [
        _find(instrument, mask, field, of_threads) if id(instrument) in numbers else Geometry()
        for instrument in instruments
    ]


def _check_instruments(instruments: Sequence[Instrument] | None) -> None:
    if instruments is None:
        raise TypeError(
            'instruments is None: use those of a result of segment(image, instruments=True)'
        )


class Distance(NamedTuple):
    """
    The distance between keypoints of two instruments.

    :param px: distance in pixels.
    :param sigma_px: its standard deviation, if the errors of both points are independent.
    :param first: index of the first instrument.
    :param second: index of the second instrument.
    """

    px: float
    sigma_px: float
    first: int
    second: int


class Distances(NamedTuple):
    """
    Distances that a controller needs; None if a keypoint is not visible.

    :param needle_to_tip: from a needle's point to the nearest tip of a robotic tool.
    :param tip_to_tip: between the tips of the two robotic tools that are closest to each other.
    """

    needle_to_tip: Distance | None
    tip_to_tip: Distance | None


def min_distances(instruments: Sequence[Instrument], geometries: Sequence[Geometry]) -> Distances:
    """
    Find the smallest distances between keypoints of instruments.

    :param instruments: the instruments of an image.
    :param geometries: geometry of each instrument; points that are hidden or outside the image are
        ignored.
    :return: the distances.
    :raises TypeError: if `instruments` or `geometries` is None.
    :raises ValueError: if their numbers differ.
    """
    _check_instruments(instruments)
    if geometries is None:
        raise TypeError('geometries is None, expected what find_geometries returns')
    if len(geometries) != len(instruments):
        raise ValueError(
            f'there are {len(geometries)} geometries of {len(instruments)} instruments: use what '
            'find_geometries returns for the same instruments'
        )
    tips = _seen(instruments, geometries, ROBOTIC_TOOL, KeypointKind.TIP)
    needles = _seen(instruments, geometries, NEEDLE, KeypointKind.NEEDLE_POINT)
    return Distances(_minimum(needles, tips), _minimum(tips, tips))


def _seen(
    instruments: Sequence[Instrument],
    geometries: Sequence[Geometry],
    label: int,
    kind: KeypointKind,
) -> list[tuple[int, Keypoint]]:
    """List the visible keypoints of a kind, with the indices of their instruments."""
    return [
        (index, point)
        for index, (instrument, geometry) in enumerate(zip(instruments, geometries))
        if instrument.label == label
        for point in geometry.keypoints
        if point.kind == kind and not point.is_hidden and not point.is_beyond
    ]


def _minimum(
    firsts: list[tuple[int, Keypoint]], seconds: list[tuple[int, Keypoint]]
) -> Distance | None:
    distances = [
        Distance(
            math.hypot(one.x_px - other.x_px, one.y_px - other.y_px),
            math.hypot(one.sigma_px, other.sigma_px),
            first,
            second,
        )
        for first, one in firsts
        for second, other in seconds
        if first != second
    ]
    return min(distances, default=None)


def _find(
    instrument: Instrument, mask: NDArray[np.uint8], field: Field, threads: Points
) -> Geometry:
    """Find the keypoints of an instrument; `threads` are samples of all threads."""
    if instrument.runs is None:
        return Geometry()
    if instrument.label == ROBOTIC_TOOL:
        found = tool_geometry(instrument.parts, field) if instrument.parts else Geometry()
    elif instrument.label == NEEDLE:
        found = _needle_geometry(sample_runs(instrument.runs, field.step), threads, field)
    else:
        find = _OTHERS.get(instrument.label, _centre)
        found = find(sample_runs(instrument.runs, field.step), field)
    shares = _OF_MODEL.get(instrument.label, {})
    flagged = []
    for point in found.keypoints:
        sigma_px = math.hypot(point.sigma_px, shares.get(point.kind, 0.0) * instrument.error_px)
        flagged.append(_flagged(point._replace(sigma_px=sigma_px), instrument.label, mask))
    return dataclasses.replace(found, keypoints=hide_tip(flagged))


def window(image: NDArray[Any], row: int, column: int, radius_px: int) -> NDArray[Any]:
    """
    Return the square around a pixel.

    :param image: (H, W).
    :param row: row of the pixel; it may lie outside the image.
    :param column: column of the pixel.
    :param radius_px: half of the side length, in pixels.
    :return: the part of the square that is in the image.
    """
    rows, columns = (
        slice(max(0, at - radius_px), max(0, at + radius_px + 1)) for at in (row, column)
    )
    return image[rows, columns]


def _flagged(point: Keypoint, label: int, mask: NDArray[np.uint8]) -> Keypoint:
    """Flag a point as hidden if no pixel of its class is near, or if something covers its end."""
    if point.is_beyond or point.is_hidden:
        return point
    if point.kind in _ENDS and _is_cut(point, mask):
        return point._replace(is_hidden=True)
    if point.kind == KeypointKind.NEEDLE_CENTRE or point.kind == KeypointKind.TIP:
        return point
    radius_px = max(1, round(_NEAR * mask.shape[0]))
    row, column = round(point.y_px), round(point.x_px)
    near = window(mask, row, column, radius_px)
    own = ROBOTIC_TOOL_PARTS if label == ROBOTIC_TOOL else (label,)
    return point._replace(is_hidden=not np.isin(near, own).any())


def _is_cut(end: Keypoint, mask: NDArray[np.uint8]) -> bool:
    """Return whether a tool or rod lies just beyond an end, so that the true end is covered."""
    probes = _PROBE * mask.shape[0] * np.array([[1.0], [2.0]])
    out = np.array([math.cos(end.angle_rad), math.sin(end.angle_rad)])
    columns, rows = np.rint(end.xy_px + probes * out).astype(np.intp).T
    inside = (rows >= 0) & (rows < mask.shape[0]) & (columns >= 0) & (columns < mask.shape[1])
    return bool(inside.all() and np.isin(mask[rows, columns], _COVERS).all())


def _centre(points: Points, field: Field) -> Geometry:
    """Find the centre of a small object."""
    sigma = field.step / 10
    middle = points.mean(axis=0)
    return Geometry((make_point(KeypointKind.CENTRE, middle, np.zeros(2), sigma, field),))


def _rod_geometry(points: Points, field: Field) -> Geometry:
    """Find tip, axis and entry point of a rod."""
    if len(points) < _MIN_SAMPLES:
        return Geometry()
    strip = fit_strip(points, field)
    gaps = np.maximum(0, field.gaps(np.stack([strip.start, strip.end])))
    strip = strip if gaps[0] <= gaps[1] else strip.reversed()
    tip = make_point(
        KeypointKind.TIP, strip.end, strip.direction, strip.residual_px + field.step / 2, field
    )
    points_found = (tip, *shaft_points(strip, field))
    return Geometry(points_found, shaft_width_px=2 * float(strip.half_at(strip.end_px)))


def _needle_geometry(points: Points, threads: Points, field: Field) -> Geometry:
    """Find the ends of a needle: the thread is at its tail, and its point is thin."""
    arc = fit_arc(points, field.step)
    if arc is None:
        return Geometry()
    ends = [arc.start, arc.stop]
    is_cut = _are_cut_off(ends, points, field)
    radius_px = _THREAD_NEAR * field.size[0]
    gaps = [float(np.hypot(*(threads - end).T).min(initial=np.inf)) for end in ends]
    fastened = min(gaps) < radius_px and max(gaps) - min(gaps) > radius_px / 2
    fastened &= not is_cut[int(np.argmin(gaps))]
    first_is_tail = gaps[0] < gaps[1] if fastened else _is_first_thicker(arc, is_cut)
    tail, point = ends if first_is_tail else ends[::-1]
    tail_cut, point_cut = is_cut if first_is_tail else is_cut[::-1]
    kinds, sigma = KeypointKind, math.hypot(1.5 * arc.residual_px, field.step / 2)
    out, back = (_tangent(arc.centre, end, arc.middle) for end in (point, tail))
    found = [
        make_point(kinds.NEEDLE_POINT, point, out, 0.17 * sigma, field),
        make_point(kinds.NEEDLE_TAIL, tail, back, 0.17 * sigma, field),
        make_point(kinds.NEEDLE_MIDDLE, arc.middle, point - tail, sigma, field),
        make_point(kinds.NEEDLE_CENTRE, arc.centre, np.zeros(2), 0.4 * sigma, field),
    ]
    for index, end_is_cut in enumerate((point_cut, tail_cut)):
        found[index] = found[index]._replace(is_beyond=found[index].is_beyond or end_is_cut)
    if fastened:
        found.append(found[1]._replace(kind=kinds.NEEDLE_THREAD_END))
    return Geometry(tuple(found), needle_radius_px=arc.radius_px)


def _are_cut_off(ends: list[Points], points: Points, field: Field) -> list[bool]:
    """Return whether each end of a needle is where the border cuts it off."""
    contact = select(points, field.touches(points))
    limit_px = _AT_BORDER * field.size[0]
    return [float(np.hypot(*(contact - end).T).min(initial=np.inf)) < limit_px for end in ends]


def _is_first_thicker(arc: Arc, is_cut: list[bool]) -> bool:
    """
    Return whether the first end of a needle is the thicker one, its tail.

    If one end is cut off, the width of the other is compared with the widest other part, since
    jaws often cover the middle. If both are cut off, both are flagged, and either may be the tail.
    """
    if is_cut[0] == is_cut[1]:
        return arc.start_width >= arc.stop_width
    seen, cut = arc.start_width, arc.stop_width
    if is_cut[0]:
        seen, cut = cut, seen
    return (seen >= _THIN * max(arc.middle_width, cut)) != is_cut[0]


def _tangent(centre: Points, end: Points, middle: Points) -> Points:
    """Return the direction of an arc at its end, away from its middle."""
    away = end - centre
    tangent = np.array([-away[1], away[0]])
    return np.asarray(tangent if tangent @ (end - middle) > 0 else -tangent)


def _thread_geometry(points: Points, field: Field) -> Geometry:
    """Find the ends of a thread, and points along it."""
    line = resample(centre_line(points, field.size[0] / LINE_CELLS))
    steps = np.gradient(line, axis=0)
    sigma = field.size[0] / LINE_CELLS / 4
    kinds = KeypointKind
    found = [
        make_point(kinds.THREAD_END, line[0], -steps[0], 2 * sigma, field),
        make_point(kinds.THREAD_END, line[-1], steps[-1], 2 * sigma, field),
    ]
    found += [make_point(kinds.THREAD_LINE, *sample, sigma, field) for sample in zip(line, steps)]
    return Geometry(tuple(found))


_OTHERS: Final = {SUCTION: _rod_geometry, HOLDER: _rod_geometry, THREAD: _thread_geometry}
