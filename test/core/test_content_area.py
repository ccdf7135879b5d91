# SPDX-License-Identifier: Apache-2.0
"""The content area of an endoscope's images is found, and it contains every lit pixel."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgseg_ros.core.content_area import LIT, ContentFinder, find_content
from surgseg_ros.core.segmentation import Roi
from surgseg_ros.synthetic import Scene

SIZE = (270, 480)
CONFIRMED = 11
"""Number of images after which borders are confirmed."""


def tissue(size=SIZE, seed=0, low=60):
    """Draw a bright image without borders."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(low, 200, (9, 16, 3), dtype=np.uint8)
    return cv2.resize(coarse, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)


def inside(roi, size=SIZE):
    """Return a mask of the pixels in a roi."""
    covered = np.zeros(size, bool)
    if roi is None:
        return ~covered
    roi.view(covered)[:] = roi.outside() == 0
    return covered


def cover_of(kind, size=SIZE):
    """Return a mask of the content area of a kind: its (x, y, w, h), and its circle."""
    (x, y, width, height), circle = kind
    cover = np.zeros(size, np.uint8)
    cover[y : y + height, x : x + width] = 255
    if circle is not None:
        disk = np.zeros(size, np.uint8)
        cv2.circle(disk, circle[:2], circle[2], (255,), -1)
        cover &= disk
    return cover


def bordered(image, kind, noise=0, seed=1):
    """Draw a kind of border over an image, with noise in the black part."""
    black = np.random.default_rng(seed).integers(0, noise + 1, image.shape, dtype=np.uint8)
    return np.where(cover_of(kind, image.shape[:2])[..., None] > 0, image, black)


def follow(images):
    """Return the content area found in each of consecutive images."""
    finder = ContentFinder()
    return [finder.find(image) for image in images]


WHOLE = 0, 0, 480, 270
PILLAR = (60, 0, 360, 270), None
KINDS = {
    'pillar': PILLAR,
    'pillar, not in the middle': ((90, 0, 340, 270), None),
    'letter': ((0, 33, 480, 204), None),
    'pillar and letter': ((80, 7, 320, 256), None),
    'circle': (WHOLE, (240, 135, 125)),
    'circle, cut off': (WHOLE, (235, 130, 155)),
    'circle, small': (WHOLE, (180, 130, 75)),
    'circle, its corners alone': (WHOLE, (240, 135, 250)),
    'circle in a pillar': ((80, 0, 320, 270), (240, 135, 180)),
}


@pytest.mark.parametrize('kind', KINDS.values(), ids=KINDS)
@pytest.mark.parametrize('noise', [0, 12])
def test_borders_are_found_and_no_content_is_cut(kind, noise):
    image = bordered(tissue(), kind, noise)
    found = follow([image] * CONFIRMED)
    assert found[: CONFIRMED - 1] == [None] * (CONFIRMED - 1), 'one image is not enough'
    filled, kept = cover_of(kind) > 0, inside(found[-1])
    assert not (filled & ~kept).any()
    assert (kept & ~filled).sum() < 0.02 * filled.sum()
    assert (found[-1].circle is None) == (kind[1] is None)


@pytest.mark.parametrize('kind', KINDS.values(), ids=KINDS)
def test_jpeg_artifacts_at_edges_cut_no_content(kind):
    code = [cv2.IMWRITE_JPEG_QUALITY, 80]
    size, (box, circle) = (540, 960), kind
    kind = tuple(2 * side for side in box), circle and tuple(2 * side for side in circle)
    seeds = range(CONFIRMED + 5)
    images = [bordered(tissue(size, seed), kind, 12, seed) for seed in seeds]
    images = [cv2.imdecode(cv2.imencode('.jpg', one, code)[1], 1) for one in images]
    found = follow(images)
    filled, kept = cover_of(kind, size) > 0, inside(found[-1], size)
    assert not (filled & ~kept & (images[-1].max(2) >= LIT)).any()
    assert found[-1] is not None
    assert (kept & ~filled).sum() < 0.1 * filled.sum()


def test_finds_the_image_of_a_da_vinci_within_1080p():
    image = bordered(tissue((1080, 1920)), ((320, 28, 1280, 1024), None), 12)
    assert follow([image] * CONFIRMED)[-1] == Roi(320, 28, 1280, 1024)


@pytest.mark.parametrize('seed', range(50))
def test_a_scene_without_borders_has_none(seed):
    scene = Scene(seed, (144, 256))
    window = scene._camera.content_mask
    scene._camera.content_mask = None
    image = np.ascontiguousarray(scene.frame(0).image)
    assert find_content(image) is None
    if window is not None:  # a disk, or a narrower field
        cut = cv2.multiply(image, window, scale=1 / 255)
        lost = (window[..., 0] > 0) & ~inside(find_content(cut), (144, 256))
        assert not (lost & (cut.max(2) >= LIT)).any()


def vignette(strength):
    down, across = np.indices(SIZE) - np.array([135, 240])[:, None, None]
    fall = np.hypot(down / 135, across / 240) ** 4 * strength
    return (tissue() / (1 + fall[..., None])).astype(np.uint8)


def at_the_side(draw, count=30):
    image = tissue()
    draw(image)
    return [image] * count


def slanted(image):
    cv2.line(image, (470, -20), (400, 290), (3, 3, 3), 90)


