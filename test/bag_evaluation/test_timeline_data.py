# SPDX-License-Identifier: Apache-2.0
"""Frames over time: their positions, and unknown values."""

import numpy as np
import pytest
from made_results import START_NS, STEP_NS, made_bag, unscored

from surgseg_ros.bag_evaluation.timeline_data import read_series


def stamped(stamps):
    return read_series([unscored(n, stamp_ns=stamp) for n, stamp in enumerate(stamps)])


def test_frames_are_placed_by_their_stamps():
    series = read_series(made_bag(5)['over_time'])
    assert series.is_time
    assert series.at == pytest.approx(np.arange(5) * STEP_NS / 1e9)


@pytest.mark.parametrize(
    'steps',
    [
        [0, 1, 2, 1, 3],  # backwards
        [0, 0, 0, 0, 0],  # all equal
        [0, 1, 2, 1000, 1001],  # a gap much longer than the rest
    ],
)
def test_with_unusable_stamps_frames_are_placed_by_index(steps):
    series = stamped([START_NS + step * STEP_NS for step in steps])
    assert not series.is_time
    assert series.at.tolist() == [0, 1, 2, 3, 4]


def test_a_stamp_of_zero_is_ignored():
    assert not stamped([0, START_NS, START_NS + STEP_NS]).is_time


def test_a_frame_without_a_stamp_is_placed_between_its_neighbours():
    series = stamped([START_NS, None, START_NS + 2 * STEP_NS, START_NS + 3 * STEP_NS])
    assert series.at == pytest.approx(np.arange(4) * STEP_NS / 1e9)


def test_unknown_values_are_nan():
    series = read_series([unscored(0), unscored(1, instruments=[255]), *made_bag(1)['over_time']])
    assert np.isnan(series.iou).tolist() == [True, True, False]
    assert np.isnan(series.truth[:2]).all()
    assert series.instruments.tolist() == [2, 0, 2]
    assert series.floor[2] == pytest.approx(7 / 9)


def test_the_longest_tracks_are_returned_with_their_frames():
    frames = [
        unscored(0, instruments=[4, 10], tracks=[2, 1]),
        unscored(1, instruments=[10], tracks=[1]),
        unscored(2, instruments=[255], tracks=[0]),
        unscored(3, instruments=[10, 5], tracks=[1, 7]),
    ]
    found = [(t.number, t.label, t.seen.tolist()) for t in read_series(frames).tracks]
    assert found == [(1, 10, [1, 1, 0, 1]), (2, 4, [1, 0, 0, 0]), (7, 5, [0, 0, 0, 1])]
    many = [unscored(0, instruments=[10] * 40, tracks=[*range(1, 41)]), unscored(1)]
    assert len(read_series(many).tracks) == 16
    older = unscored(0, instruments=[10])
    del older['tracks']
    assert read_series([older]).tracks == []
