# SPDX-License-Identifier: Apache-2.0
"""The minimum region size: tuned on frames, and applied to masks with the same result."""

import numpy as np

from surgseg_ros.core.postprocessing import drop_small_regions
from surgseg_ros.evaluation.calibration import MinimumRegions
from surgseg_ros.evaluation.metrics import count_frame


def frames():
    """Return truths with one large region; predictions add specks of an absent class."""
    for shift in range(4):
        truth = np.zeros((100, 100), np.uint8)
        truth[10 : 50 + shift, 10:50] = 3
        predicted = truth.copy()
        predicted[80:83, 80:83] = 6
        predicted[90, 10] = 3
        yield truth, predicted


def test_specks_are_removed_and_true_regions_are_kept():
    regions = MinimumRegions()
    for truth, predicted in frames():
        regions.add(truth, predicted)
    minimum = regions.tune()
    assert 9e-4 < minimum[6] <= 0.03
    assert 1e-4 < minimum[3] < 0.16
    assert minimum[0] == minimum[1] == 0
    for truth, predicted in frames():
        np.testing.assert_array_equal(drop_small_regions(predicted, minimum), truth)


def test_the_tuned_score_is_that_of_the_filtered_masks():
    rng = np.random.default_rng(3)
    regions = MinimumRegions()
    pairs = []
    for _ in range(3):
        truth = np.kron(rng.integers(0, 10, (6, 6)), np.ones((8, 8))).astype(np.uint8)
        predicted = np.where(rng.random(truth.shape) < 0.1, 5, truth).astype(np.uint8)
        pairs.append((truth, predicted))
        regions.add(truth, predicted)
    minimum = regions.tune()
    raw, filtered = (
        np.mean([count_frame(t, drop_small_regions(p, share)).iou for t, p in pairs], 0)
        for share in ((0.0,) * 10, minimum)
    )
    assert filtered[4] >= raw[4]
    assert filtered.mean() >= raw.mean()


def test_the_input_mask_is_not_modified():
    mask = np.zeros((10, 10), np.uint8)
    mask[0, 0] = 2
    kept = drop_small_regions(mask, (0.0, 0.0, 0.5, *[0.0] * 7))
    assert mask[0, 0] == 2
    assert kept[0, 0] == 0
