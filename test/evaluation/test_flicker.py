# SPDX-License-Identifier: Apache-2.0
"""Flicker: pixels that become wrong while the truth stays the same; counted by hand."""

from itertools import pairwise

import cv2
import numpy as np
import pytest

from surgseg_ros.evaluation.pairs import (
    Pair,
    count_step,
    count_step_of,
    find_steps,
    report,
    summarize_steps,
)


def masks(*rows):
    return tuple(np.array([row], np.uint8) for row in rows)


def test_pixels_that_become_wrong_while_the_truth_stays_are_flicker():
    truth = masks([0, 0, 3, 3, 4], [0, 0, 3, 0, 4])
    predicted = masks([0, 2, 3, 3, 5], [0, 0, 255, 0, 5])
    counts = count_step(truth, predicted)
    assert counts.still_px.tolist() == [2, 0, 0, 1, 1, 0, 0, 0, 0, 0]
    # 2 to 0 is a correction, 5 stays wrong, and where the truth changes nothing is counted.
    assert counts.changed_px.tolist() == [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]


def test_a_mask_that_lags_does_not_flicker():
    truth = [np.array([[3, 0]], np.uint8)] * 2 + [np.array([[0, 3]], np.uint8)] * 3
    late = [truth[0], *truth[:4]]
    steps = zip(pairwise(truth), pairwise(late), strict=True)
    assert summarize_steps({'a': [count_step(*step) for step in steps]})['share'] == 0


def test_a_stray_pixel_counts_each_time_it_appears():
    still = np.zeros((1, 10), np.uint8)
    stray = still.copy()
    stray[0, 4] = 6
    flickering, staying = (
        summarize_steps({'a': [count_step((still, still), step) for step in pairwise(video)]})
        for video in ([still, stray, still, stray], [still, stray, stray, stray])
    )
    assert flickering['share'] == pytest.approx(2 / 30)
    assert staying['share'] == pytest.approx(1 / 30)
    assert flickering['steps'] == 3


def test_videos_are_summed_before_dividing():
    small = count_step(masks([3, 0], [3, 0]), masks([3, 0], [0, 0]))
    large = count_step(masks([0] * 8, [0] * 8), masks([0] * 8, [0] * 8))
    found = summarize_steps({'a': [small], 'b': [large]})
    assert found['share'] == pytest.approx(1 / 10)
    assert found['instrument_share'] == 1
    assert found['class_share']['tool shaft'] == 1
    assert found['class_share']['catheter'] is None
    assert '100.00 of 1000 become wrong (1000.00 of 1000 of instruments)' in report(found)


def test_without_pixels_to_count_flicker_is_undefined():
    found = summarize_steps({})
    assert (found['steps'], found['share'], found['instrument_share']) == (0, None, None)
    assert report(found) == ''


def test_rejects_masks_of_different_sizes():
    with pytest.raises(ValueError, match='differ in size'):
        count_step(masks([0, 0], [0, 0]), masks([0, 0], [0, 0, 0]))


def write(folder, name, mask):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), mask)
    return path


def test_steps_are_within_a_video_and_need_both_predictions(tmp_path):
    path = tmp_path / 'x.png'
    a, b = Pair('video_1', path, path), Pair('video_1', path, None)
    c, d, e = Pair('video_1', path, path), Pair('video_1', path, path), Pair('video_2', path, path)
    assert find_steps([a, b, c, d, e]) == [None, None, None, c, None]
    assert find_steps([]) == []


def test_another_size_starts_a_new_sequence(tmp_path):
    small, large = (
        write(tmp_path, f'{side}.png', np.zeros((side, side), np.uint8)) for side in (4, 6)
    )
    assert count_step_of(Pair('v', small, small), Pair('v', large, large)) is None
    assert count_step_of(Pair('v', small, small), Pair('v', small, None)) is None
    assert count_step_of(Pair('v', small, small), Pair('v', small, small)).still_px[0] == 16
