# SPDX-License-Identifier: Apache-2.0
"""The benchmark of the metric compares the same scores; MONAI confirms the metric."""

import cv2
import numpy as np
import pytest

from tools.benchmarks.metrics import AGREEMENT, Monai, draw_frames, ours, time_frame


def blobs(rng, size=(90, 120)):
    """Draw a mask of some classes, at the borders too."""
    mask = np.zeros(size, np.uint8)
    for label in rng.choice(np.arange(1, 10), rng.integers(0, 6), replace=False):
        start, end = ([int(rng.integers(side)) for side in size[::-1]] for _ in range(2))
        cv2.line(mask, start, end, int(label), int(rng.integers(1, 20)))
    return mask


@pytest.mark.parametrize('seed', range(12))
def test_monai_gives_the_same_scores(seed):
    rng = np.random.default_rng(seed)
    truth = blobs(rng)
    predicted = np.roll(truth, rng.integers(-12, 13, 2), (0, 1)) if seed % 2 else blobs(rng)
    for mine, theirs in zip(ours(truth, predicted), Monai(truth, predicted).scores(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=AGREEMENT)


def test_frames_have_instruments_and_predictions_have_errors():
    for truth, predicted in draw_frames(2, (108, 192)):
        assert truth.shape == predicted.shape == (108, 192)
        assert len(np.unique(truth)) > 2
        assert (truth != predicted).any()


def test_each_frame_is_timed_the_requested_number_of_times():
    truth, predicted = next(draw_frames(1, (108, 192)))
    timing = time_frame(truth, predicted, 3)
    assert len(timing.ours_s) == len(timing.monai_s) == 3
    assert timing.differ <= AGREEMENT
