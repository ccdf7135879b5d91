# SPDX-License-Identifier: Apache-2.0
"""Stereo calibrations: points of raw images, and invalid calibrations."""

import dataclasses

import cv2
import numpy as np
import pytest

from surgseg_ros.core.stereo_calibration import CameraInfo, StereoCalibration, StereoError

SIZE = (1080, 1920)
FOCAL, BASELINE_M = 1500.0, 0.0045
K = np.array([[1480.0, 0.0, 950.0], [0.0, 1490.0, 545.0], [0.0, 0.0, 1.0]])


def projection(baseline_m=0.0, centre_x=959.5):
    return np.array(
        [
            [FOCAL, 0, centre_x, -FOCAL * baseline_m],
            [0, FOCAL, 539.5, 0],
            [0, 0, 1, 0],
        ],
        float,
    )


def info(baseline_m=0.0, **changes):
    made = CameraInfo(SIZE, 'plumb_bob', np.zeros(5), K, np.eye(3), projection(baseline_m))
    return dataclasses.replace(made, **changes)


def pair(first=None, second=None, rectified=True):
    first, second = first or info(), second or info(BASELINE_M)
    return StereoCalibration((first, second), rectified)


@pytest.fixture
def positions_m():
    random = np.random.default_rng(0)
    return random.uniform([-0.05, -0.03, 0.09], [0.05, 0.03, 0.15], (50, 3))


@pytest.mark.parametrize(
    ('model', 'd'),
    [
        ('plumb_bob', [-0.25, 0.08, 0.001, -0.001, 0.0]),
        ('rational_polynomial', [-0.2, 0.1, 0.0, 0.0, 0.01, 0.02, 0.0, 0.0]),
        ('equidistant', [0.05, -0.01, 0.002, 0.0]),
    ],
)
def test_points_of_raw_images_are_triangulated(positions_m, model, d):
    """Both cameras have distortion, a rotation and their own principal points."""
    turns = [cv2.Rodrigues(np.array(turn))[0] for turn in ([0.01, -0.02, 0.0], [0.0, 0.03, 0.01])]
    infos, images = [], []
    for camera, (turn, centre_x) in enumerate(zip(turns, (959.5, 990.0))):
        seen = positions_m - [camera * BASELINE_M, 0, 0]  # in the rectified camera
        raw = np.ascontiguousarray((seen @ turn)[:, None])
        project = cv2.fisheye.projectPoints if model == 'equidistant' else cv2.projectPoints
        images.append(project(raw, np.zeros(3), np.zeros(3), K, np.array(d))[0].reshape(-1, 2))
        p = projection(camera * BASELINE_M, centre_x)
        infos.append(info(model=model, d=np.array(d), r=turn, p=p))
    calibration = pair(*infos, rectified=False)
    first, second = (calibration.rectify(camera, seen) for camera, seen in enumerate(images))
    np.testing.assert_allclose(first[:, 1], second[:, 1], atol=0.1)
    found = [calibration.position_m(a, a[0] - b[0]) for a, b in zip(first, second)]
    np.testing.assert_allclose(found, positions_m, atol=6e-4)


def test_points_of_rectified_images_are_unchanged(positions_m):
    calibration = pair()
    points = positions_m[:, :2] * 1e4
    for camera in (0, 1):
        np.testing.assert_array_equal(calibration.rectify(camera, points), points)
    assert calibration.rectify(0, np.empty((0, 2))).shape == (0, 2)


def test_the_first_camera_may_be_the_right_one():
    calibration = pair(info(BASELINE_M), info())
    assert calibration.baseline_m == pytest.approx(-BASELINE_M)
    disparity = calibration.disparity_px(0.1)
    assert disparity == pytest.approx(-67.5)
    position = calibration.position_m(np.array([959.5, 539.5]), disparity)
    np.testing.assert_allclose(position, [0, 0, 0.1])


ZERO = dataclasses.replace(info(), size=(0, 0), k=np.zeros((3, 3)), p=np.zeros((3, 4)))
LOWER, BELOW = np.zeros((3, 4)), np.zeros((3, 4))
LOWER[1, 2], BELOW[1, 3] = 3.0, 5.0
IDENTITY = np.hstack([np.eye(3), np.zeros((3, 1))])


@pytest.mark.parametrize(
    ('first', 'second', 'reason'),
    [
        (ZERO, ZERO, 'first camera: it gives no size'),
        (info(p=np.zeros((3, 4))), info(BASELINE_M), 'P is all 0'),
        (info(), info(p=IDENTITY), 'second camera: P has focal lengths of 1 and 1 px'),
        (info(), info(), 'there is no baseline'),
        (info(), info(5.4), 'baseline is 5.4 m'),
        (info(), info(p=projection(BASELINE_M) + LOWER), 'rows of their P do not agree'),
        (info(p=projection() + BELOW), info(BASELINE_M), 'above each other'),
        (info(p=np.full((3, 4), np.nan)), info(BASELINE_M), 'not finite'),
        (info(is_part=True), info(BASELINE_M), 'region of interest or binning'),
        (info(p=projection(centre_x=5000.0)), info(BASELINE_M), 'centre'),
    ],
)
def test_rejects_placeholder_calibrations_with_a_reason(first, second, reason):
    with pytest.raises(StereoError, match=reason):
        pair(first, second)


@pytest.mark.parametrize(
    ('changes', 'reason'),
    [
        ({'model': 'fisheye'}, "distortion_model is 'fisheye'"),
        ({'d': np.zeros(3)}, 'plumb_bob has 3 coefficients'),
        ({'k': np.eye(3)}, 'K has focal lengths of 1'),
        ({'r': np.zeros((3, 3))}, 'R is not a rotation'),
    ],
)
def test_fields_for_raw_images_are_required_only_for_these(changes, reason):
    pair(info(**changes))
    with pytest.raises(StereoError, match=reason):
        pair(info(**changes), rectified=False)


def test_rejects_a_calibration_for_another_image_size():
    calibration = pair()
    calibration.check_size(1, SIZE)
    with pytest.raises(StereoError, match=r'second camera is of 1920x1080.*960x540'):
        calibration.check_size(1, (540, 960))
