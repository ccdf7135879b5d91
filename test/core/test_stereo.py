# SPDX-License-Identifier: Apache-2.0
"""3-D tips and axes, and their covariance: of shifted masks and of synthetic scenes."""

import math

import cv2
import numpy as np
import pytest
from drawn_masks import SIZE, bar, empty, find, tool

from surgseg_ros.core.geometry import find_geometries
from surgseg_ros.core.keypoints import KeypointKind
from surgseg_ros.core.labels import HOLDER, ROBOTIC_TOOL, SUCTION
from surgseg_ros.core.stereo import CameraResult, locate_instruments, triangulate, turn_from_x
from surgseg_ros.core.stereo_calibration import CameraInfo, StereoCalibration, StereoError
from surgseg_ros.synthetic import Scene
from surgseg_ros.synthetic.camera import camera_infos
from surgseg_ros.synthetic.drawing import View

FOCAL, SCALE = 375.0, 375.0 * 0.0045
K = np.array([[FOCAL, 0, 239.5], [0, FOCAL, 134.5], [0, 0, 1]])


def info(offset=0.0, d=(0.0,) * 5):
    p = np.hstack([K, [[offset], [0], [0]]])
    return CameraInfo(SIZE, 'plumb_bob', np.array(d), K, np.eye(3), p)


CALIBRATION = StereoCalibration((info(), info(-SCALE)))


def view(mask):
    return CameraResult(mask, find(mask))


def shifted(mask, by_px):
    """Return the mask in the right camera, for a depth of `SCALE / by_px`."""
    moved = np.zeros_like(mask)
    moved[:, :-by_px] = mask[:, by_px:]
    return moved


def two_tools():
    mask = tool(empty(), (60, 269), (150, 120))
    return tool(mask, (479, 60), (330, 130), width=24)


def test_positions_of_tools_follow_from_their_disparity():
    mask, disparity = two_tools(), 15
    first = view(mask)
    found = locate_instruments(CALIBRATION, first, view(shifted(mask, disparity)))
    assert [one.instrument for one in found] == list(first.instruments)
    for one, pixel, start in zip(found, [(150, 120), (330, 130)], [(60, 269), (479, 60)]):
        assert one.instrument.label == ROBOTIC_TOOL
        assert one.score == one.instrument.score
        depth = SCALE / disparity
        sigmas = np.sqrt(np.diag(one.covariance))
        tip = np.append((np.array(pixel) - K[:2, 2]) / FOCAL, 1.0) * depth
        assert (np.abs(one.tip_m - tip) < 2.5 * sigmas[:3]).all()
        assert abs(one.tip_m[2] - depth) < 0.01 * depth
        direction = np.append(np.subtract(pixel, start), 0.0)
        turn = math.acos(one.axis @ direction / np.linalg.norm(direction))
        assert turn < math.radians(12)


def test_only_the_rotation_about_the_shaft_is_unknown():
    mask = two_tools()
    for one in locate_instruments(CALIBRATION, view(mask), view(shifted(mask, 15))):
        turns = one.covariance[3:, 3:]
        assert one.axis @ turns @ one.axis == pytest.approx(math.pi**2)
        values = np.linalg.eigvalsh(turns)
        assert values[:2].max() < 0.5
        assert np.linalg.eigvalsh(one.covariance).min() > -1e-9


def test_rods_are_located_and_classes_are_not_mixed():
    mask = bar(empty(), (20, 269), (140, 150), 16, SUCTION)
    found = locate_instruments(CALIBRATION, view(mask), view(shifted(mask, 12)))
    assert [one.instrument.label for one in found] == [SUCTION]
    other = shifted(mask, 12)
    other[other == SUCTION] = HOLDER
    assert locate_instruments(CALIBRATION, view(mask), view(other)) == []


def test_rods_may_be_off_by_as_many_rows_as_their_tips_are_uncertain():
    mask = bar(empty(), (20, 269), (140, 150), 16, SUCTION)
    for rows, count in ((6, 1), (20, 0)):
        lower = np.roll(shifted(mask, 12), rows, axis=0)
        assert len(locate_instruments(CALIBRATION, view(mask), view(lower))) == count


@pytest.mark.parametrize('confidence', [255, 204, 140])
def test_rejects_swapped_cameras_even_if_tips_are_uncertain(confidence):
    masks = shifted(two_tools(), 15), two_tools()
    results = [CameraResult(mask, find(mask, confidence=confidence)) for mask in masks]
    with pytest.raises(StereoError, match='swapped'):
        locate_instruments(CALIBRATION, *results)


@pytest.mark.parametrize('confidence', [255, 230, 140])
def test_tips_on_different_rows_are_not_matched_even_if_they_are_uncertain(confidence):
    """The deviation of the tips on a network's masks is larger than this difference of rows."""
    mask = tool(empty(), (60, 269), (150, 120))
    lower = np.roll(shifted(mask, 15), 9, axis=0)
    results = [CameraResult(each, find(each, confidence=confidence)) for each in (mask, lower)]
    assert locate_instruments(CALIBRATION, *results) == []


