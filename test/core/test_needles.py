# SPDX-License-Identifier: Apache-2.0
"""Point and tail of a needle are distinguished, and ends that the border cuts off are flagged."""

import cv2
import numpy as np
import pytest
from drawn_masks import empty, find

from surgseg_ros.core.geometry import find_geometries
from surgseg_ros.core.keypoints import KeypointKind
from surgseg_ros.core.labels import CLASPER, NEEDLE, THREAD

POINT, TAIL = KeypointKind.NEEDLE_POINT, KeypointKind.NEEDLE_TAIL


def needle(mask, centre, turns, lean=1.0, sharp=0.45):
    """Draw an arc of radius 80 from its tail to its point; return both ends."""
    angles = np.linspace(*turns, 300)
    line = centre + 80 * np.stack([np.cos(angles), lean * np.sin(angles)], axis=1)
    halves = 5 * np.interp(np.linspace(0, 1, 300), [0, 0.88, 1], [1, 1, sharp])
    for (x, y), half in zip(line, halves):
        cv2.circle(mask, (round(16 * x), round(16 * y)), round(16 * half), NEEDLE, -1, shift=4)
    return line[0], line[-1]


def ends_of(mask):
    (one,) = (x for x in find(mask) if x.label == NEEDLE)
    (geometry,) = find_geometries([one], mask)
    return {point.kind: point for point in geometry.keypoints}


@pytest.mark.parametrize('turns', [(0.4, 3.3), (0.8, -1.6), (2.4, 4.2), (5.2, 7.6)])
@pytest.mark.parametrize('lean', [0.4, 1.0])
def test_the_point_of_a_needle_is_its_thin_end_at_any_inclination(turns, lean):
    mask = empty()
    tail, point = needle(mask, (240, 130), turns, lean)
    found = ends_of(mask)
    assert np.hypot(*(found[TAIL].xy_px - tail)) < 12
    assert np.hypot(*(found[POINT].xy_px - point)) < 12


CUT = pytest.mark.parametrize('turns', [(-0.8, 2.2), (2.2, -0.8)])
"""Needles whose first or last end is above the image."""


@CUT
def test_a_needle_whose_middle_is_in_jaws_and_whose_end_is_cut_off_has_its_ends_right(turns):
    mask = empty()
    tail, point = needle(mask, (240, 30), turns)
    cv2.line(mask, (282, 65), (416, 178), CLASPER, 20)
    found = ends_of(mask)
    seen, cut = (POINT, TAIL) if point[1] > tail[1] else (TAIL, POINT)
    assert (found[seen].is_beyond, found[cut].is_beyond) == (False, True)
    assert np.hypot(*(found[seen].xy_px - max(tail, point, key=lambda end: end[1]))) < 12


@pytest.mark.parametrize('turns', [(-1.7, 1.2), (1.2, -1.7)])
def test_an_end_is_beyond_the_image_where_the_border_cuts_the_needle_at_a_small_angle(turns):
    """The end of what is visible is in the image, unlike the end of the needle."""
    mask = empty()
    tail, point = needle(mask, (240, 74), turns)
    found = ends_of(mask)
    seen, cut = (POINT, TAIL) if point[1] > tail[1] else (TAIL, POINT)
    assert (found[seen].is_beyond, found[cut].is_beyond) == (False, True)
    assert found[cut].xy_px[1] > -0.5


@CUT
def test_a_thread_at_an_end_that_the_border_cuts_off_is_not_fastened_to_it(turns):
    mask = empty()
    needle(mask, (240, 30), turns)
    cv2.line(mask, (302, 0), (362, 20), THREAD, 3)
    instruments = find(mask)
    geometries = find_geometries(instruments, mask)
    (own,) = (g for x, g in zip(instruments, geometries) if x.label == NEEDLE)
    kinds = {point.kind for point in own.keypoints}
    assert POINT in kinds
    assert KeypointKind.NEEDLE_THREAD_END not in kinds


def test_the_ends_of_a_needle_are_uncertain_on_masks_of_a_network():
    mask = empty()
    needle(mask, (240, 130), (0.4, 3.3))
    found = find(mask, confidence=230), find(mask, confidence=255)
    uncertain, certain = (
        {point.kind: point.sigma_px for point in find_geometries(one, mask)[0].keypoints}
        for one in found
    )
    for kind in (POINT, TAIL):
        assert uncertain[kind] > 5 * found[0][0].error_px > 10 * certain[kind]
