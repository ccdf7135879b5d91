# SPDX-License-Identifier: Apache-2.0
"""
Tips and axes of instruments in space, from the masks of two eyes.

Instruments of both eyes are matched along epipolar lines, which are the rows of rectified images.
The tip is that of the first eye; how far it is away follows from the shift between the outlines of
both eyes, which is far more exact than that between their tips.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.detections import Instrument
from surgseg_ros.core.field import Points
from surgseg_ros.core.geometry import find_geometries
from surgseg_ros.core.keypoints import Geometry, Keypoint, KeypointKind
from surgseg_ros.core.segmentation import Roi
from surgseg_ros.core.stereo_calibration import StereoCalibration, StereoError
from surgseg_ros.core.stereo_outlines import Outline, Shift, find_outline, fit_shift

DEPTHS_M: Final = (0.01, 0.5)
"""What can be seen sharply by an endoscope; matches beyond are none."""

_GATE: Final = 3.0
_ANGLE_RAD: Final = 0.1
_LOG_WIDTH: Final = 0.1
_ROW_PX: Final = 1.0
"""How exact the rows of a calibration are, at the best."""

_RADIUS: Final = 1.5
_LEAST_RADIUS: Final = 0.04
"""How far around the tip outlines count: in widths of the shaft, and in image heights."""

_LEAST_SINE: Final = 0.02
"""Of the angle between a shaft and the rows, along which both eyes see the same."""

_GROWTH_SIGMA: Final = 5e-5
"""Deviation of the relative growth of a shaft's width, per pixel."""

_STEEPEST: Final = 2.0
"""Tangent of the angle between a shaft and the image beyond which its edges are not trusted."""

_EDGE_SIGMA: Final = 0.7
"""Deviation of a shaft's angle, over that of its edges per length."""

_SHORT_RAD: Final = 0.3
"""Deviation of the angle of a shaft that is as long as it is wide, of which little is seen."""


class CameraResult(NamedTuple):
    """
    The result of one eye.

    :param mask: (H, W) uint8 class index.
    :param instruments: those found in it.
    :param roi: the part of the image that was segmented; None for all of it.
    """

    mask: NDArray[np.uint8]
    instruments: Sequence[Instrument]
    roi: Roi | None = None


@dataclass(frozen=True)
class LocatedInstrument:
    """
    An instrument in space, in the rectified frame of the first camera.

    :param instrument: as the first eye sees it.
    :param score: the lesser of both eyes' scores, 0..1.
    :param tip_m: (3,) its tip in metres.
    :param axis: (3,) unit vector along its shaft to the tip.
    :param covariance: (6, 6) of the tip in m², and of the rotation about the frame's axes in rad²;
        the turn about the shaft is unknown, with a variance of pi².
    """

    instrument: Instrument
    score: float
    tip_m: Points
    axis: Points
    covariance: Points


class _Sighting(NamedTuple):
    """An instrument in one eye, in pixels of the rectified image."""

    instrument: Instrument
    raw_tip: Keypoint
    tip: Points
    end: Points
    angle_rad: float
    angle_sigma_rad: float
    width_px: float
    growth: float | None
    length_px: float


def locate_instruments(
    calibration: StereoCalibration, first: CameraResult, second: CameraResult
) -> list[LocatedInstrument]:
    """
    Find tips and axes in space.

    :param calibration: of both cameras.
    :param first: result of the first camera.
    :param second: result of the second camera, of the same moment.
    :return: the instruments whose tip and shaft both eyes see, in the order of the first's.
    :raises StereoError: if the calibration is of images of other sizes, or the eyes are swapped.
    """
    eyes = []
    for camera, result in enumerate((first, second)):
        calibration.check_size(camera, (result.mask.shape[0], result.mask.shape[1]))
        eyes.append(_sightings(calibration, camera, result))
    pairs, cost = _match(calibration, eyes[0], eyes[1], 1.0)
    swapped, cost_swapped = _match(calibration, eyes[0], eyes[1], -1.0)
    if (len(swapped), -cost_swapped) > (len(pairs), -cost):
        raise StereoError(
            'the second camera sees the instruments where the first one should: the eyes seem to '
            'be swapped; exchange image_topics or the cables'
        )
    found = (_locate(calibration, (first, second), *pair) for pair in pairs)
    return [one for one in found if one is not None]


def _sightings(calibration: StereoCalibration, camera: int, eye: CameraResult) -> list[_Sighting]:
    """Find the instruments whose tip and shaft an eye sees."""
    found = []
    geometries = find_geometries(eye.instruments, eye.mask, eye.roi)
    for instrument, geometry in zip(eye.instruments, geometries):
        sighting = _sighting(calibration, camera, instrument, geometry)
        if sighting is not None:
            found.append(sighting)
    return found


