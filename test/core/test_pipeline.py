# SPDX-License-Identifier: Apache-2.0
"""The steps after the network: gates, temporal filter, confidence threshold, instruments."""

import dataclasses
import gc
import weakref
from types import SimpleNamespace

import numpy as np
import pytest

from surgseg_ros.core import results
from surgseg_ros.core.gates import Gates, GateSetting
from surgseg_ros.core.labels import NEEDLE, NO_DECISION
from surgseg_ros.core.pipeline import CameraPipeline, PipelineSettings
from surgseg_ros.core.reasons import ReasonCode, ResultWarning
from surgseg_ros.core.results import InputFrame, complete
from surgseg_ros.core.segmentation import GridConfidence, Roi, Segmentation
from surgseg_ros.core.tracking import Tracker
from surgseg_ros.synthetic import Scene

MS = 10**6
BLACK = np.zeros((72, 128, 3), np.uint8)
SCENE = np.ascontiguousarray(Scene(3, (72, 128)).frame(0).image)


def frame(image, at_ms):
    return InputFrame(image, 10**9 + at_ms * MS, at_ms * MS)


def output(value=NEEDLE, sure=255):
    mask = np.full(BLACK.shape[:2], value, np.uint8)
    return Segmentation(mask, np.full_like(mask, sure))


def watch_for_black(action, roi=None):
    return CameraPipeline(PipelineSettings({'black': GateSetting(action, 0.7)}), roi)


def test_a_warning_lasts_one_second_by_stamps():
    pipeline = watch_for_black('warn')
    codes = [
        [warning.code.value for warning in pipeline.decide(frame(image, at_ms), output()).warnings]
        for image, at_ms in ((SCENE, 0), (BLACK, 100), (SCENE, 900), (SCENE, 1099), (SCENE, 1100))
    ]
    assert codes == [[], ['gate_black'], ['gate_black'], ['gate_black'], []]


def test_no_decision_lasts_one_image_and_has_no_instruments():
    pipeline = watch_for_black('no_decision')
    refused = complete(pipeline.decide(frame(BLACK, 0), output()))
    assert (refused.is_decided, refused.failed, refused.code) == (False, False, 'gate_black')
    (reason,) = refused.reasons
    assert reason.code is ReasonCode.GATE_BLACK
    assert 'the image is black' in refused.reason == reason.text
    assert (refused.mask == NO_DECISION).all()
    assert [instrument.label for instrument in refused.instruments] == [NO_DECISION]
    assert pipeline.decide(frame(SCENE, 33), output()).is_decided


def test_gates_examine_only_the_roi():
    bordered = BLACK.copy()
    roi = Roi(50, 30, 30, 20)
    roi.view(bordered)[:] = roi.view(SCENE)
    assert watch_for_black('warn').decide(frame(bordered, 0), output()).warnings
    assert not watch_for_black('warn', roi).decide(frame(bordered, 0), output()).warnings


def test_pixels_below_the_threshold_are_no_decision_and_an_image_of_only_these_gets_a_warning():
    pipeline = CameraPipeline(PipelineSettings(min_confidence=0.5))
    assert pipeline.needs_confidence
    low = output(sure=100)
    low.confidence[:, :9] = 200
    some = pipeline.decide(frame(SCENE, 0), low)
    assert np.array_equal(some.mask == NO_DECISION, low.confidence < 127)
    assert some.warnings == ()
    pipeline.set_thresholds(0.9, 1e-4, 0.0)
    none = pipeline.decide(frame(SCENE, 33), low)
    assert (none.mask == NO_DECISION).all()
    assert [warning.reason for warning in none.warnings] == [
        (ReasonCode.LOW_CONFIDENCE, 'no pixel has a confidence of 0.9')
    ]


def test_instruments_below_the_minimum_score_have_no_detection_and_no_track():
    pipeline = CameraPipeline(PipelineSettings(min_detection_score=0.7))
    shown = [pipeline.track(complete(pipeline.decide(frame(SCENE, 0), output(NEEDLE, sure=150))))]
    pipeline.set_thresholds(0.0, 1e-4, 0.5)
    shown.append(
        pipeline.track(complete(pipeline.decide(frame(SCENE, 33), output(NEEDLE, sure=150))))
    )
    assert [[i.track_id for i in result.instruments] for result in shown] == [[], [1]]
    assert all((result.mask == NEEDLE).all() and not result.warnings for result in shown)


