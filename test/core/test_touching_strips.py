# SPDX-License-Identifier: Apache-2.0
"""Regions of shafts are split into strips, and a single shaft is not."""

import math

import pytest
from drawn_masks import bar, empty, tools_of

from surgseg_ros.core.labels import SHAFT, THREAD, WRIST


@pytest.mark.parametrize(
    'others', [((60, 200), (400, 60)), ((60, 60), (420, 60)), ((230, 10), (230, 120))]
)
def test_shafts_that_cross_or_meet_far_from_the_border_are_two(others):
    mask = bar(empty(), (60, 60), (400, 200), 40, SHAFT)
    bar(mask, *others, 30, SHAFT)
    first, second = tools_of(mask)
    assert 0.2 < first.area_px / second.area_px < 2.5


def test_a_forked_shaft_is_one_whatever_lies_between_its_ears():
    mask = bar(empty(), (-20, 130), (200, 130), 100, SHAFT)
    bar(mask, (150, 90), (320, 90), 22, SHAFT)
    bar(mask, (150, 170), (320, 170), 22, SHAFT)
    bar(mask, (190, 130), (380, 130), 59, WRIST)
    assert len(tools_of(mask)) == 1


@pytest.mark.parametrize('turn', [-0.6, 0.6])
def test_a_shaft_with_a_bent_cover_is_one(turn):
    mask = bar(empty(), (-20, 130), (220, 130), 50, SHAFT)
    bar(mask, (205, 130), (205 + 120 * math.cos(turn), 130 + 120 * math.sin(turn)), 40, SHAFT)
    assert len(tools_of(mask)) == 1


def test_a_shaft_of_which_one_edge_is_visible_is_separate_from_the_one_that_it_meets():
    mask = bar(empty(), (-20, 40), (330, 140), 50, SHAFT)
    bar(mask, (330, 300), (330, 140), 50, SHAFT)
    bar(mask, (355, 300), (355, 170), 30, THREAD)
    assert len(tools_of(mask)) == 2