def _sighting(
    calibration: StereoCalibration, camera: int, instrument: Instrument, geometry: Geometry
) -> _Sighting | None:
    points = {point.kind: point for point in geometry.keypoints}
    kinds = KeypointKind
    tip, end, entry = (points.get(k) for k in (kinds.TIP, kinds.SHAFT_AXIS, kinds.SHAFT_ENTRY))
    if tip is None or end is None or entry is None or tip.is_hidden or tip.is_beyond:
        return None
    width = geometry.shaft_width_px or 1.0
    length_px = width  # at least, where its beginning is not seen
    if not entry.is_hidden:
        length_px = max(width, float(np.hypot(*(end.place - entry.place))))
    before = end.place - length_px * np.array([math.cos(end.angle_rad), math.sin(end.angle_rad)])
    edges = [
        points[k].place for k in (kinds.LEFT_SHAFT_EDGE, kinds.RIGHT_SHAFT_EDGE) if k in points
    ]
    seen = calibration.rectify(camera, np.array([tip.place, end.place, before, *edges]))
    angle = math.atan2(*(seen[1] - seen[2])[::-1])
    sigma = math.hypot(
        _EDGE_SIGMA * end.sigma_px / length_px, _SHORT_RAD * (width / length_px) ** 4
    )
    growth = _growth(seen[1], angle, width, seen[3:])
    return _Sighting(instrument, tip, seen[0], seen[1], angle, sigma, width, growth, length_px)


def _growth(end: Points, angle_rad: float, width_px: float, edges: Points) -> float | None:
    """Tell by which share a shaft grows per pixel against its direction, from its edges' ends."""
    if not len(edges) or width_px <= 1:
        return None
    direction = np.array([math.cos(angle_rad), math.sin(angle_rad)])
    away = edges - end
    behind = -away @ direction
    half = np.abs(away @ [-direction[1], direction[0]])
    if behind.min() < width_px:
        return None
    return float(np.mean((2 * half / width_px - 1) / behind))


def _match(
    calibration: StereoCalibration,
    first: Sequence[_Sighting],
    second: Sequence[_Sighting],
    sign: float,
) -> tuple[list[tuple[_Sighting, _Sighting]], float]:
    """
    Match the instruments of both eyes by class, row, direction and width.

    :param sign: 1, or -1 to match as if the eyes were swapped.
    :return: the pairs, and the sum of their costs in squared deviations.
    """
    from scipy.optimize import linear_sum_assignment

    if not first or not second:
        return [], 0.0
    most = 4 * _GATE**2  # of the four measures that are compared
    costs = np.array([[_cost(calibration, one, two, sign) for two in second] for one in first])
    rows, columns = linear_sum_assignment(np.minimum(costs, 1e6))
    kept = [(i, j) for i, j in zip(rows, columns) if costs[i, j] <= most]
    total = float(sum(costs[i, j] for i, j in kept))
    return [(first[i], second[j]) for i, j in kept], total


def _cost(calibration: StereoCalibration, one: _Sighting, two: _Sighting, sign: float) -> float:
    """Return the squared deviations by which two differ; infinite if they cannot be the same."""
    if one.instrument.label != two.instrument.label:
        return math.inf
    sigma = math.hypot(one.raw_tip.sigma_px, two.raw_tip.sigma_px, _ROW_PX)
    near, far = (calibration.disparity_px(depth) for depth in DEPTHS_M)
    shift = sign * math.copysign(1.0, near) * float(one.tip[0] - two.tip[0])
    if not abs(far) - _GATE * sigma <= shift <= abs(near):
        return math.inf
    turn = math.remainder(one.angle_rad - two.angle_rad, 2 * math.pi)
    apart = (
        (one.tip[1] - two.tip[1]) / sigma,
        turn / math.hypot(_ANGLE_RAD, one.angle_sigma_rad, two.angle_sigma_rad),
        math.log(one.width_px / two.width_px) / _LOG_WIDTH,
        max(0.0, abs(far) - shift) / sigma,  # tells eyes that are swapped, however unsure tips are
    )
    return sum(value**2 for value in apart) if max(map(abs, apart)) < _GATE else math.inf


def _locate(
    calibration: StereoCalibration,
    eyes: tuple[CameraResult, CameraResult],
    one: _Sighting,
    two: _Sighting,
) -> LocatedInstrument | None:
    """Triangulate a pair; nothing if its depth is too uncertain."""
    shift = _shift(calibration, eyes, one, two)
    if shift is None:
        return None
    near, far = (calibration.disparity_px(depth) for depth in DEPTHS_M)
    if not abs(far) <= abs(shift.disparity_px) <= abs(near) or (
        shift.disparity_px * near < 0 or abs(shift.disparity_px) < _GATE * shift.sigma_px
    ):
        return None
    slope, slope_sigma = _slope(calibration, one, two, shift.disparity_px)
    means = np.array([*one.tip, shift.disparity_px, one.angle_rad, slope])
    tip_sigma = one.raw_tip.sigma_px
    sigmas = [tip_sigma, tip_sigma, shift.sigma_px, one.angle_sigma_rad, slope_sigma]
    pose = triangulate(calibration, one.end, means, np.array(sigmas))
    score = min(one.instrument.score, two.instrument.score)
    return LocatedInstrument(one.instrument, score, *pose)


