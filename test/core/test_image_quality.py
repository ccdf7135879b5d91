# SPDX-License-Identifier: Apache-2.0
"""Measures of image quality, on hand-made images whose values are known."""

import cv2
import numpy as np
import pytest

from surgseg_ros.core import image_quality as quality
from surgseg_ros.core.image_quality import sample_image

TISSUE = (150, 60, 50)


def plain(colour: tuple[int, int, int], size: tuple[int, int] = (216, 384)) -> np.ndarray:
    return np.full((*size, 3), colour, np.uint8)


def half(left: tuple[int, int, int], right: tuple[int, int, int]) -> np.ndarray:
    image = plain(left)
    image[:, 192:] = right
    return image


@pytest.mark.parametrize(
    ('measure', 'colour'),
    [
        (quality.dark_share, (23, 10, 0)),
        (quality.clipped_share, (251, 255, 30)),
        (quality.not_red_share, (100, 90, 110)),
        (quality.not_red_share, (180, 180, 175)),
        (quality.blood_share, (100, 20, 25)),
    ],
)
def test_half_of_the_image_counts_as_half(measure: object, colour: tuple[int, int, int]) -> None:
    assert measure(sample_image(plain(TISSUE))) == 0  # type: ignore[operator]
    assert measure(sample_image(half(TISSUE, colour))) == pytest.approx(0.5, abs=0.02)  # type: ignore[operator]
    assert measure(sample_image(plain(colour))) == 1  # type: ignore[operator]


@pytest.mark.parametrize(
    'measure',
    [
        quality.clipped_share,
        quality.not_red_share,
        quality.blood_share,
        quality.haze,
    ],
)
def test_dark_pixels_are_ignored(measure: object) -> None:
    for colour in ((255, 255, 251), (60, 90, 110), (100, 20, 25), TISSUE):
        whole = measure(sample_image(plain(colour)))  # type: ignore[operator]
        in_border = sample_image(half((0, 0, 0), colour))
        assert measure(in_border) == pytest.approx(whole, abs=0.05)  # type: ignore[operator]
    assert measure(sample_image(plain((0, 0, 0)))) == 0  # type: ignore[operator]


def test_haze_brightens_the_darkest_channel_everywhere() -> None:
    rng = np.random.default_rng(0)
    clear = rng.integers(0, 200, (216, 384, 3), np.uint8)
    fog = (clear * 0.4 + 176 * 0.6).astype(np.uint8)
    assert quality.haze(sample_image(clear)) < 0.1
    assert quality.haze(sample_image(fog)) > quality.haze(sample_image(clear)) + 0.2
    assert quality.haze(sample_image(plain((200, 120, 130)))) == pytest.approx(120 / 255)


def test_blood_has_no_texture() -> None:
    textured = plain((100, 20, 20))
    textured[::8, :] = (200, 40, 40)
    textured[:, ::16] = (30, 5, 5)
    assert quality.blood_share(sample_image(textured)) < 0.1


def edges(size: tuple[int, int]) -> np.ndarray:
    small = np.random.default_rng(0).integers(0, 2, (9, 16), np.uint8) * 120 + 60
    large = cv2.resize(small, size[::-1], interpolation=cv2.INTER_NEAREST)
    return np.repeat(large[..., None], 3, 2)


@pytest.mark.parametrize('size', [(360, 640), (720, 1280), (1080, 1920)])
def test_sharpness_falls_with_blur_at_any_size_contrast_and_light(size: tuple[int, int]) -> None:
    sharp = edges(size)
    values = [
        quality.sharpness(sample_image(cv2.GaussianBlur(sharp, (0, 0), size[0] * share)))
        for share in (1e-4, 1 / 180, 1 / 60)
    ]
    assert values[0] > 0.42
    assert values[0] > values[1] + 0.05
    assert values[2] < 0.28
    blurred = cv2.GaussianBlur(sharp, (0, 0), size[0] / 60)
    dim = quality.sharpness(sample_image((blurred // 3).astype(np.uint8)))
    assert dim == pytest.approx(values[2], abs=0.02)


def with_borders(image: np.ndarray, level: int = 0) -> np.ndarray:
    """Add the borders of a da Vinci's video at each side, and a circle of dark corners."""
    height, width = image.shape[:2]
    view = image.copy()
    circle = np.zeros((height, width), np.uint8)
    cv2.circle(circle, (width // 2, height // 2), int(0.52 * width), (1,), -1)
    view[circle == 0] = level
    side = round(0.16 * width)
    return np.pad(view, ((8, 8), (side, side), (0, 0)), constant_values=level)


@pytest.mark.parametrize('level', [0, 16])
def test_edges_of_black_borders_are_not_sharpness(level: int) -> None:
    sharp = edges((720, 1280))
    assert quality.sharpness(sample_image(with_borders(sharp, level))) > 0.4
    for share in (1 / 180, 1 / 60):
        blurred = cv2.GaussianBlur(sharp, (0, 0), 720 * share)
        within = quality.sharpness(sample_image(with_borders(blurred, level)))
        assert within == pytest.approx(quality.sharpness(sample_image(blurred)), abs=0.03)


def test_black_borders_do_not_make_a_comb_rarer() -> None:
    first, second = edges((720, 1280)), np.roll(edges((720, 1280)), 24, 1)
    woven = first.copy()
    woven[1::2] = second[1::2]
    within = quality.comb_share(sample_image(with_borders(woven)))
    assert within > 0.95 * quality.comb_share(sample_image(woven))


def test_a_uniform_image_is_not_blurred() -> None:
    assert quality.sharpness(sample_image(plain(TISSUE))) == 1
    assert quality.sharpness(sample_image(plain((0, 0, 0)))) == 1
    assert quality.sharpness(sample_image(half((0, 0, 0), TISSUE))) == 1


def test_combing_is_found_where_it_is() -> None:
    first, second = edges((720, 1280)), np.roll(edges((720, 1280)), 24, 1)
    woven = first.copy()
    woven[1::2] = second[1::2]
    assert quality.comb_share(sample_image(first)) == 0
    whole = quality.comb_share(sample_image(woven))
    assert whole > 0.15
    woven[:, :640] = first[:, :640]
    assert quality.comb_share(sample_image(woven)) == pytest.approx(whole / 2, rel=0.3)


def test_noise_is_not_combing() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (720, 1280, 3), np.uint8)
    assert quality.comb_share(sample_image(noise)) == 0


@pytest.mark.parametrize('size', [(1, 1), (1, 999), (2, 3), (7, 5), (107, 33), (1920, 1080)])
def test_images_of_any_size_give_finite_values(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    sample = sample_image(image)
    for measure in (
        quality.dark_share, quality.clipped_share, quality.not_red_share,
        quality.haze, quality.blood_share,
        quality.sharpness, quality.comb_share,
    ):  # fmt: skip
        assert 0 <= measure(sample) <= 2


def test_memory_layout_does_not_change_the_result() -> None:
    image = np.random.default_rng(0).integers(0, 255, (216, 384, 3), np.uint8)
    padded = np.pad(image, ((0, 0), (0, 16), (0, 0)))[:, :384]
    assert not padded.flags.c_contiguous
    for ours, theirs in zip(sample_image(image)[:3], sample_image(padded)[:3], strict=True):
        assert np.array_equal(ours, theirs)
    sample_image(np.ascontiguousarray(image[..., ::-1])[..., ::-1])
