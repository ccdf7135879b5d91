# SPDX-License-Identifier: Apache-2.0
"""Stereo scenes: the first view is as without stereo; 3-D points project exactly."""

import math

import numpy as np
import pytest

from surgseg_ros.core.keypoints import KeypointKind
from surgseg_ros.core.stereo_calibration import StereoCalibration
from surgseg_ros.synthetic import Scene
from surgseg_ros.synthetic.camera import (
    BASELINE_M,
    FOCAL,
    Plane,
    camera_infos,
    extra_columns,
    warp,
)
from surgseg_ros.synthetic.drawing import View, outline, ribbon

SIZE = (180, 320)


@pytest.mark.parametrize('seed', [1, 5])
def test_the_first_view_equals_a_scene_without_stereo(seed):
    plain, stereo = Scene(seed, SIZE).frame(3), Scene(seed, SIZE, stereo=True).frame(3)
    np.testing.assert_array_equal(stereo.image, plain.image)
    np.testing.assert_array_equal(stereo.mask, plain.mask)
    np.testing.assert_array_equal(stereo.instances, plain.instances)


def white(along, across, facing):
    return np.full((3, len(along)), 255, np.float32)


@pytest.mark.parametrize('angle', [0.3, math.pi / 2, 2.5])
def test_a_band_is_drawn_where_its_plane_projects_it(angle):
    view = View(*SIZE, extra_columns=extra_columns(SIZE[0]))
    calibration = StereoCalibration(camera_infos(view))
    start = np.array([0.9, 0.5])
    ends = start + 0.25 * np.outer([-1, 1], [math.cos(angle), math.sin(angle)])
    plane = Plane.through(tuple(start), 0.08, angle, 0.8)
    patch = ribbon(view, outline(*ends), np.full(2, 0.03), white, 1)
    middles = []
    for camera in (0, 1):
        seen, drawn = warp(patch, plane, camera, view), np.zeros(SIZE)
        height, width = seen.rgba.shape[:2]
        drawn[seen.y : seen.y + height, seen.x : seen.x + width] = seen.rgba[..., 3]
        down, across = (np.average(axis, weights=drawn) for axis in np.indices(SIZE))
        middles.append((across, down))
    shift = middles[0][0] - middles[1][0]
    assert shift == pytest.approx(calibration.disparity_px(0.08), abs=0.1)
    assert middles[0][1] == pytest.approx(middles[1][1], abs=0.1)


def test_3d_points_project_to_the_points_of_the_image():
    scene = Scene(5, SIZE, stereo=True)
    (fx, fy), (cx, cy) = StereoCalibration(camera_infos(View(*SIZE))).focal_px, (159.5, 89.5)
    checked = 0
    for true in scene.truth(3, scene.frame(3).instances):
        points = {point.kind: point for point in true.geometry.keypoints}
        if true.tip_m is None:
            assert KeypointKind.TIP not in points or KeypointKind.SHAFT_AXIS not in points
            continue
        x, y, z = true.tip_m
        position = np.array([fx * x / z + cx, fy * y / z + cy])
        np.testing.assert_allclose(position, points[KeypointKind.TIP].xy_px, atol=1e-6)
        assert 0.03 < z < 0.4
        assert np.linalg.norm(true.axis) == pytest.approx(1)
        checked += 1
    assert checked


def test_a_shaft_has_one_diameter_in_3d():
    """Closer parts are drawn wider, according to the taper."""
    plane = Plane.through((0.5, 0.5), 0.1, 0.0, 0.5)
    for back in (0.0, 0.2, 0.4):
        width = 1 + 0.5 * back
        assert plane.inverse_at((0.5 - back, 0.7)) == pytest.approx(width / 0.1)


def test_the_calibration_is_that_of_an_endoscope():
    first, second = camera_infos(View(1080, 1920))
    assert first.p[0, 0] == pytest.approx(1500)
    assert second.p[0, 3] == pytest.approx(-1500 * BASELINE_M)
    assert pytest.approx(1500 / 1080) == FOCAL
