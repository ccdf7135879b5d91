# SPDX-License-Identifier: Apache-2.0
"""Scores of instruments: detection, errors of keypoints, and what is excluded."""

import math

import cv2
import numpy as np
import pytest

from surgseg_ros.core.instrument_files import ListedInstrument
from surgseg_ros.core.keypoints import Geometry, Keypoint, KeypointKind
from surgseg_ros.core.labels import LABELS, NEEDLE, NO_DECISION, ROBOTIC_TOOL, THREAD
from surgseg_ros.evaluation.instrument_folders import InstrumentFrame
from surgseg_ros.evaluation.instruments import (
    count_instruments,
    find_touch,
    summarize_instruments,
)

SIZE = (108, 192)
"""A pixel equals 10 pixels in an image of 1080 rows."""

KINDS = KeypointKind


def listed(number, *points, label=ROBOTIC_TOOL, track_id=None, opening=None, tip_m=None):
    track_id = number if track_id is None else track_id
    return ListedInstrument(number, label, Geometry(tuple(points), opening), track_id, tip_m=tip_m)


def frame(*instruments, columns=()):
    """Draw instruments as bars of 20 rows, between columns or one below the other."""
    image = np.zeros(SIZE, np.uint8)
    for index, one in enumerate(instruments):
        left, right = columns[index] if columns else (10, 110)
        image[25 * index + 5 : 25 * index + 25, left:right] = one.number
    return InstrumentFrame(image, instruments)


def score(*pairs):
    return summarize_instruments({'video_01': [count_instruments(*pair) for pair in pairs]})


def test_the_ground_truth_scores_perfectly():
    tip = Keypoint(KINDS.TIP, 100, 15)
    truth = frame(listed(3, tip), listed(7, label=NEEDLE))
    found = score((truth, truth))
    assert (found['f1'], found['pq'], found['idf1'], found['hota']) == (1, 1, 1, pytest.approx(1))
    assert found['tip_px'] == {'p50': 0, 'p95': 0, 'count': 1}
    assert (found['missed'], found['invented'], found['sigma_coverage']) == (0, 0, 1)
    assert found['f1_touching'] is None
    assert found['error_3d_mm'] == {
        **dict.fromkeys(('across', 'depth', 'sigma_coverage')),
        'count': 0,
    }


def test_detections_are_matched_by_overlap_and_class():
    truth = frame(listed(1), listed(2), listed(3, label=NEEDLE), listed(4, label=THREAD))
    predicted = frame(
        *(listed(9), listed(8), listed(7, label=NEEDLE), listed(6, label=NEEDLE)),
        columns=[(10, 90), (90, 190), (10, 110), (10, 110)],
    )
    found = score((truth, predicted))
    assert found['classes'] == {
        'suturing needle': {
            'truth': 1,
            'predicted': 2,
            'matched': 1,
            'f1': pytest.approx(2 / 3),
            'pq': pytest.approx(2 / 3),
        },
        'thread': {'truth': 1, 'predicted': 0, 'matched': 0, 'f1': 0, 'pq': 0},
        'robotic tool': {'truth': 2, 'predicted': 2, 'matched': 1, 'f1': 0.5, 'pq': 0.4},
    }
    assert found['f1'] == 0.5
    assert found['pq'] == pytest.approx((2 / 3 + 0 + 0.4) / 3)


def test_two_halves_of_a_tool_do_not_match_it():
    half = InstrumentFrame(np.zeros(SIZE, np.uint8), (listed(1), listed(2)))
    half.instances[5:25, 10:60], half.instances[5:25, 60:110] = 1, 2
    found = score((frame(listed(1)), half))
    assert found['classes']['robotic tool']['matched'] == 0


@pytest.mark.parametrize(('label', 'area_px'), [(NEEDLE, 4), (ROBOTIC_TOOL, 20)])
def test_too_small_instruments_are_neither_missed_nor_false_positives(label, area_px):
    tiny = InstrumentFrame(np.zeros(SIZE, np.uint8), (listed(1, label=label),))
    tiny.instances[5, :area_px] = 1
    assert score((tiny, tiny))['classes'] == {}
    assert score((tiny, frame()))['classes'] == {}
    tiny.instances[5, area_px] = 1
    assert score((tiny, tiny))['classes'][LABELS[label]]['matched'] == 1
    assert score((frame(), tiny))['classes'][LABELS[label]]['predicted'] == 1


def test_no_decision_pixels_belong_to_no_instrument():
    undecided = InstrumentFrame(np.full(SIZE, NO_DECISION, np.uint8), ())
    found = score((frame(listed(1)), undecided))
    assert found['classes']['robotic tool']['truth'] == 1
    assert found['classes']['robotic tool']['predicted'] == 0


@pytest.mark.parametrize(('gap', 'expected'), [(0, True), (1, True), (2, False)])
def test_tools_touch_if_at_most_one_pixel_is_between_them(gap, expected):
    tools = frame(listed(1), listed(2), columns=[(10, 50), (10, 50)])
    tools.instances[:] = 0
    tools.instances[5:25, 10:50], tools.instances[5:25, 50 + gap : 90] = 1, 2
    assert find_touch(tools) is expected
    assert not find_touch(tools._replace(listed=(listed(1), listed(2, label=NEEDLE))))


def test_f1_touching_counts_frames_where_tools_touch():
    apart = frame(listed(1), listed(2))
    touching = frame(listed(1), listed(2), columns=[(10, 110), (10, 110)])
    touching.instances[25:30, 10:110] = 2
    one = frame(listed(1))
    found = score((apart, apart), (touching, one))
    assert (found['touching_frames'], found['frames']) == (1, 2)
    assert found['f1_touching'] == pytest.approx(2 / 3)
    assert found['f1'] == pytest.approx(6 / 7)


