# SPDX-License-Identifier: Apache-2.0
"""Arcs of needles and centre lines of threads are fitted to samples."""

import cv2
import numpy as np
import pytest
from drawn_masks import empty, find

from surgseg_ros.core.curves import centre_line, fit_arc, fit_circle, resample
from surgseg_ros.core.labels import NEEDLE


def test_a_circle_is_fitted_to_a_short_arc_without_bias():
    rng = np.random.default_rng(0)
    angles = rng.uniform(0, 1.2, 300)
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=1) * rng.normal(50, 0.8, 300)[:, None]
    centre, radius = fit_circle(ring + np.array([200, 100]))
    assert radius == pytest.approx(50, abs=1.5)
    assert centre == pytest.approx((200, 100), abs=2)
    assert fit_arc(np.stack([np.arange(20.0), np.arange(20.0)], axis=1), 1.0) is None


@pytest.mark.parametrize('lean', [0.6, 0.8, 1.0])
def test_the_ends_of_a_needle_that_looks_like_an_ellipse_are_found(lean):
    """The samples are on a grid of 4 px, as those of an image of 1080 rows."""
    turn, step, half = 0.4, 4, 9
    angles = np.linspace(0, 2.9, 200)
    arc = np.stack([np.cos(angles), lean * np.sin(angles)]) * 140
    cosine, sine = np.cos(turn), np.sin(turn)
    turned = np.array([[cosine, -sine], [sine, cosine]]) @ arc
    line = turned.T + 300
    mask = np.zeros((600, 600), np.uint8)
    cv2.polylines(mask, [np.rint(line).astype(np.int32)], False, 1, 2 * half)
    rows, columns = np.nonzero(mask[2::step, 2::step])
    found = fit_arc(np.stack([columns, rows], 1) * step + 2.0, step)
    for position, near, end in ((found.start, line[5], line[0]), (found.stop, line[-6], line[-1])):
        tip = end + half * (end - near) / np.hypot(*(end - near))
        assert np.hypot(*(position - tip)) < 4


def test_a_path_and_its_points_keep_the_ends():
    points = np.stack([np.arange(0.0, 60), np.zeros(60)], axis=1)
    line = resample(centre_line(points, 3.0), 5)
    assert sorted(line[:, 0]) == pytest.approx([1, 15.5, 29.5, 44, 58], abs=1.5)
    assert resample(points[:1], 3).tolist() == [[0, 0]] * 3


@pytest.mark.parametrize(('pieces', 'found'), [(8, 1), (9, 9)])
def test_of_many_pieces_of_a_needle_none_are_joined(pieces, found):
    mask = empty()
    for start in range(0, 40 * pieces, 40):
        cv2.ellipse(mask, (240, 130), (90, 90), 0, start, start + 20, NEEDLE, 6)
    assert len(find(mask)) == found
