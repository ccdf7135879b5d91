# SPDX-License-Identifier: Apache-2.0
"""Regions of shafts are split into strips, and a single shaft is not."""

import math

import cv2
import numpy as np
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


def test_shafts_that_form_a_wedge_are_two():
    mask = bar(empty(), (-20, 150), (160, 150), 90, SHAFT)
    bar(mask, (-20, 20), (150, 130), 70, SHAFT)
    first, second = tools_of(mask)
    assert 0.4 < first.area_px / second.area_px < 2.5


def test_a_shaft_that_narrows_is_one():
    mask = empty()
    cv2.fillPoly(mask, [np.array([(0, 20), (300, 110), (300, 150), (0, 240)])], SHAFT)
    assert len(tools_of(mask)) == 1


def test_a_step_of_a_shaft_at_the_border_belongs_to_it():
    mask = bar(empty(), (-20, 130), (300, 130), 80, SHAFT)
    bar(mask, (-20, 80), (160, 80), 24, SHAFT)
    assert len(tools_of(mask)) == 1


def test_a_short_shaft_keeps_the_direction_of_its_edges():
    mask = bar(empty(), (480, 130), (180, 130), 24, SHAFT)
    bar(mask, (160, 290), (160, 150), 100, SHAFT)
    bar(mask, (160, 150), (160, 110), 70, WRIST)
    found = min(tools_of(mask), key=lambda found: found.box.center_x_px)
    assert abs(found.parts.strip.direction[1]) > 0.95


@pytest.mark.parametrize('stop', [748, 752])
def test_a_hole_in_the_middle_of_a_shaft_costs_no_instruments(stop):
    mask = np.zeros((1080, 1920), np.uint8)
    cv2.rectangle(mask, (0, 252), (1500, 347), SHAFT, -1)
    cv2.line(mask, (300, 1080), (700, 100), SHAFT, 100)
    mask[272:328, stop - 12 : stop] = 0
    assert len(tools_of(mask)) in (1, 2)