def upright(image):
    image[:, 380:] = 4


def half_as_high(image):
    image[100:, :90] = image[100:, -90:] = 4


def cavities(image):
    for x in (-20, 500):
        cv2.ellipse(image, (x, 135), (110, 260), 0, 0, 360, (2, 2, 2), -1)
    image[:] = cv2.GaussianBlur(image, (0, 0), 15)


TIMES = np.linspace(0, 1, 40)
NO_BORDERS = {
    'black': [np.zeros((*SIZE, 3), np.uint8)] * 30,
    'dark': [tissue(low=0) // 10] * 30,
    'a light in the dark': at_the_side(lambda image: image.__setitem__(slice(0, 200), 2)),
    'fade-in': [(vignette(30) * t).astype(np.uint8) for t in TIMES],
    'fade-out': [(vignette(30) * t).astype(np.uint8) for t in TIMES[::-1]],
    'wipe': [bordered(tissue(), ((240 - n * 6, 0, n * 12, 270), None)) for n in range(1, 40)],
    'vignette': [vignette(10)] * 30,
    'deep vignette': [vignette(60)] * 30,
    'slanted shaft': at_the_side(slanted),
    'upright shaft': at_the_side(upright),
    'shafts from below': at_the_side(half_as_high),
    'dark cavities': at_the_side(cavities),
}


@pytest.mark.parametrize('images', NO_BORDERS.values(), ids=NO_BORDERS)
def test_dark_content_is_not_mistaken_for_a_border(images):
    assert set(follow(images)) == {None}


@pytest.mark.parametrize('kind', [PILLAR, KINDS['circle']])
def test_black_images_keep_known_borders_and_do_not_prevent_finding_them_later(kind):
    black, bright = np.zeros((*SIZE, 3), np.uint8), bordered(tissue(), kind, 12)
    found = follow([black] * 7 + [bright] * 30 + [black] * 20 + [bright])
    assert found[6] is None
    assert found[36] is not None
    assert len(set(found[36:])) == 1


def test_content_outside_the_borders_widens_them_in_the_same_image():
    before, after = PILLAR, ((20, 0, 440, 270), None)
    images = [bordered(tissue(), before)] * CONFIRMED + [bordered(tissue(), after)] * 30
    found = follow(images)
    assert found[CONFIRMED - 1] == Roi(60, 0, 360, 270)
    assert found[CONFIRMED] is None
    assert found[-1] == Roi(20, 0, 440, 270)


def test_narrower_borders_are_found_while_the_wide_ones_are_still_in_use():
    after = ((120, 30, 240, 210), None)
    images = [bordered(tissue(), PILLAR)] * CONFIRMED + [bordered(tissue(), after)] * 30
    found = follow(images)
    assert found[CONFIRMED] == Roi(60, 0, 360, 270)
    assert found[-1] == Roi(120, 30, 240, 210)


def test_a_few_more_pixels_of_content_widen_the_borders_without_resetting_them():
    wider = ((57, 0, 364, 270), None)
    images = [bordered(tissue(), PILLAR)] * CONFIRMED + [bordered(tissue(), wider)]
    assert follow(images)[-1] == Roi(57, 0, 364, 270)


def test_another_size_and_a_reset_restart_the_search():
    finder, image = ContentFinder(), bordered(tissue(), PILLAR)
    for _ in range(CONFIRMED):
        found = finder.find(image)
    assert found is not None
    assert finder.find(np.ascontiguousarray(image[:200])) is None
    for _ in range(CONFIRMED):
        finder.find(image)
    finder.reset()
    assert finder.find(image) is None


boxes = st.tuples(*(st.integers(0, 60) for _ in range(4)))


@settings(max_examples=40, deadline=None)
@given(
    stages=st.lists(
        st.tuples(
            boxes, st.none() | st.integers(60, 200), st.integers(1, 16), st.integers(1, 255)
        ),
        min_size=1,
        max_size=4,
    ),
    speck=st.tuples(st.integers(0, 131), st.integers(0, 235)),
)
def test_content_area_contains_every_lit_pixel_of_the_last_images(stages, speck):
    finder, size = ContentFinder(), (135, 240)
    for (left, top, right, bottom), radius, count, light in stages:
        circle = radius and (120, 67, radius)
        kind = (left, top, 240 - left - right, 135 - top - bottom), circle
        image = bordered((tissue(size) * (light / 255)).astype(np.uint8), kind, 12)
        for number in range(count):
            shown = image.copy()
            if number == count - 1:
                shown[speck[0] : speck[0] + 4, speck[1] : speck[1] + 4] = 200
            found = finder.find(shown)
            lit = shown.max(2) >= LIT
            beyond = lit & ~inside(found, size)
            # Around a circle, four images in turn show every row.
            assert not beyond.any() or (found.circle is not None and number < 3)
            if number == count - 1:
                assert inside(found, size)[speck[0] : speck[0] + 4, speck[1]].all()


@settings(max_examples=30, deadline=None)
@given(height=st.integers(1, 70), width=st.integers(1, 70), value=st.integers(0, 255))
def test_accepts_small_images_and_padded_rows(height, width, value):
    padded = np.full((height, width + 5, 3), value, np.uint8)[:, :width]
    assert set(follow([padded] * 12)) == {None}