def test_without_a_decision_a_minimum_score_changes_nothing():
    pipeline = CameraPipeline(PipelineSettings(min_detection_score=1.0))
    result = complete(pipeline.decide(frame(SCENE, 0), output(NO_DECISION)))
    assert [i.label for i in result.instruments] == [NO_DECISION]


def test_result_contains_the_filtered_and_the_raw_mask_until_a_reset():
    pipeline = CameraPipeline(PipelineSettings(steady_frames=3, steady_sure=1.0))
    assert pipeline.needs_confidence
    pipeline.decide(frame(SCENE, 0), output(0))
    kept = pipeline.decide(frame(SCENE, 33), output(NEEDLE, sure=150))
    assert not kept.mask.any()
    assert (kept.raw_mask == NEEDLE).all()
    pipeline.reset()
    afresh = pipeline.decide(frame(SCENE, 66), output(NEEDLE, sure=150))
    assert (afresh.mask == NEEDLE).all()


@pytest.mark.parametrize('stamp_ms', [-500, 20_000])
def test_a_jump_of_stamps_resets_the_filter(stamp_ms):
    pipeline = CameraPipeline(PipelineSettings(steady_frames=3, steady_sure=1.0))
    pipeline.decide(frame(SCENE, 0), output(0))
    jumped = InputFrame(SCENE, 10**9 + stamp_ms * MS, 33 * MS)
    decision = pipeline.decide(jumped, output(NEEDLE, sure=150))
    assert (decision.mask == NEEDLE).all()
    assert [anomaly.restarts for anomaly in decision.anomalies] == [True]
    assert decision.warnings == ()


def test_without_stamps_nothing_is_checked_and_the_filter_continues():
    pipeline = CameraPipeline(PipelineSettings(steady_frames=3, steady_sure=1.0))
    for _ in range(2):
        decision = pipeline.decide(InputFrame(SCENE), output(0))
    assert (decision.anomalies, decision.warnings) == ((), ())
    assert not pipeline.decide(InputFrame(SCENE), output(NEEDLE, sure=150)).mask.any()


def test_warns_of_a_stamp_of_zero_and_passes_on_warnings_of_the_reader():
    known = ResultWarning(ReasonCode.COLOR_LOST, 'all colour is lost')
    given = InputFrame(SCENE, 0, 0, (known,))
    decision = CameraPipeline().decide(given, output())
    codes = [ReasonCode.COLOR_LOST, ReasonCode.STAMP_ZERO]
    assert [warning.code for warning in decision.warnings] == codes
    assert decision.is_decided


def test_an_error_of_the_network_gives_no_decision_with_its_reason():
    failed = complete(CameraPipeline().decide(frame(SCENE, 0), ArithmeticError('NaN')))
    assert (failed.is_decided, failed.failed) == (False, True)
    assert failed.reason == 'ArithmeticError: NaN'
    assert [reason.code for reason in failed.reasons] == [ReasonCode.PROCESSING_FAILED]
    assert (failed.mask == NO_DECISION).all()
    assert [instrument.label for instrument in failed.instruments] == [NO_DECISION]


@pytest.mark.parametrize('fails', ['network', 'postprocessing', 'instruments', 'tracks'])
def test_a_failed_image_is_freed_with_its_result(fails, monkeypatch):
    def fail(*_, **__):
        raise ArithmeticError(fails)

    segmenter = SimpleNamespace(segment=fail if fails == 'network' else lambda *_, **__: output())
    if fails == 'postprocessing':
        monkeypatch.setattr(Gates, 'check', fail)
    elif fails == 'instruments':
        monkeypatch.setattr(results, 'instruments_in', fail)
    elif fails == 'tracks':
        monkeypatch.setattr(Tracker, 'update', fail)
    image = SCENE.copy()
    freed = weakref.ref(image)
    gc.disable()
    try:
        result = CameraPipeline().process(segmenter, frame(image, 0))
        texts = [str(result.error), *(warning.text for warning in result.warnings)]
        assert any(fails in text for text in texts)
        del image, result
        assert freed() is None
    finally:
        gc.enable()


