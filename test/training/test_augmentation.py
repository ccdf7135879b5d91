# SPDX-License-Identifier: Apache-2.0
"""Augmentation: image and truth stay aligned, and randomness depends only on the seed."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from surgseg_ros.core.labels import NO_DECISION
from surgseg_ros.training.crop_dataset import Augmentation

STILL = Augmentation(flip=0, scale=0, rotation_deg=0, smoke=1, blur=1)
NOTHING = Augmentation(
    flip=0, scale=0, rotation_deg=0, colour=0, smoke=0, blur=0, noise=0, focus=0
)
GEOMETRY = Augmentation(colour=0, smoke=0, blur=0, noise=0)


def rng_of(seed):
    return np.random.default_rng(seed)


def scene():
    """Draw squares, bright where the truth has class 4."""
    mask = np.kron(np.random.default_rng(0).integers(0, 2, (8, 8)), np.ones((16, 16)))
    mask = (4 * mask).astype(np.uint8)
    return np.repeat(mask[..., None] * np.uint8(50), 3, 2), mask


def make_image(size=(128, 160)):
    """Draw an image like tissue, without black."""
    rng = np.random.default_rng(1)
    return rng.integers((90, 40, 30), (200, 90, 80), (*size, 3)).astype(np.uint8)


@pytest.mark.parametrize('padded', [0, 40])
def test_without_augmentation_nothing_changes(padded):
    image, mask = scene()
    mask[128 - padded :] = NO_DECISION
    view, truth = NOTHING(image, mask, mask.shape, np.random.default_rng(0))
    np.testing.assert_array_equal(view, image)
    np.testing.assert_array_equal(truth, mask)


@pytest.mark.parametrize('seed', range(8))
def test_the_truth_is_transformed_like_the_image(seed):
    view, truth = GEOMETRY(*scene(), (64, 96), np.random.default_rng(seed), label=4)
    assert view.shape == (64, 96, 3)
    assert truth.shape == (64, 96)
    inside = truth != NO_DECISION
    agree = (view[..., 0] > 100) == (truth == 4)
    assert agree[inside].mean() > 0.95


def test_pixels_outside_the_image_have_no_truth():
    image, mask = scene()
    view, truth = NOTHING(image, mask, (160, 160), np.random.default_rng(0))
    assert (truth == NO_DECISION).sum() == 160 * 160 - mask.size
    assert not view[truth == NO_DECISION].any()


def test_the_same_seed_gives_the_same_view():
    crops = [Augmentation()(*scene(), (64, 64), np.random.default_rng(s)) for s in (3, 3, 4)]
    np.testing.assert_array_equal(crops[0][0], crops[1][0])
    assert (crops[0][0] != crops[2][0]).any()


def test_a_view_contains_the_requested_class():
    mask = np.zeros((128, 128), np.uint8)
    mask[2, 3] = 5
    image = np.zeros((128, 128, 3), np.uint8)
    still = Augmentation(flip=0, scale=0, rotation_deg=0)
    found = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        found += 5 in still(image, mask, (32, 32), rng, label=5)[1]
    assert found > 25


def test_a_requested_class_may_be_absent():
    image, mask = scene()
    plain, asked = (
        NOTHING(image, mask, (32, 32), np.random.default_rng(0), label=label)
        for label in (None, 9)
    )
    np.testing.assert_array_equal(plain[1], asked[1])


def test_a_view_avoids_the_padding_if_possible():
    mask = np.zeros((128, 160), np.uint8)
    mask[72:] = NO_DECISION
    truths = [NOTHING(make_image(), mask, (64, 64), rng_of(seed))[1] for seed in range(20)]
    assert all((truth != NO_DECISION).mean() > 0.95 for truth in truths)


def test_the_black_around_the_endoscope_stays_black():
    image = make_image()
    rows, columns = np.mgrid[:128, :160]
    surround = (rows - 64) ** 2 + (columns - 80) ** 2 > 75**2
    image[surround] = 0
    black = (rows - 64) ** 2 + (columns - 80) ** 2 > 84**2  # the rim belongs to the circle
    assert black.any()
    for seed in range(8):
        view, _ = STILL(image, np.zeros_like(rows, np.uint8), (128, 160), rng_of(seed))
        assert not view[black].any()
        assert (view[~surround] != image[~surround]).mean() > 0.8


def test_smoke_whitens_and_reduces_contrast():
    image, mask = make_image(), np.zeros((128, 160), np.uint8)
    smoke = replace(NOTHING, smoke=1)
    for seed in range(8):
        view, truth = smoke(image, mask, mask.shape, rng_of(seed))
        assert view.mean() > image.mean() + 5
        for axis in (1, 2):  # between neighbours, and between channels
            contrasts = [np.abs(np.diff(a.astype(int), axis=axis)).mean() for a in (view, image)]
            assert contrasts[0] < 0.97 * contrasts[1]
        np.testing.assert_array_equal(truth, mask)


def test_color_jitter_changes_brightness_contrast_saturation_and_balance():
    image, mask = make_image(), np.zeros((128, 160), np.uint8)
    means = np.array(
        [
            replace(NOTHING, colour=0.15)(image, mask, mask.shape, rng_of(seed))[0].mean((0, 1))
            for seed in range(40)
        ]
    )
    assert means.mean(1).std() > 3  # brightness
    assert (means - means.mean(1, keepdims=True)).std(0).min() > 1  # white balance
    assert abs(means.mean(0) - image.mean((0, 1))).max() < 5


def test_noise_has_the_requested_strength():
    image, mask = np.full((128, 160, 3), 128, np.uint8), np.zeros((128, 160), np.uint8)
    deviations = [
        replace(NOTHING, noise=6)(image, mask, mask.shape, rng_of(seed))[0].std()
        for seed in range(40)
    ]
    assert max(deviations) < 6.5
    assert 2 < np.mean(deviations) < 4


def test_stretch_changes_the_aspect_ratio_in_both_directions_up_to_the_limit():
    mask = cv2.circle(np.zeros((128, 160), np.uint8), (80, 64), 20, (1,), -1)
    image = np.zeros((128, 160, 3), np.uint8)
    stretched = replace(NOTHING, stretch=0.8)
    ratios = []
    for seed in range(30):
        _, truth = stretched(image, mask, (128, 160), rng_of(seed))
        _, _, width, height = cv2.boundingRect((truth == 1).astype(np.uint8))
        ratios.append(width / height)
    assert 0.5 < min(ratios) < 0.8
    assert 1.25 < max(ratios) < 1.9


def test_gamma_darkens_and_brightens_but_keeps_black_and_white():
    image = np.full((64, 64, 3), 100, np.uint8)
    image[:8], image[-8:] = 0, 255
    mask = np.zeros((64, 64), np.uint8)
    exposed = replace(NOTHING, gamma=0.5)
    levels = []
    for seed in range(20):
        view, _ = exposed(image, mask, (64, 64), rng_of(seed))
        assert (view[:8] == 0).all()
        assert (view[-8:] == 255).all()
        levels.append(int(view[32, 32, 0]))
    assert min(levels) < 85
    assert max(levels) > 115


def test_instruments_and_the_rest_are_recolored_separately():
    image = np.full((64, 64, 3), 120, np.uint8)
    mask = np.zeros((64, 64), np.uint8)
    mask[:, 32:] = 3
    contrasts = []
    for seed in range(30):
        view, truth = replace(NOTHING, apart=1)(image, mask, (64, 64), rng_of(seed))
        np.testing.assert_array_equal(truth, mask)
        contrasts.append(float(view[:, 40:].mean()) - float(view[:, :24].mean()))
    assert min(contrasts) < -40  # dark instruments on bright tissue
    assert max(contrasts) > 40
    unseen = replace(NOTHING, apart=1)(image, np.zeros_like(mask), (64, 64), rng_of(3))[0]
    assert (
        np.ptp(unseen) == 0 or unseen.std((0, 1)).max() == 0
    )  # without an instrument, everything changes alike


def test_blur_reaches_its_maximum_strength():
    image = np.full((64, 64, 3), 50, np.uint8)
    image[:, 32:] = 200
    mask = np.zeros((64, 64), np.uint8)
    widths = []
    for maximum in (1.2, 4.0):
        blurred = replace(NOTHING, blur=1, blur_px=maximum)
        rows = [blurred(image, mask, (64, 64), rng_of(seed))[0][32, :, 0] for seed in range(20)]
        widths.append(max(np.count_nonzero((row > 55) & (row < 195)) for row in rows))
    assert widths[0] < 7 < 10 < widths[1]


def test_spectra_takes_low_frequencies_of_another_frame_and_keeps_shapes():
    image, mask = scene()
    image = image // 4 + make_image(image.shape[:2]) // 2
    other = make_image((90, 70))
    augmentation = replace(NOTHING, spectra=1)
    view, truth = augmentation(image, mask, mask.shape, rng_of(0), other=other)
    np.testing.assert_array_equal(truth, mask)
    np.testing.assert_allclose(view.mean((0, 1)), other.mean((0, 1)), atol=5)
    steps = [cv2.Laplacian(each[..., 0], cv2.CV_32F).ravel() for each in (image, view)]
    assert np.corrcoef(steps)[0, 1] > 0.9


def test_spectra_of_the_same_frame_change_nothing():
    image = make_image()
    mask = np.zeros(image.shape[:2], np.uint8)
    view, _ = replace(NOTHING, spectra=1)(image, mask, mask.shape, rng_of(0), other=image)
    np.testing.assert_array_equal(view, image)
