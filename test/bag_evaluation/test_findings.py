# SPDX-License-Identifier: Apache-2.0
"""What processes find in a mask is small to send, and all that the tracker needs."""

import pickle

import numpy as np
import pytest
from drawn_masks import SIZE, bar, empty, tool

from surgseg_ros.bag_evaluation import findings
from surgseg_ros.bag_evaluation.frames import CompletedFrame, tracked
from surgseg_ros.core.labels import SHAFT, SUCTION
from surgseg_ros.core.pipeline import CameraPipeline
from surgseg_ros.core.results import (
    Decision,
    FrameResult,
    complete,
    processing_failed,
    without_instruments,
)
from surgseg_ros.core.segmentation import Segmentation


def decision(number):
    mask = tool(empty(), (80, 290), (90 + 8 * number, 60))
    bar(mask, (400 - 8 * number, -10), (400 - 8 * number, 130), 24, SUCTION)
    segmentation = Segmentation(mask, np.full(SIZE, 204, np.uint8))
    return Decision(segmentation, stamp_ns=10**9 + number * 33 * 10**6)


def result_of(made, found):
    given = {**vars(made), 'stage_ms': found.stage_ms, 'warnings': found.warnings}
    return FrameResult(**given, instruments=found.instruments)


def test_instruments_without_runs_are_tracked_like_those_with_them():
    pipeline, expected = CameraPipeline(), CameraPipeline()
    for number in range(6):
        made = decision(number)
        found = pickle.loads(pickle.dumps(findings.find(made)))
        assert all(i.runs is None and i.parts is None for i in found.instruments)
        now = pipeline.track(result_of(made, found), found.observed)
        assert now.instruments == expected.track(complete(made)).instruments
        assert [i.track_id for i in now.instruments] == [1, 2]


def test_tools_are_continued_alike_without_runs():
    """The tracker finds the tools again in the mask, and other keypoints with them."""
    pipeline, expected, counts = CameraPipeline(), CameraPipeline(), []
    for number in range(12):
        mask = bar(empty(), (-20, 130), (300, 130), 80, SHAFT)
        bar(mask, (-20, 70 + number), (160, 70 + number), 24, SHAFT)
        made = Decision(Segmentation(mask, np.full(SIZE, 204, np.uint8)), stamp_ns=number * 10**8)
        found = findings.find(made)
        counts.append(len(found.instruments))
        assert found.instruments[0].parts is None
        completed = CompletedFrame(0, None, result_of(made, found), found, {}, ())
        after = tracked(completed, pipeline)
        whole = expected.track(complete(made))
        assert after.result.instruments == whole.instruments
        assert after.found.geometries == findings.geometries_of(whole)
        assert [i.track_id for i in whole.instruments] == [1, 2]
    assert counts == [2] * 7 + [1] * 5, 'images alone merge them'


def test_tools_with_other_parts_have_other_keypoints(monkeypatch: pytest.MonkeyPatch):
    made, pipeline = decision(0), CameraPipeline()
    found = findings.find(made)
    others = complete(decision(5)).instruments
    monkeypatch.setattr(pipeline._tracker, 'update', lambda *_: others)
    after = tracked(CompletedFrame(0, None, result_of(made, found), found, {}, ()), pipeline)
    assert [i.label for i in after.result.instruments] == [i.label for i in found.instruments]
    assert after.found.geometries != found.geometries


def test_runs_are_kept_if_they_are_wanted():
    found = findings.find(decision(0), runs=True)
    assert all(i.runs is not None for i in found.instruments)
    assert found.instruments == findings.find(decision(0)).instruments


def test_the_tracker_reports_what_could_not_be_observed(monkeypatch: pytest.MonkeyPatch):
    def fail(*_):
        raise ArithmeticError('no axis')

    monkeypatch.setattr(findings, 'observe', fail)
    monkeypatch.setattr('surgseg_ros.core.tracking.observe', fail)
    found = findings.find(decision(0))
    assert found.observed is None
    result = CameraPipeline().track(result_of(decision(0), found), found.observed)
    assert [warning.text for warning in result.warnings] == [
        'no decision on instruments: ArithmeticError: no axis'
    ]


def test_without_a_decision_on_instruments_there_are_no_keypoints():
    result = complete(decision(0))
    assert findings.geometries_of(result)
    failed = without_instruments(decision(0), processing_failed(ValueError('no points')))
    assert findings.geometries_of(failed) is None
