# SPDX-License-Identifier: Apache-2.0
"""Views: picture and truth stay together, and chance comes from the seed alone."""

import numpy as np
import pytest

from surgseg_ros.core.labels import NO_DECISION
from surgseg_ros.training.augmentation import Augmentation

NOTHING = Augmentation(flip=0, scale=0, rotation_deg=0, colour=0, blur=0, noise=0, focus=0)
GEOMETRY = Augmentation(colour=0, blur=0, noise=0)


def scene():
    """Draw squares, bright where the truth has class 4."""
    mask = np.kron(np.random.default_rng(0).integers(0, 2, (8, 8)), np.ones((16, 16)))
    mask = (4 * mask).astype(np.uint8)
    return np.repeat(mask[..., None] * np.uint8(50), 3, 2), mask


def test_nothing_changes_where_nothing_is_asked_for():
    image, mask = scene()
    view, truth = NOTHING(image, mask, mask.shape, np.random.default_rng(0))
    np.testing.assert_array_equal(view, image)
    np.testing.assert_array_equal(truth, mask)


@pytest.mark.parametrize('seed', range(8))
def test_the_truth_follows_the_picture(seed):
    view, truth = GEOMETRY(*scene(), (64, 96), np.random.default_rng(seed), label=4)
    assert view.shape == (64, 96, 3)
    assert truth.shape == (64, 96)
    inside = truth != NO_DECISION
    agree = (view[..., 0] > 100) == (truth == 4)
    assert agree[inside].mean() > 0.95


def test_beyond_the_picture_there_is_no_truth():
    image, mask = scene()
    view, truth = NOTHING(image, mask, (160, 160), np.random.default_rng(0))
    assert (truth == NO_DECISION).sum() == 160 * 160 - mask.size
    assert not view[truth == NO_DECISION].any()


def test_the_same_chance_gives_the_same_view():
    views = [Augmentation()(*scene(), (64, 64), np.random.default_rng(s)) for s in (3, 3, 4)]
    np.testing.assert_array_equal(views[0][0], views[1][0])
    assert (views[0][0] != views[2][0]).any()


def test_a_view_is_put_on_the_class_that_is_asked_for():
    mask = np.zeros((128, 128), np.uint8)
    mask[2, 3] = 5
    image = np.zeros((128, 128, 3), np.uint8)
    still = Augmentation(flip=0, scale=0, rotation_deg=0)
    found = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        found += 5 in still(image, mask, (32, 32), rng, label=5)[1]
    assert found > 25


def test_a_class_that_is_not_there_is_no_obstacle():
    image, mask = scene()
    plain, asked = (
        NOTHING(image, mask, (32, 32), np.random.default_rng(0), label=label)
        for label in (None, 9)
    )
    np.testing.assert_array_equal(plain[1], asked[1])
