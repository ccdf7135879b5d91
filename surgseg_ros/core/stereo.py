# SPDX-License-Identifier: Apache-2.0
"""
3-D positions of tips and axes of instruments, from the masks of two cameras.

Instruments of both images are matched along epipolar lines, which are the rows of rectified
images. The image position of the tip is taken from the first camera. Its depth follows from the
disparity between the outlines in both images, which is far more exact than the disparity between
the two tips.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.detections import Instrument
from surgseg_ros.core.geometry import find_geometries
from surgseg_ros.core.keypoints import Geometry, Keypoint, KeypointKind
from surgseg_ros.core.labels import ROBOTIC_TOOL
from surgseg_ros.core.segmentation import Field, Points, Roi
from surgseg_ros.core.stereo_calibration import StereoCalibration, StereoError
from surgseg_ros.core.stereo_outlines import Disparity, Outline, find_outline, fit_disparity
from surgseg_ros.core.tool_geometry import exact_sigma_px

DEPTHS_M: Final = (0.01, 0.5)
"""Working distances of an endoscope; matches at other depths are rejected."""

_GATE: Final = 3.0
_TIP_GROWTH: Final = 5.3
_MAX_GROWTH: Final = 3.0
"""
Powers of ten by which the standard deviation of a tip on exact masks grows as the score falls from
1 to 0 when both images are compared; and the limit of that. It is smaller than the keypoint's own,
since a model makes most of its errors in both images. With a limit, tips that only seem to agree
because they are uncertain are not matched.
"""

_ANGLE_RAD: Final = 0.1
_LOG_WIDTH: Final = 0.1
_ROW_PX: Final = 1.0
"""Smallest vertical error of a stereo calibration that is assumed, in pixels."""

_OUTLINES: Final = 0.02
"""Standard deviation of the disparity that a model adds, as the shares in core/geometry.py."""

_RADIUS: Final = 1.5
_MIN_RADIUS: Final = 0.04
"""Radius around the tip in which outlines are used, in shaft widths; its minimum in heights."""

_MIN_SINE: Final = 0.02
"""Minimum sine of the angle between a shaft and the rows; along a row, angles do not differ."""

_GROWTH_SIGMA: Final = 5e-5
"""Standard deviation of the relative growth of a shaft's width, per pixel."""

_STEEPEST: Final = 2.0
"""Tangent of the angle between shaft and image plane beyond which the edges are not used."""

_EDGE_SIGMA: Final = 0.7
"""Standard deviation of a shaft's angle, relative to that of its edges divided by its length."""

_SHORT_RAD: Final = 0.3
"""Standard deviation of the angle of a visible piece of shaft that is as long as it is wide."""


class CameraResult(NamedTuple):
    """
    The result of one camera.

    :param mask: (H, W) uint8 class index.
    :param instruments: the instruments in the mask.
    :param roi: the part of the image that was segmented; None for the whole image.
    """

    mask: NDArray[np.uint8]
    instruments: Sequence[Instrument]
    roi: Roi | None = None


@dataclass(frozen=True)
class LocatedInstrument:
    """
    An instrument in 3-D, in the rectified frame of the first camera.

    :param instrument: the instrument in the image of the first camera.
    :param score: the smaller of the scores in both images, 0..1.
    :param tip_m: (3,) its tip in metres.
    :param axis: (3,) unit vector along its shaft to the tip.
    :param covariance: (6, 6) of the tip in m², and of the rotation about the frame's axes in rad²;
        the rotation about the shaft is unknown and has a variance of pi².
    """

    instrument: Instrument
    score: float
    tip_m: Points
    axis: Points
    covariance: Points