def test_deviations_in_space_grow_with_those_in_the_image():
    mask = tool(empty(), (60, 269), (150, 120))
    sigmas = []
    for confidence in (255, 230):
        first, second = (
            CameraResult(each, find(each, confidence=confidence))
            for each in (mask, shifted(mask, 15))
        )
        (one,) = locate_instruments(CALIBRATION, first, second)
        (geometry,) = find_geometries(first.instruments, mask)
        (tip,) = (p for p in geometry.keypoints if p.kind == KeypointKind.TIP)
        sigmas.append(np.sqrt(np.diag(one.covariance)[:3]))
        assert sigmas[-1][0] >= 0.99 * tip.sigma_px * one.tip_m[2] / FOCAL
    assert (sigmas[1][:2] > 5 * sigmas[0][:2]).all()
    outlines_px = 0.02 * first.instruments[0].error_px  # of disparity
    assert sigmas[1][2] > 0.99 * outlines_px * one.tip_m[2] ** 2 / SCALE


def test_the_first_camera_may_be_the_right_one():
    mask = two_tools()
    calibration = StereoCalibration((info(-SCALE), info()))
    found = locate_instruments(calibration, view(shifted(mask, 15)), view(mask))
    assert len(found) == 2
    for one in found:
        assert one.tip_m[2] == pytest.approx(SCALE / 15, rel=0.01)


def test_omits_instruments_that_only_one_camera_shows():
    both, one = two_tools(), tool(empty(), (60, 269), (150, 120))
    found = locate_instruments(CALIBRATION, view(both), view(shifted(one, 15)))
    assert [one.instrument for one in found] == [view(both).instruments[0]]
    assert locate_instruments(CALIBRATION, view(both), view(empty())) == []


def test_rejects_images_of_another_size():
    small = np.zeros((135, 240), np.uint8)
    with pytest.raises(StereoError, match='240x135'):
        locate_instruments(CALIBRATION, view(empty()), view(small))


def test_points_of_distorted_images_are_rectified():
    """Distort masks by remapping; positions must equal those of undistorted masks."""
    d = (-0.3, 0.1, 0.0, 0.0, 0.0)
    grid = np.stack(np.meshgrid(np.arange(SIZE[1]), np.arange(SIZE[0])), -1).astype(np.float64)
    ideal = cv2.undistortPoints(grid.reshape(-1, 1, 2), K, np.array(d), P=K)
    maps = np.float32(ideal.reshape(*SIZE, 2))

    def distorted(mask):
        return view(cv2.remap(mask, maps[..., 0], maps[..., 1], cv2.INTER_NEAREST))

    mask, disparity = two_tools(), 15
    raw = StereoCalibration((info(d=d), info(-SCALE, d)), rectified=False)
    found = locate_instruments(raw, distorted(mask), distorted(shifted(mask, disparity)))
    depth = SCALE / disparity
    assert len(found) == 2
    for one, pixel in zip(found, [(150, 120), (330, 130)]):
        tip = np.append((np.array(pixel) - K[:2, 2]) / FOCAL, 1.0) * depth
        assert (np.abs(one.tip_m - tip) < 2.5 * np.sqrt(np.diag(one.covariance))[:3]).all()
        assert abs(one.tip_m[2] - depth) < 0.02 * depth


def test_covariance_matches_that_of_many_measurements():
    end, means = np.array([200.0, 160.0]), np.array([300.0, 100.0, 16.0, -0.5, 4e-4])
    sigmas = np.array([2.0, 2.0, 0.2, 0.01, 1e-4])
    tip, axis, covariance = triangulate(CALIBRATION, end, means, sigmas)
    random = np.random.default_rng(0)
    drawn = [
        triangulate(CALIBRATION, end, means + sigmas * random.standard_normal(5), sigmas)[:2]
        for _ in range(4000)
    ]
    tips, axes = (np.array(values) for values in zip(*drawn))
    turns = np.cross(axis, axes - axis)
    measured = np.cov(np.hstack([tips - tip, turns]).T)
    covariance[3:, 3:] -= math.pi**2 * np.outer(axis, axis)
    scale = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(
        measured / np.outer(scale, scale), covariance / np.outer(scale, scale), atol=0.08
    )


@pytest.mark.parametrize('axis', [(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0.6, 0, -0.8)])
def test_the_quaternion_rotates_x_to_the_axis(axis):
    x, y, z, w = turn_from_x(np.array(axis, float))
    direction = [1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)]
    np.testing.assert_allclose(direction, axis, atol=1e-12)


def test_tools_of_synthetic_scenes_are_close_to_their_true_positions():
    """Most errors of the located tools are within three standard deviations."""
    size, far = (270, 480), []
    calibration = StereoCalibration(camera_infos(View(*size)))
    for seed in (5, 11):
        scene = Scene(seed, size, stereo=True)
        first, second = scene.frame(3), scene.frame(3, 1)
        truth = {one.number: one for one in scene.truth(3, first.instances)}
        results = view(first.mask), view(second.mask)
        for one in locate_instruments(calibration, *results):
            runs = one.instrument.runs
            pixels = [first.instances[row, a:b] for _, row, a, b in zip(*runs)]
            true = truth[int(np.bincount(np.concatenate(pixels)).argmax())]
            error = one.tip_m - true.tip_m
            far.append(np.abs(error / np.sqrt(np.diag(one.covariance))[:3]).max())
    assert len(far) >= 3
    assert np.median(far) < 3
