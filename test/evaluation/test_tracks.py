# SPDX-License-Identifier: Apache-2.0
"""Metrics of tracks, on cases computed by hand, and properties of any case."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgseg_ros.evaluation.tracks import TrackFrame, count_tracks, summarize_tracks


def frame(truth, predicted, *found, iou=1.0):
    """Make a frame in which pairs (id of the truth, predicted id) overlap."""
    overlaps = np.zeros((len(truth), len(predicted)))
    for ours, theirs in found:
        overlaps[truth.index(ours), predicted.index(theirs)] = iou
    return TrackFrame(truth, predicted, overlaps)


def scores(*videos):
    return summarize_tracks([count_tracks(video) for video in videos])


def test_perfect_tracks_score_1_with_any_ids():
    video = [frame([1, 2], [70, 9], (1, 9), (2, 70))] * 5
    assert scores(video) == {
        'id_switches': 0,
        'id_switches_per_1000': 0,
        'idf1': 1,
        'hota': pytest.approx(1),
    }


def test_two_tracks_that_swap_ids_halfway():
    video = [frame([1, 2], [1, 2], (1, 1), (2, 2))] * 2
    video += [frame([1, 2], [1, 2], (1, 2), (2, 1))] * 2
    found = scores(video)
    assert found['id_switches'] == 2
    assert found['id_switches_per_1000'] == 500
    assert found['idf1'] == 0.5
    # For each match: 2 frames have both tracks, 2 only the one, 2 only the other.
    assert found['hota'] == pytest.approx(math.sqrt(2 / 6))


def test_another_id_after_a_loss_is_a_switch_and_the_same_id_is_not():
    lost = frame([1], [])
    assert scores([frame([1], [5], (1, 5)), lost, frame([1], [5], (1, 5))])['id_switches'] == 0
    assert scores([frame([1], [5], (1, 5)), lost, frame([1], [6], (1, 6))])['id_switches'] == 1


def test_false_negatives_and_false_positives():
    video = [frame([1, 2], [1, 3], (1, 1))] * 3
    found = scores(video)
    assert found['idf1'] == 2 * 3 / (6 + 6)
    # TP 3, FN 3, FP 3; the matches are perfectly associated.
    assert found['hota'] == pytest.approx(math.sqrt(3 / 9))


def test_hota_is_the_mean_over_overlap_thresholds():
    """At an IoU of 0.6, 12 of 19 thresholds count the match; ids are found above 0.5."""
    found = scores([frame([1], [1], (1, 1), iou=0.6)])
    assert found['hota'] == pytest.approx(12 / 19)
    assert found['idf1'] == 1
    assert scores([frame([1], [1], (1, 1), iou=0.5)])['idf1'] == 0


def test_videos_are_counted_separately():
    """Equal ids in two videos are different tracks; all frames have equal weight."""
    first, second = [frame([1], [1], (1, 1))] * 3, [frame([1], [2], (1, 2))]
    found = scores(first, second)
    assert (found['id_switches'], found['idf1'], found['hota']) == (0, 1, pytest.approx(1))
    joined = scores(first + second)
    assert (joined['id_switches'], joined['idf1']) == (1, 0.75)


def test_without_tracks_there_is_no_score():
    assert scores([frame([], [])])['idf1'] is None
    assert scores([frame([], [])])['id_switches_per_1000'] == 0
    assert scores()['id_switches_per_1000'] is None
    assert scores([frame([1], [])])['hota'] == 0


@st.composite
def videos(draw):
    """Draw overlaps of disjoint masks: no mask has more than one partner above 0.5."""
    frames = []
    for _ in range(draw(st.integers(1, 6))):
        truth, predicted = (draw(st.lists(st.integers(1, 4), unique=True)) for _ in range(2))
        pairs = list(zip(truth, draw(st.permutations(predicted))))
        frames.append(frame(truth, predicted, *pairs, iou=draw(st.floats(0, 1))))
    return frames


@settings(deadline=None)
@given(videos(), st.permutations([1, 2, 3, 4]))
def test_scores_are_in_range_and_do_not_depend_on_ids(video, names):
    found = scores(video)
    for key in ('idf1', 'hota'):
        assert found[key] is None or 0 <= found[key] <= 1 + 1e-9
    renamed = [x._replace(predicted=[names[i - 1] for i in x.predicted]) for x in video]
    assert scores(renamed) == pytest.approx(found)