class _Observation(NamedTuple):
    """An instrument in one image, in pixels of the rectified image."""

    instrument: Instrument
    raw_tip: Keypoint
    match_sigma_px: float
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
    Find tips and axes in 3-D.

    :param calibration: calibrations of both cameras.
    :param first: result of the first camera.
    :param second: result of the second camera, with the same stamp.
    :return: the instruments whose tip and shaft both images show, in the order of `first`.
    :raises StereoError: if the calibration is for another size, or the images are swapped.
    """
    sightings = []
    for camera, result in enumerate((first, second)):
        calibration.check_size(camera, (result.mask.shape[0], result.mask.shape[1]))
        sightings.append(_sightings(calibration, camera, result))
    pairs, cost = _match(calibration, sightings[0], sightings[1], 1.0)
    swapped, cost_swapped = _match(calibration, sightings[0], sightings[1], -1.0)
    if (len(swapped), -cost_swapped) > (len(pairs), -cost):
        raise StereoError(
            'the second camera sees the instruments where the first one should: the cameras seem '
            'to be swapped; exchange image_topics or the cables'
        )
    found = (_locate(calibration, (first, second), *pair) for pair in pairs)
    return [one for one in found if one is not None]


def _sightings(
    calibration: StereoCalibration, camera: int, result: CameraResult
) -> list[_Observation]:
    """Find the instruments whose tip and shaft are visible in one image."""
    found = []
    geometries = find_geometries(result.instruments, result.mask, result.roi)
    step_px = Field((result.mask.shape[0], result.mask.shape[1])).step
    for instrument, geometry in zip(result.instruments, geometries):
        observation = _observe(calibration, camera, instrument, geometry, step_px)
        if observation is not None:
            found.append(observation)
    return found


def _observe(
    calibration: StereoCalibration,
    camera: int,
    instrument: Instrument,
    geometry: Geometry,
    step_px: int,
) -> _Observation | None:
    points = {point.kind: point for point in geometry.keypoints}
    kinds = KeypointKind
    tip, end, entry = (points.get(k) for k in (kinds.TIP, kinds.SHAFT_AXIS, kinds.SHAFT_ENTRY))
    if tip is None or end is None or entry is None or tip.is_hidden or tip.is_beyond:
        return None
    width = geometry.shaft_width_px or 1.0
    length_px = width  # lower bound if the start of the shaft is not visible
    if not entry.is_hidden:
        length_px = max(width, float(np.hypot(*(end.xy_px - entry.xy_px))))
    before = end.xy_px - length_px * np.array([math.cos(end.angle_rad), math.sin(end.angle_rad)])
    edges = [
        points[k].xy_px for k in (kinds.LEFT_SHAFT_EDGE, kinds.RIGHT_SHAFT_EDGE) if k in points
    ]
    seen = calibration.rectify(camera, np.array([tip.xy_px, end.xy_px, before, *edges]))
    angle = math.atan2(*(seen[1] - seen[2])[::-1])
    sigma = math.hypot(
        _EDGE_SIGMA * end.sigma_px / length_px, _SHORT_RAD * (width / length_px) ** 4
    )
    growth = _growth(seen[1], angle, width, seen[3:])
    exact = exact_sigma_px(kinds.TIP, width, step_px)
    if instrument.label != ROBOTIC_TOOL:  # the tip of a rod is where its edges end
        exact = end.sigma_px + step_px / 2
    match_sigma = exact * min(10 ** (_TIP_GROWTH * (1 - instrument.score)), _MAX_GROWTH)
    shaft = seen[1], angle, sigma, width, growth, length_px
    return _Observation(instrument, tip, match_sigma, seen[0], *shaft)


def _growth(end: Points, angle_rad: float, width_px: float, edges: Points) -> float | None:
    """Compute the relative growth of a shaft's width per pixel, away from its end."""
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
    first: Sequence[_Observation],
    second: Sequence[_Observation],
    sign: float,
) -> tuple[list[tuple[_Observation, _Observation]], float]:
    """
    Match the instruments of both images by class, row, direction and width.

    :param sign: 1, or -1 to match as if the images were swapped.
    :return: the pairs, and the sum of their costs in squared standard deviations.
    """
    from scipy.optimize import linear_sum_assignment

    if not first or not second:
        return [], 0.0
    maximum = 4 * _GATE**2  # the limit of all four terms of the cost
    costs = np.array([[_cost(calibration, one, two, sign) for two in second] for one in first])
    rows, columns = linear_sum_assignment(np.minimum(costs, 1e6))
    kept = [(i, j) for i, j in zip(rows, columns) if costs[i, j] <= maximum]
    total = float(sum(costs[i, j] for i, j in kept))
    return [(first[i], second[j]) for i, j in kept], total