def test_errors_are_in_pixels_of_a_full_image_and_deviations_per_axis():
    truth = frame(listed(1, Keypoint(KINDS.TIP, 50, 10)))
    found = score((truth, frame(listed(1, Keypoint(KINDS.TIP, 53, 14, 0, 3.5)))))
    assert found['tip_px'] == {'p50': 50, 'p95': 50, 'count': 1}
    assert found['sigma_coverage'] == 0.5
    assert found['points']['tip']['sigma_coverage'] == 0.5


def test_both_ends_of_a_needle_are_scored_together():
    truth = listed(1, Keypoint(KINDS.NEEDLE_POINT, 50, 10), Keypoint(KINDS.NEEDLE_TAIL, 60, 10),
                   label=NEEDLE)  # fmt: skip
    found = listed(1, Keypoint(KINDS.NEEDLE_POINT, 60, 10), Keypoint(KINDS.NEEDLE_TAIL, 60, 10),
                   label=NEEDLE)  # fmt: skip
    assert score((frame(truth), frame(found)))['needle_end_px'] == {
        'p50': 50,
        'p95': pytest.approx(95),
        'count': 2,
    }


def test_ends_of_a_thread_have_no_order():
    ends = [Keypoint(KINDS.THREAD_END, x, 10) for x in (20, 100)]
    ours, theirs = (listed(1, *points, label=THREAD) for points in (ends, ends[::-1]))
    found = score((frame(ours), frame(theirs)))
    assert found['points']['thread_end']['p95'] == 0
    assert found['points']['thread_end']['count'] == 2


@pytest.mark.parametrize(
    ('truth', 'predicted', 'expected'),
    [
        ({}, {}, ('count', 0, 0)),
        ({'is_hidden': True}, {}, (0, 0, 1)),
        ({'is_beyond': True}, {}, (0, 0, 1)),
        ({}, {'is_hidden': True}, (0, 1, 0)),
        ({'is_hidden': True}, {'is_beyond': True}, (0, 0, 0)),
        (None, {}, (0, 0, 1)),
        ({}, None, (0, 1, 0)),
    ],
)
def test_hidden_points_are_missed_or_false_positives_but_have_no_error(truth, predicted, expected):
    sides = [
        frame(listed(1, *([] if flags is None else [Keypoint(KINDS.TIP, 50, 10, **flags)])))
        for flags in (truth, predicted)
    ]
    found = score(sides)
    count = 1 if expected[0] == 'count' else 0
    assert (found['tip_px']['count'], found['missed'], found['invented']) == (count, *expected[1:])


def test_an_axis_is_scored_by_its_direction_and_not_by_its_point():
    truth = listed(1, Keypoint(KINDS.SHAFT_AXIS, 50, 10, math.pi - 0.01))
    other = listed(1, Keypoint(KINDS.SHAFT_AXIS, 90, 10, 0.01 - math.pi, 1.0))
    found = score((frame(truth), frame(other)))
    assert found['axis_deg']['p50'] == pytest.approx(math.degrees(0.02))
    assert found['sigma_coverage'] is None


@pytest.mark.parametrize(('hidden', 'count'), [(False, 1), (True, 0)])
def test_a_jaw_opening_is_scored_if_both_jaw_tips_are_visible(hidden, count):
    tips = [
        Keypoint(KINDS.LEFT_JAW_TIP, 50, 10, is_hidden=hidden),
        Keypoint(KINDS.RIGHT_JAW_TIP, 50, 20),
    ]
    sides = [frame(listed(1, *tips, opening=opening)) for opening in (30, 22)]
    found = score(sides)['opening_deg']
    assert found['count'] == count
    assert found['p50'] == (8 if count else None)


def test_tips_in_3d_are_scored_in_millimetres():
    sides = [frame(listed(1, tip_m=tip)) for tip in ((0, 0, 0.1), (0.003, 0.004, 0.098))]
    assert score(sides)['error_3d_mm'] == {
        'across': pytest.approx(5),
        'depth': pytest.approx(2),
        'sigma_coverage': None,
        'count': 1,
    }


def test_3d_deviations_are_per_axis_and_hidden_tips_are_ignored():
    truth = listed(1, Keypoint(KINDS.TIP, 50, 10), tip_m=(0, 0, 0.1))
    found = listed(1, Keypoint(KINDS.TIP, 50, 10), tip_m=(0.003, 0.001, 0.1))
    found = found._replace(tip_sigma_m=(0.002, 0.002, 0.002))
    assert score((frame(truth), frame(found)))['error_3d_mm']['sigma_coverage'] == (
        pytest.approx(2 / 3)
    )
    hidden = listed(1, Keypoint(KINDS.TIP, 50, 10, is_hidden=True), tip_m=(0, 0, 0.1))
    assert score((frame(hidden), frame(found)))['error_3d_mm']['count'] == 0


def test_track_ids_are_those_of_the_files():
    first, second = (frame(listed(1, track_id=track)) for track in (4, 5))
    truth = frame(listed(1))
    found = score((truth, first), (truth, second))
    assert (found['id_switches'], found['idf1']) == (1, 0.5)


def test_rejects_masks_of_other_sizes():
    small = InstrumentFrame(cv2.resize(frame().instances, (96, 54)), ())
    with pytest.raises(ValueError, match='both must have the same size'):
        count_instruments(frame(), small)