def triangulate(
    calibration: StereoCalibration, end: Points, means: Points, sigmas: Points
) -> tuple[Points, Points, Points]:
    """
    Find tip and axis in space, and how sure they are.

    The covariance is that of the measured values, propagated to the first order (Hartley and
    Zisserman 2004, 5.2.4). A change da of the axis a is the rotation a x da about the fixed axes.

    :param calibration: of both cameras.
    :param end: (2,) where the shaft ends in the first rectified image, in pixels.
    :param means: (5,) tip in that image in pixels, disparity there in pixels, angle of the shaft
        in radians, and the relative change of the disparity along the shaft, per pixel.
    :param sigmas: (5,) standard deviations of these, which are independent.
    :return: tip (3,), axis (3,) and covariance (6, 6), as of LocatedInstrument.
    """

    def pose(values: Points) -> Points:
        return _pose(calibration, end, values)

    tip, axis = np.split(pose(means), 2)
    steps = np.diag(1e-3 * sigmas)
    columns = [(pose(means + step) - pose(means - step)) / 2e-3 for step in steps]
    spread = np.stack(columns, 1)  # (6, 5): change of tip and axis per deviation
    jacobian = np.vstack([spread[:3], np.cross(axis, spread[3:].T).T])
    covariance = jacobian @ jacobian.T
    covariance[3:, 3:] += math.pi**2 * np.outer(axis, axis)
    return tip, axis, covariance


def _pose(calibration: StereoCalibration, end: Points, values: Points) -> Points:
    """Return (6,), tip and axis; see `triangulate`."""
    tip, (disparity, angle, slope) = values[:2], values[2:]
    direction = np.array([math.cos(angle), math.sin(angle)]) / calibration.focal_px
    away = (end - calibration.centre_px) / calibration.focal_px
    # The line is away / disparity; this is its derivative along the image, times the disparity.
    axis = np.append(direction, 0.0) - slope * np.append(away, 1.0)
    return np.concatenate([calibration.place_m(tip, disparity), axis / np.linalg.norm(axis)])


def _shift(
    calibration: StereoCalibration,
    eyes: tuple[CameraResult, CameraResult],
    one: _Sighting,
    two: _Sighting,
) -> Shift | None:
    """Find the disparity of the tip from the outlines around it."""
    outlines = []
    for camera, (eye, sighting) in enumerate(zip(eyes, (one, two))):
        tip = sighting.raw_tip.place
        radius_px = max(_RADIUS * sighting.width_px, _LEAST_RADIUS * eye.mask.shape[0])
        seen = find_outline(eye.mask, sighting.instrument, tip, radius_px)
        points, outside = (
            calibration.rectify(camera, places)
            for places in (seen.points, seen.points + seen.normals)
        )
        outlines.append(Outline(points, outside - points))
    guess = float(one.tip[0] - two.tip[0]), math.hypot(one.raw_tip.sigma_px, two.raw_tip.sigma_px)
    direction = np.array([math.cos(one.angle_rad), math.sin(one.angle_rad)])
    first, second = outlines
    return fit_shift(first, second, one.tip, direction, guess, 1 / calibration.focal_px[0])


def _slope(
    calibration: StereoCalibration, one: _Sighting, two: _Sighting, disparity_px: float
) -> tuple[float, float]:
    """
    Find the relative change of the disparity along the shaft, per pixel, and its deviation.

    Both eyes see the shaft at other angles, unless it lies along the rows; as its diameter is the
    same everywhere, it looks wider where it is nearer; and few shafts lie along the line of sight.
    """
    found = [(0.0, 1 / calibration.focal_px[0])]
    sine, turn = math.sin(two.angle_rad), math.sin(two.angle_rad - one.angle_rad)
    along = float((one.end - one.tip) @ [math.cos(one.angle_rad), math.sin(one.angle_rad)])
    at_end = disparity_px * sine + turn * along
    if abs(sine) > _LEAST_SINE and at_end * disparity_px * sine > 0:
        sigma = math.hypot(one.angle_sigma_rad, two.angle_sigma_rad)
        found.append((turn / at_end, sigma / abs(at_end)))
    if one.growth is not None and abs(one.growth) * calibration.focal_px[0] < _STEEPEST:
        found.append((-one.growth, _GROWTH_SIGMA))
    weights = np.array([1 / sigma**2 for _, sigma in found])
    slopes = np.array([slope for slope, _ in found])
    return float(weights @ slopes / weights.sum()), float(weights.sum() ** -0.5)


def turn_from_x(axis: Points) -> Points:
    """
    Return the smallest rotation that turns x into an axis.

    :param axis: (3,) unit vector.
    :return: (4,) unit quaternion x, y, z, w.
    """
    if axis[0] < -1 + 1e-12:
        return np.array([0.0, 0.0, 1.0, 0.0])  # half a turn about z
    turn = np.array([0.0, -axis[2], axis[1], 1 + axis[0]])
    return np.asarray(turn / np.linalg.norm(turn))