def _cost(
    calibration: StereoCalibration, one: _Observation, two: _Observation, sign: float
) -> float:
    """Return the sum of squared normalized differences; infinite if they cannot be the same."""
    if one.instrument.label != two.instrument.label:
        return math.inf
    sigma = math.hypot(one.match_sigma_px, two.match_sigma_px, _ROW_PX)
    near, far = (calibration.disparity_px(depth) for depth in DEPTHS_M)
    disparity = sign * math.copysign(1.0, near) * float(one.tip[0] - two.tip[0])
    if not abs(far) - _GATE * sigma <= disparity <= abs(near):
        return math.inf
    turn = math.remainder(one.angle_rad - two.angle_rad, 2 * math.pi)
    apart = (
        (one.tip[1] - two.tip[1]) / sigma,
        turn / math.hypot(_ANGLE_RAD, one.angle_sigma_rad, two.angle_sigma_rad),
        math.log(one.width_px / two.width_px) / _LOG_WIDTH,
        # Reveals swapped images even if tips are uncertain.
        max(0.0, abs(far) - disparity) / sigma,
    )
    return sum(value**2 for value in apart) if max(map(abs, apart)) < _GATE else math.inf


def _locate(
    calibration: StereoCalibration,
    results: tuple[CameraResult, CameraResult],
    one: _Observation,
    two: _Observation,
) -> LocatedInstrument | None:
    """Triangulate a pair; None if its depth is too uncertain."""
    disparity = _disparity(calibration, results, one, two)
    if disparity is None:
        return None
    near, far = (calibration.disparity_px(depth) for depth in DEPTHS_M)
    if not abs(far) <= abs(disparity.px) <= abs(near) or (
        disparity.px * near < 0 or abs(disparity.px) < _GATE * disparity.sigma_px
    ):
        return None
    slope, slope_sigma = _slope(calibration, one, two, disparity.px)
    means = np.array([*one.tip, disparity.px, one.angle_rad, slope])
    tip_sigma = one.raw_tip.sigma_px
    depth_sigma = math.hypot(disparity.sigma_px, _OUTLINES * one.instrument.error_px)
    sigmas = [tip_sigma, tip_sigma, depth_sigma, one.angle_sigma_rad, slope_sigma]
    pose = triangulate(calibration, one.end, means, np.array(sigmas))
    score = min(one.instrument.score, two.instrument.score)
    return LocatedInstrument(one.instrument, score, *pose)


def triangulate(
    calibration: StereoCalibration, end: Points, means: Points, sigmas: Points
) -> tuple[Points, Points, Points]:
    """
    Compute tip and axis in 3-D, and their covariance.

    The covariance of the measured values is propagated to first order (Hartley and Zisserman,
    Multiple View Geometry, 2004, 5.2.4). A change da of the axis a is the rotation a x da about
    the fixed axes.

    :param calibration: calibrations of both cameras.
    :param end: (2,) end of the shaft in the first rectified image, in pixels.
    :param means: (5,) tip in that image in pixels, disparity of the tip in pixels, angle of the
        shaft in radians, and relative change of the disparity along the shaft, per pixel.
    :param sigmas: (5,) standard deviations of these values, which are independent.
    :return: tip (3,), axis (3,) and covariance (6, 6), as in LocatedInstrument.
    """

    def pose(values: Points) -> Points:
        return _pose(calibration, end, values)

    tip, axis = np.split(pose(means), 2)
    steps = np.diag(1e-3 * sigmas)
    columns = [(pose(means + step) - pose(means - step)) / 2e-3 for step in steps]
    spread = np.stack(columns, 1)  # (6, 5): change of tip and axis per standard deviation
    jacobian = np.vstack([spread[:3], np.cross(axis, spread[3:].T).T])
    covariance = jacobian @ jacobian.T
    covariance[3:, 3:] += math.pi**2 * np.outer(axis, axis)
    return tip, axis, covariance


