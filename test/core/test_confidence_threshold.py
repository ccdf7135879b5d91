# SPDX-License-Identifier: Apache-2.0
"""Pixels with low confidence become no decision, and an image of only such pixels is reported."""

import numpy as np
import pytest

from surgseg_ros.core.labels import NEEDLE, NO_DECISION
from surgseg_ros.core.postprocessing import apply_confidence_threshold, instruments_in
from surgseg_ros.core.segmentation import Segmentation

MASK = np.array([[0, 3, 4, NO_DECISION]], np.uint8)
CONFIDENCE = np.array([[255, 127, 126, 0]], np.uint8)


def test_pixels_below_the_threshold_are_no_decision() -> None:
    found = apply_confidence_threshold(Segmentation(MASK, CONFIDENCE, {'fit': 1.0}), 0.5)
    assert found.mask.tolist() == [[0, 3, NO_DECISION, NO_DECISION]]
    assert found.confidence is CONFIDENCE
    assert found.stage_ms == {'fit': 1.0}
    assert MASK[0, 2] == 4


def test_threshold_of_0_is_off() -> None:
    whole = Segmentation(MASK)
    assert apply_confidence_threshold(whole, 0) is whole


def test_threshold_of_1_keeps_confidences_that_round_to_1() -> None:
    found = apply_confidence_threshold(Segmentation(MASK, CONFIDENCE), 1)
    assert found.mask.tolist() == [[0, NO_DECISION, NO_DECISION, NO_DECISION]]


@pytest.mark.parametrize('minimum', [-0.1, 1.1, float('nan')])
def test_rejects_a_threshold_that_is_not_a_probability(minimum: float) -> None:
    with pytest.raises(ValueError, match='min_confidence is'):
        apply_confidence_threshold(Segmentation(MASK, CONFIDENCE), minimum)


def test_rejects_a_segmentation_without_confidence() -> None:
    with pytest.raises(ValueError, match='segment with confidence=True'):
        apply_confidence_threshold(Segmentation(MASK), 0.5)


def test_an_image_without_a_decided_pixel_is_without_decision() -> None:
    plane = np.full((20, 30), NEEDLE, np.uint8)
    low = Segmentation(plane, np.full_like(plane, 90))
    (needle,) = instruments_in(low)
    assert needle.label == NEEDLE
    (nothing,) = instruments_in(apply_confidence_threshold(low, 0.6))
    assert (nothing.label, nothing.score, nothing.area_px) == (NO_DECISION, 0.0, 600)


def test_with_one_decided_pixel_the_list_of_instruments_may_be_empty() -> None:
    plane = np.full((20, 30), NEEDLE, np.uint8)
    plane[0, 0] = 0
    confidence = np.where(plane == NEEDLE, 90, 255).astype(np.uint8)
    assert instruments_in(apply_confidence_threshold(Segmentation(plane, confidence), 0.6)) == ()
