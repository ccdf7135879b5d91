# SPDX-License-Identifier: Apache-2.0
"""The mask is published first, after the gates; its other results follow, or are no decision."""

import dataclasses
import logging
import threading
import time

import numpy as np
import pytest
from bench import image_cdr
from workers import PATIENT, ActiveHealth, FakeSegmenter, RecordingOutputs, colour, work

from surgseg_ros.core import results
from surgseg_ros.core.gates import Gates, GateSetting
from surgseg_ros.core.labels import NO_DECISION
from surgseg_ros.core.pipeline import PipelineSettings
from surgseg_ros.core.tracking import Tracker


def test_all_masks_of_a_batch_are_published_before_their_other_results():
    order = []

    class Listed(RecordingOutputs):
        def __init__(self):
            self.published, self.order = [], order

    frames = [(0, image_cdr(colour(6), 11)), (1, image_cdr(colour(4), 22))]
    work(frames, [None, None], outputs=Listed)
    assert order == [
        *(('mask', 11), ('mask', 22)),
        *(('detections', 11), ('others', 11), ('detections', 22), ('others', 22)),
    ]


def test_gates_run_in_parallel_with_the_network(monkeypatch):
    working, checked = threading.Event(), threading.Event()
    check = Gates.check

    def wait_for_network(gates, image):
        assert working.wait(60)
        found = check(gates, image)
        checked.set()
        return found

    class Waiting(FakeSegmenter):
        def segment_all(self, *arguments, **options):
            working.set()
            assert checked.wait(60)
            return super().segment_all(*arguments, **options)

    monkeypatch.setattr(Gates, 'check', wait_for_network)
    refusing = PipelineSettings(gates={'black': GateSetting('no_decision', 0.9)})
    frames = [(0, image_cdr(colour(4), 7)), (1, image_cdr(colour(224), 8))]
    _, published, counts = work(frames, [None, None], Waiting(), settings=refusing)
    assert published == [[(7, [NO_DECISION], [NO_DECISION])], [(8, [4], [4])]]
    assert [(count['undecided'], count['published']) for count in counts] == [(1, 0), (0, 1)]


FRAME = [(0, image_cdr(colour(4), 7))]


def fail(*_, **__):
    raise ArithmeticError('not possible')


@pytest.mark.parametrize('step', [(results, 'instruments_in'), (Tracker, 'update')])
def test_an_error_in_finding_instruments_is_no_decision_and_reported(monkeypatch, caplog, step):
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(*step, fail)
    reported = []

    def report(health, outputs):
        verdict = health.verdict(time.monotonic_ns(), 600_000)
        reported.append((verdict.codes, verdict.reason, list(outputs.order)))

    _, (got,), (counts,) = work(FRAME, [None], health=ActiveHealth, report=report)
    assert got == [(7, [4], [NO_DECISION])]
    reason = 'no decision on instruments: ArithmeticError: not possible'
    assert reported == [(('processing_failed',), reason, [('mask', 7)])], 'before the detections'
    assert (counts['published'], counts['rejected']) == (1, 0)
    assert [record.getMessage().partition(': ')[2] for record in caplog.records] == [
        f'{reason} (reported once; see status)'
    ]


class LowConfidence(FakeSegmenter):
    def segment_all(self, images, rois, **wanted):
        found = super().segment_all(images, rois, **wanted)
        return [dataclasses.replace(one, confidence=np.full_like(one.mask, 9)) for one in found]


@pytest.mark.parametrize(('minimum', 'labels'), [(0.0, [4]), (0.5, [])])
def test_instruments_below_the_minimum_score_are_not_published_and_the_mask_is(minimum, labels):
    policy = dataclasses.replace(PATIENT, min_detection_score=minimum)
    _, (got,), _ = work(FRAME, [None], LowConfidence(), policy=policy)
    assert got == [(7, [4], labels)]


def test_a_mask_without_a_decided_pixel_has_that_as_its_only_reason(caplog):
    caplog.set_level(logging.WARNING)
    healths = []

    def kept():
        healths.append(ActiveHealth())
        return healths[-1]

    policy = dataclasses.replace(PATIENT, min_confidence=0.5)
    _, (got,), _ = work(FRAME, [None], LowConfidence(), health=kept, policy=policy)
    assert got == [(7, [NO_DECISION], [NO_DECISION])]
    assert healths[0].verdict(0, 600_000).codes == ('low_confidence',)
    assert 'detections_age' in healths[0].times_ms()


def test_instruments_found_too_late_are_no_decision(caplog):
    caplog.set_level(logging.WARNING)
    policies = iter([PATIENT, PATIENT])  # one at the start of the batch, one for the mask

    def policy():
        return next(policies, dataclasses.replace(PATIENT, stale_after_ms=-1))

    _, (got,), (counts,) = work(FRAME, [None], policy=policy)
    assert got == [(7, [4], [NO_DECISION])]
    assert (counts['published'], counts['too_old']) == (1, 0)
    assert 'no decision on instruments: a result was ready' in caplog.text


def test_an_error_of_outputs_after_the_mask_degrades_it_and_keeps_its_warnings(
    monkeypatch, caplog
):
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(RecordingOutputs, 'publish_others', fail)
    healths = []

    def kept():
        healths.append(ActiveHealth())
        return healths[-1]

    stamp_zero = [(0, image_cdr(colour(4), 0))]
    _, (got,), (counts,) = work(stamp_zero, [None], health=kept)
    assert got == [(0, [4], [4])]
    assert (counts['published'], counts['rejected']) == (1, 0)
    assert healths[0].verdict(0, 600_000).codes == ('processing_failed', 'stamp_zero')
    assert 'publishing detections or a later topic failed' in caplog.text