def _pose(calibration: StereoCalibration, end: Points, values: Points) -> Points:
    """Return (6,), tip and axis; see `triangulate`."""
    tip, (disparity, angle, slope) = values[:2], values[2:]
    direction = np.array([math.cos(angle), math.sin(angle)]) / calibration.focal_px
    away = (end - calibration.centre_px) / calibration.focal_px
    # A point of the axis is away / disparity; this is its derivative, times the disparity.
    axis = np.append(direction, 0.0) - slope * np.append(away, 1.0)
    return np.concatenate([calibration.position_m(tip, disparity), axis / np.linalg.norm(axis)])


def _disparity(
    calibration: StereoCalibration,
    results: tuple[CameraResult, CameraResult],
    one: _Observation,
    two: _Observation,
) -> Disparity | None:
    """Find the disparity of the tip from the outlines around it."""
    outlines = []
    for camera, (result, observation) in enumerate(zip(results, (one, two))):
        tip = observation.raw_tip.xy_px
        radius_px = max(_RADIUS * observation.width_px, _MIN_RADIUS * result.mask.shape[0])
        seen = find_outline(result.mask, observation.instrument, tip, radius_px)
        points, outside = (
            calibration.rectify(camera, points)
            for points in (seen.points, seen.points + seen.normals)
        )
        outlines.append(Outline(points, outside - points))
    prior = float(one.tip[0] - two.tip[0]), math.hypot(one.match_sigma_px, two.match_sigma_px)
    direction = np.array([math.cos(one.angle_rad), math.sin(one.angle_rad)])
    first, second = outlines
    return fit_disparity(first, second, one.tip, direction, prior, 1 / calibration.focal_px[0])


def _slope(
    calibration: StereoCalibration, one: _Observation, two: _Observation, disparity_px: float
) -> tuple[float, float]:
    """
    Estimate the relative change of the disparity along the shaft, per pixel, and its deviation.

    Combines, by inverse variances: the difference of the shaft's angle in both images, unless
    the shaft lies along the rows; the growth of its apparent width towards the camera, as its
    diameter is constant; and the prior that few shafts lie along the line of sight.
    """
    found = [(0.0, 1 / calibration.focal_px[0])]
    sine, turn = math.sin(two.angle_rad), math.sin(two.angle_rad - one.angle_rad)
    along = float((one.end - one.tip) @ [math.cos(one.angle_rad), math.sin(one.angle_rad)])
    at_end = disparity_px * sine + turn * along
    if abs(sine) > _MIN_SINE and at_end * disparity_px * sine > 0:
        sigma = math.hypot(one.angle_sigma_rad, two.angle_sigma_rad)
        found.append((turn / at_end, sigma / abs(at_end)))
    if one.growth is not None and abs(one.growth) * calibration.focal_px[0] < _STEEPEST:
        found.append((-one.growth, _GROWTH_SIGMA))
    weights = np.array([1 / sigma**2 for _, sigma in found])
    slopes = np.array([slope for slope, _ in found])
    return float(weights @ slopes / weights.sum()), float(weights.sum() ** -0.5)


def turn_from_x(axis: Points) -> Points:
    """
    Return the smallest rotation that maps the x axis to an axis.

    :param axis: (3,) unit vector.
    :return: (4,) unit quaternion x, y, z, w.
    """
    if axis[0] < -1 + 1e-12:
        return np.array([0.0, 0.0, 1.0, 0.0])  # half a turn about z
    turn = np.array([0.0, -axis[2], axis[1], 1 + axis[0]])
    return np.asarray(turn / np.linalg.norm(turn))
