# SPDX-License-Identifier: Apache-2.0
"""The calibration error, computed by hand, and the fit of a known temperature."""

import numpy as np
import pytest

from surgseg_ros.core.labels import NO_DECISION
from surgseg_ros.core.segmentation import Segmentation
from surgseg_ros.evaluation.calibration import Reliability, Temperature


def segmentation(mask, confidence):
    return Segmentation(np.array([mask], np.uint8), np.array([confidence], np.uint8))


def test_calibration_error_is_the_weighted_mean_gap_of_the_bins():
    reliability = Reliability()
    # 153 is 0.6, 255 is 1: half of the first are right, and all but one of the second.
    truth = np.array([[0, 0, 0, 0, 3, 3, 3, 0]], np.uint8)
    predicted = segmentation([0, 0, 3, 3, 3, 3, 3, 3], [153, 153, 153, 153, 255, 255, 255, 255])
    reliability.add(truth, predicted)
    found = reliability.summarize()
    assert found['ece'] == pytest.approx(0.5 * abs(0.5 - 0.6) + 0.5 * abs(0.75 - 1))
    # Predicted as instrument: two with 0.6, both wrong, and four with 1.
    assert found['instrument_ece'] == pytest.approx((2 * 0.6 + 4 * 0.25) / 6)


def test_frames_are_summed_before_dividing():
    reliability = Reliability()
    for right in (1, 0):
        reliability.add(np.array([[right]], np.uint8), segmentation([1], [127]))
    assert reliability.summarize()['ece'] == pytest.approx(0.5 - 127 / 255)


def test_gaps_cancel_within_a_bin_but_not_between_bins():
    one, two = Reliability(), Reliability()
    one.add(np.array([[0, 1]], np.uint8), segmentation([0, 0], [128, 128]))
    two.add(np.array([[0, 1]], np.uint8), segmentation([0, 0], [110, 145]))
    assert one.summarize()['ece'] < 0.003
    assert two.summarize()['ece'] == pytest.approx((145 / 255 + 1 - 110 / 255) / 2)


def test_no_decision_and_unlabelled_pixels_are_ignored():
    reliability = Reliability()
    reliability.add(np.array([[0, NO_DECISION]], np.uint8), segmentation([NO_DECISION, 2], [9, 9]))
    assert reliability.summarize() == {'ece': None, 'instrument_ece': None}


def test_rejects_a_segmentation_without_confidence():
    with pytest.raises(ValueError, match='segment with confidence=True'):
        Reliability().add(np.zeros((1, 1), np.uint8), Segmentation(np.zeros((1, 1), np.uint8)))


@pytest.mark.parametrize('temperature', [0.5, 1.0, 1.7, 4.0])
def test_fit_recovers_the_temperature_that_the_truth_was_sampled_with(temperature):
    rng = np.random.default_rng(1)
    found = Temperature()
    for _ in range(12):
        logits = (4 * rng.standard_normal((10, 60, 70))).astype(np.float32)
        scaled = np.exp((logits - logits.max(0)) / temperature)
        ladder = np.cumsum(scaled / scaled.sum(0), 0)
        truth = (rng.random((60, 70)) > ladder).sum(0).clip(0, 9).astype(np.uint8)
        truth[:, :5] = NO_DECISION
        logits[:, :, :5] = 1000
        found.add(truth, logits)
    assert found.tune() == pytest.approx(temperature, rel=0.05)


def test_a_network_that_is_never_wrong_gets_the_lowest_temperature():
    found = Temperature()
    logits = np.zeros((10, 4, 4), np.float32)
    logits[2] = 1
    found.add(np.full((4, 4), 2, np.uint8), logits)
    assert found.tune() == pytest.approx(0.05, abs=1e-3)


def test_without_frames_the_temperature_is_unchanged():
    assert Temperature().tune() == 1.0
