# SPDX-License-Identifier: Apache-2.0
"""Shots: where instruments are, which classes objects have, and that the seed decides all."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from surgseg_ros.core.labels import (
    BACKGROUND,
    CATHETER,
    CLAMPS,
    CLASPER,
    CLASS_COUNT,
    NEEDLE,
    THREAD,
)
from tools.path_tracing import resting_objects, scene, suture
from tools.path_tracing.exposure import expose
from tools.path_tracing.scene import MIN_DISTANCE_CM, Approach, draw_bare_shot, draw_shot, place
from tools.path_tracing.tissue import draw_bare_tissue, draw_tissue
from tools.path_tracing.tissue_relief import HALF_SIDE_CM
from tools.path_tracing.view import ASPECT, draw_view


@pytest.fixture(scope='module')
def tissue():
    return draw_tissue(np.random.default_rng(1))


@pytest.fixture(scope='module')
def shots(tissue):
    return [draw_shot(np.random.default_rng([2, seed]), tissue) for seed in range(40)]


def test_tissue_is_below_the_camera_and_its_maps_are_within_range(tissue):
    assert 5 <= tissue.depth_cm <= 11
    assert np.median(tissue.height_cm) < 0
    for levels in (tissue.colour, tissue.wetness):
        assert levels.dtype == np.float32
        assert 0 <= levels.min() <= levels.max() <= 1
    assert tissue.colour[..., 0].mean() > tissue.colour[..., 2].mean()  # red, not blue


def test_the_same_seed_makes_the_same_tissue(tissue):
    again = draw_tissue(np.random.default_rng(1))
    for name in ('height_cm', 'colour', 'wetness', 'fine_cm', 'liquid_cm'):
        assert_array_equal(getattr(again, name), getattr(tissue, name))
    assert vars(again.sheen) == vars(tissue.sheen)


def test_the_height_is_interpolated(tissue):
    corner = tissue.height([-HALF_SIDE_CM, -99], [-HALF_SIDE_CM, -99])
    assert corner == pytest.approx(np.full(2, tissue.height_cm[0, 0]), abs=1e-4)
    low, middle, high = tissue.height([1.0, 1.001, 1.002], [0, 0, 0])
    assert min(low, high) - 1e-3 <= middle <= max(low, high) + 1e-3


def test_rays_hit_the_tissue(tissue):
    view = draw_view(np.random.default_rng(3), tissue)
    hit = view.ground(0, 0)
    assert hit.distance_cm == pytest.approx(view.focus_cm, rel=0.3)
    assert hit.point[2] == pytest.approx(tissue.height(*hit.point[:2])[0], abs=0.2)
    assert tissue.normal(hit.point)[2] > 0
    raised = tissue.above(hit.point[None] - 5, 0.1)[0]
    assert raised[2] == pytest.approx(tissue.height(*raised[:2])[0] + 0.1)


def test_the_mesh_of_the_tissue_covers_its_maps(tissue):
    mesh = tissue.mesh()
    assert 0 < mesh.uv.min() < 0.05
    assert 0.95 < mesh.uv.max() < 1
    assert max(max(face) for face in mesh.faces) == len(mesh.vertices) - 1


def test_the_camera_looks_down_and_is_clear_of_the_tissue(shots):
    for shot in shots:
        pose = shot.view.pose
        assert pose[:3, :3] @ pose[:3, :3].T == pytest.approx(np.eye(3))
        assert pose[2, 2] > 0
        assert pose[2, 3] >= shot.view.tissue.height(*pose[:2, 3])[0] + 2.9
        assert np.radians(58) <= shot.view.angle <= np.radians(72)


def test_lamps_are_beside_the_camera(shots):
    assert {len(shot.lighting.lamps) for shot in shots} == {1, 2}
    for shot in shots:
        assert sum(lamp.power_w for lamp in shot.lighting.lamps) == pytest.approx(1000)
        for lamp in shot.lighting.lamps:
            assert np.linalg.norm(lamp.pose[:3, 3] - shot.view.pose[:3, 3]) < 0.7


def test_all_classes_occur_and_nothing_else(shots):
    found = {part.label for shot in shots for part in shot.parts}
    assert found == set(range(CLASS_COUNT))


def test_tips_are_in_the_image(tissue):
    for seed in range(20):
        rng = np.random.default_rng([4, seed])
        view = draw_view(rng, tissue)
        for each in scene._robotic_tools(rng, view):
            tip = np.linalg.inv(view.pose) @ each.pose @ np.append(each.tool.tip, 1)
            half = -tip[2] * np.tan(view.angle / 2)
            assert np.linalg.norm(tip[:3]) >= MIN_DISTANCE_CM - 1e-6
            assert abs(tip[0]) <= 0.86 * half
            assert abs(tip[1]) <= 0.81 * half * ASPECT


def test_an_instrument_is_placed_with_its_tip_at_the_point(tissue):
    view = draw_view(np.random.default_rng(5), tissue)
    at = view.ground(0.2, 0.1).point + np.array([0, 0, 0.5])
    tip = np.array([1.5, 0.1, -0.2])
    pose = place(view, tip, at, Approach(np.pi, 0.0, 1.0, 0.8))
    assert (pose @ np.append(tip, 1))[:3] == pytest.approx(at)
    assert np.linalg.norm(pose[:3, 0]) == pytest.approx(0.8)
    comes_from = view.pose[:3, :3].T @ -pose[:3, 0]
    assert comes_from[0] < 0  # from the left
    shaft = at - np.linspace(1.2, 9, 14)[:, None] * pose[:3, 0] / 0.8
    clear = shaft[:, 2] > tissue.height(shaft[:, 0], shaft[:, 1])
    assert clear.mean() > 0.8


def test_tissue_without_instruments_is_smoother_and_seen_from_near():
    tissues = [draw_bare_tissue(np.random.default_rng([1, seed])) for seed in range(3)]
    for name in ('colour', 'wetness', 'fine_cm', 'liquid_cm'):
        assert getattr(tissues[0], name).dtype == np.float32
    shots = [draw_bare_shot(np.random.default_rng([2, n]), tissues[n % 3]) for n in range(24)]
    assert {part.label for shot in shots for part in shot.parts} == {BACKGROUND}
    heights = [
        pose[2, 3] - shot.view.tissue.height(*pose[:2, 3])[0]
        for shot in shots
        for pose in [shot.view.pose]
    ]
    assert min(heights) > 0.7
    assert 6 < sum(height < 3 for height in heights) < 18
    assert 6 < sum(shot.lighting.focus_cm > 1.1 * shot.view.focus_cm for shot in shots) < 22


def test_the_same_seed_makes_the_same_shot(tissue):
    first, second = (draw_shot(np.random.default_rng(6), tissue) for _ in range(2))
    assert_array_equal(first.view.pose, second.view.pose)
    assert [part.label for part in first.parts] == [part.label for part in second.parts]
    for one, other in zip(first.parts, second.parts):
        assert_array_equal(one.placement, other.placement)
        assert one.surface is not other.surface


OBJECTS = {
    'clip': (resting_objects.draw_clip, CLAMPS),
    'bulldog clamp': (resting_objects.draw_bulldog_clamp, BACKGROUND),
    'catheter': (resting_objects.draw_catheter, CATHETER),
    'gauze': (resting_objects.draw_gauze, BACKGROUND),
    'drain': (resting_objects.draw_drain, BACKGROUND),
    'vessel': (resting_objects.draw_vessel, BACKGROUND),
    'knots': (suture.draw_knots, THREAD),
    'loose thread': (lambda rng, view: suture.draw_thread(rng, view, None), THREAD),
}


@pytest.mark.parametrize('name', OBJECTS)
def test_an_object_has_its_class(tissue, name):
    draw, label = OBJECTS[name]
    view = draw_view(np.random.default_rng(7), tissue)
    for seed in range(5):
        drawn = draw(np.random.default_rng(seed), view)
        parts = drawn if isinstance(drawn, list) else [drawn]
        assert parts
        assert {part.label for part in parts} == {label}


@pytest.mark.parametrize('is_held', [False, True])
def test_a_needle_goes_through_the_grip(is_held):
    rng = np.random.default_rng(8)
    grip = np.diag([0.8, 0.8, 0.8, 1.0])
    grip[:3, 3] = 1, 2, 3
    needle = suture.draw_needle(rng, grip, is_held)
    assert needle.part.label == NEEDLE
    vertices = needle.part.shape.vertices
    assert np.linalg.norm(vertices - grip[:3, 3], axis=1).min() < 0.06
    assert np.linalg.norm(vertices - needle.tail, axis=1).min() < 0.06


def test_a_strand_needs_a_tip_above_the_tissue(tissue):
    view = draw_view(np.random.default_rng(9), tissue)
    low = view.ground(0, 0).point
    assert resting_objects.draw_strand(np.random.default_rng(0), view, low) is None
    strand = resting_objects.draw_strand(np.random.default_rng(0), view, low + np.array([0, 0, 1]))
    assert strand.label == BACKGROUND


def test_a_spline_goes_through_its_points():
    points = np.array([(0.0, 0, 0), (1, 1, 0), (2, 0, 1)])
    curve = suture.smooth_curve(list(points), 101)
    for point in points:
        assert np.linalg.norm(curve - point, axis=1).min() < 0.01


def test_only_holes_are_in_the_mask_only(shots):
    labels = {part.label for shot in shots for part in shot.parts if part.mask_only}
    assert labels == {CLASPER}


@pytest.mark.parametrize('seed', range(12))
def test_an_exposed_image_keeps_dark_and_bright(seed):
    light = np.linspace(0, 50, 64 * 36 * 3, dtype=np.float32).reshape(36, 64, 3)
    image = expose(np.random.default_rng(seed), light)
    assert (image.shape, image.dtype) == ((36, 64, 3), np.uint8)
    assert image[0, :8].mean() < image[18, 28:36].mean()
    assert np.array_equal(image, expose(np.random.default_rng(seed), light))
