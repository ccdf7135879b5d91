# SPDX-License-Identifier: Apache-2.0
"""Robotic tools whose parts contradict each other: no tip rather than one at the wrong end."""

import numpy as np
import pytest
from drawn_masks import bar, empty, find, tool

from surgseg_ros.core.geometry import find_geometries
from surgseg_ros.core.keypoints import KeypointKind
from surgseg_ros.core.labels import CLASPER, NEEDLE, SHAFT, WRIST

KINDS = KeypointKind


def largest(mask):
    """Return the largest instrument, and its keypoints by kind."""
    found = find(mask)
    index = max(range(len(found)), key=lambda n: found[n].area_px)
    geometry = find_geometries(found, mask)[index]
    return found[index], {point.kind: point for point in geometry.keypoints}


@pytest.mark.parametrize('is_mirrored', [False, True])
@pytest.mark.parametrize('has_wrist', [False, True])
def test_specks_where_a_shaft_enters_inside_the_image_do_not_turn_it(has_wrist, is_mirrored):
    """In a round view, a shaft enters inside the image, where a network finds claspers."""
    mask = bar(empty(), (60, 130), (230, 130), 30, SHAFT)
    bar(mask, (52, 130), (60, 130), 30 if has_wrist else 8, CLASPER)
    if has_wrist:
        bar(mask, (232, 130), (300, 130), 30, WRIST)
    mask = mask[:, ::-1].copy() if is_mirrored else mask
    _, points = largest(mask)
    direction = points[KINDS.SHAFT_AXIS].angle_rad
    assert np.cos(direction) == pytest.approx(-1 if is_mirrored else 1, abs=0.01)
    assert KINDS.TIP not in points


def test_wrists_and_claspers_elsewhere_do_not_turn_a_shaft():
    mask = bar(empty(), (40, 130), (230, 130), 30, SHAFT)
    bar(mask, (5, 20), (45, 60), 30, CLASPER)
    shaft, _ = largest(mask)
    assert shaft.parts.strip.direction == pytest.approx((1, 0), abs=0.01)


@pytest.mark.parametrize('has_wrist', [False, True])
def test_a_clasper_beside_the_shaft_is_no_jaw(has_wrist):
    mask = bar(empty(), (-20, 130), (300, 130), 30, SHAFT)
    if has_wrist:
        bar(mask, (300, 130), (340, 130), 30, WRIST)
    bar(mask, (120, 108), (160, 108), 20, CLASPER)
    _, points = largest(mask)
    assert KINDS.SHAFT_AXIS in points
    assert not points.keys() & {KINDS.TIP, KINDS.LEFT_JAW_TIP, KINDS.JAW_PIVOT}


@pytest.mark.parametrize('is_mirrored', [False, True])
def test_a_wrist_behind_a_needle_shows_the_direction_of_a_shaft(is_mirrored):
    mask = bar(empty(), (330, 130), (400, 130), 24, SHAFT)
    bar(mask, (416, 60), (416, 200), 32, NEEDLE)
    bar(mask, (432, 130), (456, 130), 24, WRIST)
    bar(mask, (456, 130), (476, 130), 8, CLASPER)
    mask = mask[:, ::-1].copy() if is_mirrored else mask
    (found,) = (each for each in find(mask) if each.parts)
    assert len(found.parts.wrists) == 1
    assert found.parts.strip.direction == pytest.approx((-1 if is_mirrored else 1, 0), abs=0.01)


@pytest.mark.parametrize('has_speck', [False, True])
@pytest.mark.parametrize(('end', 'is_hidden'), [(400, False), (465, True)])
def test_which_end_of_a_shaft_between_two_borders_has_the_tip_is_not_known(
    end, is_hidden, has_speck
):
    mask = bar(empty(), (-20, 130), (end, 130), 40, SHAFT)
    bar(mask, (end, 130), (end + 10, 130), 10, CLASPER)
    if has_speck:
        bar(mask, (end - 6, 126), (end, 126), 8, WRIST)
    _, points = largest(mask)
    for kind in (KINDS.TIP, KINDS.SHAFT_AXIS, KINDS.SHAFT_ENTRY, KINDS.LEFT_SHAFT_EDGE):
        assert points[kind].is_hidden == is_hidden


def test_a_tiny_piece_of_shaft_beside_the_wrist_of_a_shaft_is_no_tool():
    mask = tool(empty(), (-20, 130), (400, 130), 60)
    row, column = np.argwhere(mask == WRIST).max(axis=0)
    bar(mask, (column - 26, row + 3), (column - 20, row + 3), 4, SHAFT)
    (found,) = find(mask)
    assert len(found.parts.shafts) == 2
    assert not found.parts.is_shared
    assert found.parts.strip.end == pytest.approx((232, 130), abs=4)


def test_a_wide_shaft_along_the_border_enters_where_it_ends_there():
    mask = bar(empty(), (-20, 50), (300, 50), 110, SHAFT)
    bar(mask, (300, 50), (340, 50), 20, CLASPER)
    _, points = largest(mask)
    assert points[KINDS.SHAFT_AXIS].angle_rad == pytest.approx(0, abs=0.02)
    assert not any(point.is_hidden for point in points.values())
