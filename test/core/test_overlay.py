# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from surgseg_ros.core.detections import Instrument, OrientedBox, without_decision
from surgseg_ros.core.labels import NEEDLE, NO_DECISION, PALETTE, ROBOTIC_TOOL
from surgseg_ros.core.overlay import draw_overlay

IMAGE = np.random.default_rng(0).integers(60, 200, (90, 160, 3), dtype=np.uint8)


def test_background_stays_classes_are_tinted_and_no_decision_is_dim_and_grey() -> None:
    mask = np.zeros((90, 160), np.uint8)
    mask[:30], mask[60:] = NEEDLE, NO_DECISION
    drawn = draw_overlay(IMAGE, mask)
    assert np.array_equal(drawn[30:60], IMAGE[30:60])
    tinted = np.abs(drawn[:30].astype(int) - PALETTE[NEEDLE])
    assert tinted.sum() < 0.7 * np.abs(IMAGE[:30].astype(int) - PALETTE[NEEDLE]).sum()
    assert np.ptp(drawn[60:], axis=2).max() == 0
    assert drawn[60:].mean() == pytest.approx(IMAGE[60:].mean() / 2, rel=0.1)


def test_inputs_are_only_read_and_may_be_views() -> None:
    image, mask = IMAGE[::-1, 5:101], np.full((90, 96), NEEDLE, np.uint8)
    image.flags.writeable = mask.flags.writeable = False
    before = image.copy()
    assert np.array_equal(draw_overlay(image, mask), draw_overlay(before, mask.copy()))
    assert np.array_equal(image, before)


def test_box_is_drawn_around_its_instrument() -> None:
    tool = Instrument(ROBOTIC_TOOL, 0.9, OrientedBox(80, 60, 60, 20, 0.0), 1200)
    drawn = draw_overlay(np.zeros_like(IMAGE), np.zeros((90, 160), np.uint8), [tool])
    ink = np.abs(drawn.astype(int) - PALETTE[ROBOTIC_TOOL]).max(2) < 40
    assert ink[60, 50]
    assert ink[70, 80]
    assert not drawn[55:65, 60:100].any()


@pytest.mark.parametrize('size', [(1, 1), (3, 500), (500, 3), (90, 160)])
def test_any_size_can_be_drawn(size: tuple[int, int]) -> None:
    mask = np.full(size, NO_DECISION, np.uint8)
    drawn = draw_overlay(np.zeros((*size, 3), np.uint8), mask, without_decision(size))
    assert drawn.shape == (*size, 3)
    assert drawn.any()
