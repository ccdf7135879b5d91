# SPDX-License-Identifier: Apache-2.0
"""Pieces of an instrument that was whole in the last image are one instrument."""

import dataclasses

import numpy as np
import pytest
from drawn_masks import SIZE, bar, empty, find, tool
from hypothesis import given, settings
from hypothesis import strategies as st

from surgseg_ros.core.detections import join_instruments
from surgseg_ros.core.labels import CLAMPS, HOLDER, NEEDLE, SUCTION, THREAD
from surgseg_ros.core.track_observations import may_be_pieces
from surgseg_ros.core.tracking import Tracker


def bent(shift=0, label=THREAD, width=8):
    """Draw an L; a cover of its upper part leaves two pieces that do not point at each other."""
    mask = bar(empty(), (100 + shift, 20), (100 + shift, 155), width, label)
    return bar(mask, (97 + shift, 155), (200 + shift, 155), width, label)


def cover(mask, label=HOLDER):
    return bar(mask, (-10, 125), (490, 125), 50, label)


def tracked(tracker, mask, number, label=THREAD, interval_ms=33):
    found = tracker.update(find(mask), SIZE, 10**9 + number * interval_ms * 10**6)
    return [i for i in found if i.label == label]


@pytest.mark.parametrize('label', [THREAD, SUCTION, HOLDER, NEEDLE])
@pytest.mark.parametrize('step', [0, 3])
def test_pieces_of_a_whole_instrument_are_one_while_something_covers_the_gap(label, step):
    tracker, over = Tracker(), SUCTION if label == HOLDER else HOLDER
    for number in range(4):
        assert len(tracked(tracker, bent(step * number, label), number, label)) == 1
    for number in range(4, 12):
        mask = cover(bent(step * number, label), over)
        assert len(tracked(Tracker(), mask, 0, label)) == 2, 'nothing else shows that they are one'
        (joined,) = tracked(tracker, mask, number, label)
        assert joined.track_id == 1
        assert joined.area_px == (mask == label).sum()
    (whole,) = tracked(tracker, bent(step * 12, label), 12, label)
    assert whole.track_id == 1


def test_a_gap_that_nothing_covers_separates_two_instruments():
    """Two threads that crossed and part again leave such a gap."""
    tracker, cut = Tracker(), bent()
    cut[100:150] = 0
    tracked(tracker, bent(), 0)
    assert len(tracked(tracker, cut, 1)) == 2


def test_pieces_may_be_joined_only_if_something_covers_the_gap():
    """What finds instruments in another process keeps their runs then."""
    cut = bent()
    cut[100:150] = 0
    assert may_be_pieces(find(cover(bent())), SIZE)
    assert not any(may_be_pieces(find(mask), SIZE) for mask in (cut, bent(), empty()))


def test_a_wide_gap_separates_two_instruments():
    tracker, mask = Tracker(), bar(empty(), (100, 20), (100, 255), 8, SUCTION)
    bar(mask, (97, 255), (200, 255), 8, SUCTION)
    tracked(tracker, mask, 0, SUCTION)
    bar(mask, (-10, 190), (490, 190), 120, HOLDER)
    assert len(tracked(tracker, mask, 1, SUCTION)) == 2


@pytest.mark.parametrize(('interval_ms', 'count'), [(500, 1), (501, 2)])
def test_pieces_are_not_joined_after_the_time_for_which_tracks_are_kept(interval_ms, count):
    tracker = Tracker(500)
    tracked(tracker, bent(), 0, THREAD, interval_ms)
    assert len(tracked(tracker, cover(bent()), 1, THREAD, interval_ms)) == count


def test_instruments_with_tracks_of_their_own_stay_apart():
    tracker, apart = Tracker(), cover(bent())
    for number in range(3):
        assert [i.track_id for i in tracked(tracker, apart, number)] == [1, 2]


def test_a_piece_that_lies_outside_the_whole_is_another_instrument():
    tracker, mask = Tracker(), empty()
    tracked(tracker, bent(), 0)
    bar(bar(mask, (100, 20), (100, 110), 8, THREAD), (100, 155), (200, 200), 8, THREAD)
    assert len(tracked(tracker, cover(mask), 1)) == 2


def test_pieces_that_are_larger_than_the_whole_are_two_instruments():
    tracker = Tracker()
    tracked(tracker, bent(width=3), 0)
    assert len(tracked(tracker, cover(bent()), 1)) == 2


def test_clips_are_not_joined():
    tracker = Tracker()
    assert len(tracked(tracker, bent(label=CLAMPS), 0, CLAMPS)) == 1
    assert len(tracked(tracker, cover(bent(label=CLAMPS), THREAD), 1, CLAMPS)) == 2


def test_joined_instruments_have_the_pixels_scores_and_order_of_the_pieces():
    mask = bar(tool(empty(), (400, 290), (400, 60)), (200, 40), (260, 40), 10, THREAD)
    found = find(bar(mask, (60, 90), (120, 110), 10, THREAD))
    pieces = [index for index, i in enumerate(found) if i.label == THREAD]
    found = list(found)
    found[pieces[0]] = dataclasses.replace(found[pieces[0]], score=0.5)
    one, other = (found[index] for index in pieces)
    joined = join_instruments(found, [pieces[::-1]])
    assert [i.label for i in joined] == sorted(i.label for i in joined)
    (whole,) = (i for i in joined if i.label == THREAD)
    assert whole.area_px == one.area_px + other.area_px
    assert min(one.score, other.score) < whole.score < max(one.score, other.score)
    keys = whole.runs.rows * SIZE[1] + whole.runs.starts
    assert (np.diff(keys) > 0).all()
    assert whole.box.size_x_px > max(one.box.size_x_px, other.box.size_x_px)
    assert join_instruments(found, []) == tuple(found)


bars = st.tuples(
    st.tuples(st.integers(0, 480), st.integers(0, 270)),
    st.tuples(st.integers(0, 480), st.integers(0, 270)),
    st.integers(2, 40),
    st.sampled_from((SUCTION, HOLDER, NEEDLE, THREAD, CLAMPS)),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(bars, min_size=1, max_size=6), min_size=2, max_size=4))
def test_joining_keeps_every_pixel_and_class(images):
    tracker = Tracker()
    for number, drawn in enumerate(images):
        mask = empty()
        for start, stop, width, label in drawn:
            if start != stop:
                bar(mask, start, stop, width, label)
        found = find(mask)
        result = tracker.update(found, SIZE, 10**9 + number * 33 * 10**6)
        for label in {i.label for i in (*found, *result)}:
            before, after = (
                sorted(
                    key
                    for i in instruments
                    if i.label == label
                    for key in zip(i.runs.rows.tolist(), i.runs.starts.tolist())
                )
                for instruments in (found, result)
            )
            assert before == after


def test_pieces_are_equally_near_in_both_orders():
    """Of two gaps of the same width to both arms of a thread, one is covered."""
    whole = empty()
    whole[60:200, 100:208] = THREAD
    whole[72:192, 108:200] = 0
    parted = whole.copy()
    parted[60:72, 108:148] = parted[60:72, 160:200] = 0
    parted[50:90, 160:200] = HOLDER
    tracker = Tracker()
    tracked(tracker, whole, 0)
    is_joined = len(tracked(tracker, parted, 1)) < len(tracked(Tracker(), parted, 0))
    assert is_joined <= may_be_pieces(find(parted), SIZE)
