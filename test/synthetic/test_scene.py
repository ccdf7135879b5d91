# SPDX-License-Identifier: Apache-2.0
"""Scenes: deterministic, independent of scale, with exact masks, smooth motion and all classes."""

from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from surgseg_ros.core.labels import (
    BACKGROUND,
    CLASPER,
    CLASS_COUNT,
    NEEDLE,
    ROBOTIC_TOOL,
    ROBOTIC_TOOL_PARTS,
    SHAFT,
    WRIST,
)
from surgseg_ros.synthetic import Scene
from surgseg_ros.synthetic.drawing import Canvas, Patch, View, ribbon
from surgseg_ros.synthetic.materials import Relief, metal_texture
from surgseg_ros.synthetic.noise import Drift, smooth_noise, soften

SIZE = (180, 320)
DRAWN = Path(__file__).with_name('frames')
"""Frames as they were drawn for the training of models/default."""


def overlap(first, second):
    """Return the intersection over union of two boolean masks."""
    return (first & second).sum() / (first | second).sum()


def white(along, across, facing):
    return np.full((3, len(along)), 255, np.float32)


def test_a_frame_depends_only_on_seed_size_rate_and_index():
    scene = Scene(7, SIZE)
    in_order = [scene.frame(index) for index in range(3)]
    alone = Scene(7, SIZE).frame(2)
    np.testing.assert_array_equal(alone.image, in_order[2].image)
    np.testing.assert_array_equal(alone.mask, in_order[2].mask)


@pytest.mark.parametrize('seed', [3, 6, 16])
def test_frames_of_a_seed_are_unchanged_between_versions(seed):
    frame = Scene(seed, (72, 128)).frame(17)
    image = cv2.imread(str(DRAWN / f'seed_{seed}.png'))[..., ::-1]
    mask = cv2.imread(str(DRAWN / f'seed_{seed}_mask.png'), cv2.IMREAD_UNCHANGED)
    # Other versions of OpenCV and NumPy, and other processors, round slightly differently: before
    # OpenCV 5, `remap` rounded positions to 1/32 of a pixel, which moves the sharpest highlights.
    off = np.abs(frame.image.astype(int) - image)
    assert off.mean() < 2
    assert np.count_nonzero(frame.mask != mask) <= 30


def test_frames_do_not_depend_on_opencv_threads():
    before = cv2.getNumThreads()
    try:
        frames = []
        for count in (1, 2):
            cv2.setNumThreads(count)
            frames.append(Scene(4, SIZE).frame(5))
    finally:
        cv2.setNumThreads(before)
    np.testing.assert_array_equal(frames[0].image, frames[1].image)
    np.testing.assert_array_equal(frames[0].mask, frames[1].mask)


def test_other_seeds_and_times_give_other_frames():
    scene = Scene(7, SIZE)
    first = scene.frame(0).image.astype(int)
    assert np.abs(first - Scene(8, SIZE).frame(0).image).mean() > 10
    assert np.abs(first - scene.frame(40).image).mean() > 3


def test_shapes_types_and_mask_values():
    frame = Scene(1, SIZE).frame(0)
    assert frame.image.shape == (*SIZE, 3)
    assert frame.image.dtype == np.uint8
    assert frame.mask.shape == SIZE
    assert frame.mask.dtype == np.uint8
    assert frame.mask.max() < CLASS_COUNT


def test_every_class_occurs_within_some_scenes():
    met = np.zeros(CLASS_COUNT, int)
    for seed in range(16):
        counts = np.bincount(Scene(seed, SIZE).frame(0).mask.ravel(), minlength=CLASS_COUNT)
        met += counts > 10
    assert (met >= 2).all(), met