def test_an_error_in_finding_instruments_gives_no_decision_and_keeps_the_mask():
    """A segmentation without confidence has no scores."""
    bare = dataclasses.replace(output(), confidence=None)
    result = complete(CameraPipeline().decide(frame(SCENE, 0), bare))
    assert result.is_decided
    assert (result.mask == NEEDLE).all()
    assert [instrument.label for instrument in result.instruments] == [NO_DECISION]
    (warning,) = result.warnings
    assert warning.code == ReasonCode.PROCESSING_FAILED
    assert 'no decision on instruments: ValueError' in warning.text


def test_small_regions_are_dropped_if_requested():
    speck = output(0)
    speck.mask[4:6, 4:6] = NEEDLE
    minimum = [0.0] * NEEDLE + [0.01]
    assert speck.mask.any()
    assert (
        not CameraPipeline(PipelineSettings(least_region=minimum))
        .decide(frame(SCENE, 0), speck)
        .mask.any()
    )


def test_process_runs_the_network_as_the_settings_require():
    wanted = []

    class Network:
        def segment(self, image, *, roi, confidence, grid_confidence):
            wanted.append((roi, confidence, grid_confidence))
            grid = np.full((4, 4), 255, np.uint8)
            whole = GridConfidence(grid, Roi(0, 0, image.shape[1], image.shape[0]))
            return dataclasses.replace(output(), grid_confidence=whole, stage_ms={'network': 1.0})

    roi = Roi(0, 0, 64, 64)
    result = CameraPipeline(roi=roi).process(Network(), frame(SCENE, 0))
    assert [instrument.label for instrument in result.instruments] == [NEEDLE]
    stages = {'network', 'gates', 'postprocessing', 'detections', 'instruments'}
    assert stages <= result.stage_ms.keys()
    CameraPipeline(PipelineSettings(min_confidence=0.1)).process(Network(), frame(SCENE, 0))
    assert wanted == [(roi, False, True), (None, True, True)]


@pytest.mark.parametrize(
    'wrong', [{'steady_frames': 61}, {'gates': {'fog': GateSetting('warn', 1)}}]
)
def test_rejects_settings_out_of_range(wrong):
    with pytest.raises(ValueError, match='expected'):
        CameraPipeline(PipelineSettings(**wrong))


class RecordingNetwork:
    """A network that finds needles, and records the rois that it is given."""

    def __init__(self):
        self.rois = []

    def segment(self, image, *, roi, confidence, grid_confidence):
        self.rois.append(roi)
        full = np.full(image.shape[:2], NEEDLE, np.uint8)
        return _paste(Segmentation(full, np.full_like(full, 255)), image.shape[:2], roi)


def _paste(part, size, roi):
    if roi is None:
        return part
    whole = np.full(size, NO_DECISION, np.uint8)
    roi.view(whole)[:] = np.maximum(roi.view(part.mask), roi.outside())
    return Segmentation(whole, part.confidence)


def test_with_roi_mode_auto_borders_are_found_widened_at_once_and_cleared_by_a_reset():
    image, part = np.full((128, 128, 3), 90, np.uint8), Roi(30, 0, 70, 128)
    bordered = np.zeros_like(image)
    part.view(bordered)[:] = 90
    settings = PipelineSettings({'black': GateSetting('warn', 0.3)}, 3, roi_mode='auto')
    pipeline, network = CameraPipeline(settings), RecordingNetwork()
    results = [pipeline.segment(network, frame(bordered, 33 * n)) for n in range(12)]
    assert network.rois == [None] * 10 + [part] * 2
    assert (results[9].mask == NEEDLE).all()
    assert np.array_equal(results[10].mask == NEEDLE, bordered[..., 0] == 90)
    assert (results[9].roi, results[10].roi) == (None, part)
    wide = pipeline.segment(network, frame(image, 400))
    assert (wide.mask == NEEDLE).all(), 'the filter must not keep pixels from outside the roi'
    for n in range(40):
        pipeline.segment(network, frame(bordered, 433 + 33 * n))
    assert network.rois[-1] == part
    pipeline.reset()
    assert pipeline.segment(network, frame(bordered, 3000)).roi is None