@pytest.mark.parametrize('seed', [1, 3])
def test_another_size_shows_the_same_scene(seed):
    small = Scene(seed, SIZE).frame(30)
    large = Scene(seed, (SIZE[0] * 2, SIZE[1] * 2)).frame(30)
    shrunk = large.mask[::2, ::2]
    assert (shrunk == small.mask).mean() > 0.98
    for label in ROBOTIC_TOOL_PARTS:
        assert overlap(shrunk == label, small.mask == label) > 0.85
    pale = cv2.resize(large.image, SIZE[::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(pale.astype(int) - small.image).mean() < 12


@pytest.mark.parametrize('seed', [1, 7])
def test_motion_is_smooth(seed):
    scene = Scene(seed, SIZE)
    masks = [scene.frame(index).mask for index in range(20, 26)]
    for before, after in pairwise(masks):
        assert overlap(before == SHAFT, after == SHAFT) > 0.6
        assert overlap(before == WRIST, after == WRIST) > 0.4
    assert (masks[0] != masks[-1]).any()


def test_a_tool_is_connected():
    mask = Scene(3, SIZE).frame(0).mask
    tools = np.isin(mask, ROBOTIC_TOOL_PARTS).astype(np.uint8)
    _, regions = cv2.connectedComponents(tools)
    largest = np.bincount(regions[regions > 0]).argmax()
    assert {CLASPER, WRIST, SHAFT} <= set(np.unique(mask[regions == largest]))


def test_outside_the_field_of_view_is_background():
    found = 0
    for seed in range(12):
        frame = Scene(seed, SIZE).frame(0)
        black = frame.image[:, :4].max() == 0
        if black:
            found += 1
            assert (frame.mask[:, :4] == BACKGROUND).all()
    assert found


def test_needle_is_wide_enough_to_be_learned():
    widths = []
    for seed in (1, 2, 3, 4):
        needle = (Scene(seed, (360, 640)).frame(0).mask == NEEDLE).astype(np.uint8)
        if needle.sum() > 100:
            widths.append(2 * cv2.distanceTransform(needle, cv2.DIST_L2, 5).max())
    assert min(widths) >= 2.5


def test_ribbon_covers_exactly_its_geometry():
    view = View(100, 200)
    points = np.array([[0.205, 0.5], [1.505, 0.5]])
    patch = ribbon(view, points, np.array([0.1, 0.1]), white, NEEDLE, flat=True)
    canvas = Canvas(np.zeros((100, 200, 3), np.uint8))
    canvas.paint(patch)
    middle = canvas.mask[:, 80]
    assert np.flatnonzero(middle).tolist() == list(range(40, 60))
    assert canvas.mask[50, :20].max() == BACKGROUND
    assert np.flatnonzero(canvas.mask[50])[0] in (20, 21)
    assert (canvas.image[canvas.mask == NEEDLE] >= 128).all()


def test_objects_outside_the_image_are_not_drawn():
    points = np.array([[3.0, 3.0], [4.0, 4.0]])
    assert ribbon(View(100, 200), points, np.array([0.1, 0.1]), white, NEEDLE) is None


def test_objects_painted_later_are_on_top():
    view = View(100, 200)
    canvas = Canvas(np.zeros((100, 200, 3), np.uint8))
    for label, x in ((SHAFT, 0.5), (CLASPER, 0.6)):
        points = np.array([[x, 0.2], [x, 0.8]])
        canvas.paint(ribbon(view, points, np.array([0.1, 0.1]), white, label))
    assert canvas.mask[50, 55] == CLASPER
    assert canvas.mask[50, 42] == SHAFT


@pytest.mark.parametrize('has_area', [False, True])
def test_only_pixels_that_a_patch_covers_change(has_area):
    rgba = np.zeros((150, 90, 4), np.uint8)
    for row in range(10, 140):
        rgba[row, row // 2 : row // 2 + 9] = 255
    rgba[70, 37] = 0  # a hole
    area = cv2.morphologyEx(rgba[..., 3], cv2.MORPH_CLOSE, np.ones((3, 3))) if has_area else None
    below = np.random.default_rng(0).integers(0, 250, (200, 200, 3), np.uint8)
    canvas = Canvas(below.copy())
    canvas.paint(Patch(20, 30, rgba, SHAFT, area), 5)
    painted = np.zeros((200, 200), bool)
    painted[30:180, 20:110] = rgba[..., 3] > 0
    np.testing.assert_array_equal((canvas.image != below).any(axis=-1), painted)
    assert (canvas.image[painted] == 255).all()
    painted[100, 57] = has_area
    np.testing.assert_array_equal(canvas.mask, np.where(painted, SHAFT, BACKGROUND))
    np.testing.assert_array_equal(canvas.instances, np.where(painted, 5, 0))


def test_shapes_beyond_the_area_of_a_part_are_cut_off():
    rng = np.random.default_rng(0)
    relief = Relief(rng, (0.2, 0.1), (0.0, 0.05), 100.0)
    square = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
    relief.plate(square * 0.1 - 0.05, 0.01, 0.01)
    relief.plate(square + 3.0, 0.01, 0.01)
    relief.dark(square - 3.0, 0.5)
    sprite = relief.finish(metal_texture(rng, (200, 200, 200), 0.5), WRIST)
    expected = np.zeros((10, 20))
    expected[:10, :5] = 255
    np.testing.assert_allclose(sprite.rgba[..., 3], expected, atol=90)
    assert sprite.rgba[1:9, 6:].max() == 0


@pytest.mark.parametrize('sigma_px', [3.0, 9.0, 15.0, 20.0])
def test_a_broad_blur_is_gaussian(sigma_px):
    values = smooth_noise(np.random.default_rng(0), (200, 301), 1.0, (0.1, 0.1))
    expected = cv2.GaussianBlur(values, (0, 0), sigma_px)
    inner = np.s_[40:-40, 40:-40]
    np.testing.assert_allclose(soften(values, sigma_px)[inner], expected[inner], atol=0.01)


def test_motion_blur_does_not_change_the_mask():
    view = View(100, 200)
    canvas = Canvas(np.zeros((100, 200, 3), np.uint8))
    patch = ribbon(view, np.array([[1.0, 0.2], [1.0, 0.8]]), np.array([0.05, 0.05]), white, SHAFT)
    canvas.paint(patch)
    mask = canvas.mask.copy()
    canvas.smear([patch], (10.0, 0.0))
    np.testing.assert_array_equal(canvas.mask, mask)
    assert 0 < canvas.image[50, 92, 0] < 255


def test_a_drift_stays_within_its_limits():
    wander = Drift(np.random.default_rng(0), -2.0, 5.0, 3.0)
    values = [wander(time_s / 10) for time_s in range(1000)]
    assert min(values) >= -2.0
    assert max(values) <= 5.0
    assert max(values) - min(values) > 3.0


@pytest.mark.parametrize(
    ('size', 'rate_hz', 'named'), [((10, 640), 15.0, '10'), ((360, 640), 0.0, '0.0')]
)
def test_errors_name_invalid_parameters(size, rate_hz, named):
    with pytest.raises(ValueError, match=named):
        Scene(0, size, rate_hz)


@pytest.mark.parametrize('size', [(270, 479), (70, 333), (211, 64)])
def test_sizes_that_are_not_multiples_of_the_grid_are_drawn(size):
    for seed in range(3, 8):
        assert Scene(seed, size).frame(0).image.shape == (*size, 3)


def touch(mask_of_tools):
    """Return whether pixels of two instances are at most two pixels apart."""
    near = cv2.dilate(mask_of_tools, np.ones((5, 5), np.uint8))
    return bool(((mask_of_tools > 0) & (near != mask_of_tools)).any())


def tools_of(scene, index):
    instances = scene.frame(index).instances
    tools = np.zeros_like(instances)
    for true in scene.truth(index, instances):
        if true.label == ROBOTIC_TOOL:
            tools[instances == true.number] = true.number
    return tools


def test_tools_touch_in_most_frames_if_requested():
    shares = []
    for touching in (False, True):
        scenes = [Scene(seed, SIZE, touching=touching) for seed in range(30, 42)]
        found = [touch(tools_of(scene, index)) for scene in scenes for index in (0, 30)]
        shares.append(np.mean(found))
    assert shares[1] > 0.6 > 0.4 > shares[0]