def test_with_roi_mode_auto_a_jump_of_stamps_starts_a_new_search():
    bordered = np.zeros((128, 128, 3), np.uint8)
    bordered[:, 30:100] = 90
    pipeline, network = CameraPipeline(PipelineSettings(roi_mode='auto')), RecordingNetwork()
    for n in range(11):
        pipeline.segment(network, frame(bordered, 33 * n))
    for n in range(11, 23):
        jumped = InputFrame(bordered, 10**9 + (60_000 + 33 * n) * MS, 33 * n * MS)
        pipeline.segment(network, jumped)
    found = Roi(30, 0, 70, 128)
    assert network.rois == [None] * 10 + [found] * 2 + [None] * 9 + [found] * 2


def test_with_roi_mode_auto_the_gates_examine_only_the_content():
    bordered = np.zeros((128, 128, 3), np.uint8)
    bordered[:, 40:90] = 90
    gates = {'black': GateSetting('warn', 0.5)}
    pipeline = CameraPipeline(PipelineSettings(gates, roi_mode='auto'))
    results = [pipeline.segment(RecordingNetwork(), frame(bordered, 500 * n)) for n in range(16)]
    assert results[0].warnings
    assert not results[-1].warnings


def ids(results):
    return [[instrument.track_id for instrument in result.instruments] for result in results]


def followed(pipeline, frames):
    """Process each image completely before the next one."""
    return [pipeline.track(complete(pipeline.decide(one, output()))) for one in frames]


OTHER = np.ascontiguousarray(Scene(4, (72, 128)).frame(0).image)
"""A view other than SCENE."""

STREAM = [
    *(frame(SCENE, at_ms) for at_ms in (0, 33)),
    *(frame(OTHER, at_ms) for at_ms in (66, 100)),  # a cut
    frame(BLACK, 133),  # without a decision
    *(frame(OTHER, at_ms) for at_ms in (166, 50, 83)),  # stamps go backward
    InputFrame(OTHER, 61 * 10**9, 200 * MS),  # and jump forward
    InputFrame(OTHER[:, :100], 61 * 10**9 + 33 * MS, 233 * MS),
]


def test_ids_are_kept_until_a_cut_a_jump_of_stamps_another_size_or_a_reset():
    pipeline = watch_for_black('no_decision')
    found = [number for (number,) in ids(followed(pipeline, STREAM))]
    assert found == [1, 1, 2, 2, 0, 2, 3, 3, 4, 5]
    pipeline.reset()
    assert ids(followed(pipeline, [STREAM[-1]._replace(stamp_ns=62 * 10**9)])) == [[6]]


def test_tracks_may_lag_behind_the_decisions():
    pipeline = watch_for_black('no_decision')
    decisions = [pipeline.decide(one, output()) for one in STREAM]
    results = [complete(decision) for decision in reversed(decisions)][::-1]
    late = [pipeline.track(result) for result in results]
    assert ids(late) == ids(followed(watch_for_black('no_decision'), STREAM))


def test_finding_a_border_is_not_a_cut():
    bordered = np.zeros((128, 128, 3), np.uint8)
    bordered[:, 30:60], bordered[:, 60:100] = 90, 200
    pipeline = CameraPipeline(PipelineSettings(roi_mode='auto'))
    results = [pipeline.process(RecordingNetwork(), frame(bordered, 33 * n)) for n in range(12)]
    assert results[-1].roi is not None
    assert ids(results) == [[1]] * 12


def test_a_setting_limits_how_long_an_instrument_may_be_lost():
    for lost_ms, expected in ((20, 2), (50, 1)):
        pipeline = CameraPipeline(PipelineSettings(track_lost_ms=lost_ms))
        masks = output(), output(0), output()
        results = [
            pipeline.track(complete(pipeline.decide(frame(SCENE, 20 * n), mask)))
            for n, mask in enumerate(masks)
        ]
        assert ids(results) == [[1], [], [expected]]
