# SPDX-License-Identifier: Apache-2.0
"""The worker: a result belongs to a generation, and a batch serves several cameras."""

import dataclasses
import time

import numpy as np
import pytest
from bench import image_cdr
from workers import PATIENT, ActiveHealth, FakeSegmenter, RecordingOutputs, colour, work

from surgseg_ros.core.labels import NO_DECISION
from surgseg_ros.core.reasons import Reason, ReasonCode
from surgseg_ros.core.segmentation import Roi
from surgseg_ros.messages.images import image_to_jpeg
from surgseg_ros.messages.serialization import COMPRESSED_IMAGE, header, to_cdr
from surgseg_ros.node import worker
from surgseg_ros.node.freshness import HEADER
from surgseg_ros.node.health import Health
from surgseg_ros.node.mailbox import Pairing


def test_two_cameras_share_a_batch_and_each_keeps_its_header_and_size():
    frames = [(1, image_cdr(colour(4), 11)), (0, image_cdr(colour(6, (5, 5)), 22))]
    sizes, published, _ = work(frames, [None, None])
    assert sizes == [2]
    assert published == [[(22, [6], [6])], [(11, [4], [4])]]


def test_a_camera_whose_image_fails_does_not_affect_others():
    frames = [(n, image_cdr(colour(4 + n), n + 1)) for n in range(3)]
    sizes, published, counts = work(frames, [None, Roi(0, 0, 99, 99), None])
    assert sizes == [3, 1, 1, 1], 'all together, then each separately'
    assert published == [
        [(1, [4], [4])],
        [(2, [NO_DECISION], [NO_DECISION])],
        [(3, [6], [6])],
    ]
    assert [(count['published'], count['rejected']) for count in counts] == [
        *((1, 0), (0, 1), (1, 0)),
    ]


def test_a_camera_without_an_image_is_left_out_of_the_batch():
    frames = [(0, b'nothing'), (1, image_cdr(colour(4), 7))]
    sizes, published, counts = work(frames, [None, None])
    assert sizes == [1]
    assert published == [[], [(7, [4], [4])]]
    assert counts[0]['rejected'] == 1


def test_the_worker_continues_after_errors_of_outputs(monkeypatch):
    def fail(*arguments):
        raise RuntimeError('no publisher')

    monkeypatch.setattr(RecordingOutputs, 'publish_mask', fail)
    _, _, counts = work([(0, image_cdr(colour(4), 7)), (1, b'')], [None, None])
    assert [count['rejected'] for count in counts] == [1, 1]


@pytest.mark.parametrize(
    ('fail_safe', 'published'),
    [('silent', []), ('no_decision', [(7, [NO_DECISION], [NO_DECISION])])],
)
@pytest.mark.parametrize('changes', [{'stale_after_ms': -1}, {'max_frame_age_ms': 1e-9}])
def test_a_result_that_is_too_old_when_done_is_never_published_as_valid(
    fail_safe, published, changes
):
    policy = dataclasses.replace(PATIENT, fail_safe=fail_safe, **changes)
    _, (got,), (counts,) = work([(0, image_cdr(colour(4), 7))], [None], policy=policy)
    assert got == published
    assert (counts['published'], counts['too_old'], counts['rejected']) == (0, 1, 0)


@pytest.mark.parametrize(
    ('now_ns', 'published', 'uncertain'),
    [(50, 1, False), (0, 1, True), (10**9, 0, False), (11 * 10**9, 0, False)],
)
def test_age_by_header_is_recent_too_old_or_implausible(now_ns, published, uncertain):
    policy = dataclasses.replace(PATIENT, max_frame_age_ms=100, age_source=HEADER)
    seen = {}

    class Watched(Health):
        def record_mask(self, image_ns, stamp_ns, times_ms, warning=()):
            seen['warning'] = warning
            super().record_mask(image_ns, stamp_ns, times_ms, warning)

    frames = [(0, image_cdr(colour(4), 7))]
    _, (got,), (counts,) = work(
        frames, [None], policy=policy, now_ns=lambda: now_ns, health=Watched
    )
    assert (len(got), counts['published'], counts['too_old']) == (
        published,
        published,
        1 - published,
    )
    reasons = seen.get('warning', ())
    assert [reason.code for reason in reasons] == [ReasonCode.CLOCKS_DIFFER] * uncertain
    assert all('in the future' in reason.text for reason in reasons)


def test_for_an_implausibly_old_stamp_the_clocks_are_reported_as_the_cause(caplog):
    policy = dataclasses.replace(PATIENT, max_frame_age_ms=100, age_source=HEADER)
    work([(0, image_cdr(colour(4), 7))], [None], policy=policy, now_ns=lambda: 3600 * 10**9)
    assert 'synchronize the clocks of camera and node' in caplog.text


def test_a_warning_is_reported_before_its_mask_is_published():
    reported = []

    def report(health, outputs):
        verdict = health.verdict(time.monotonic_ns(), 600_000)
        reported.append((verdict.reason, verdict.codes, len(outputs.published)))

    frames = [(0, image_cdr(colour(4), 0))]  # a stamp of zero
    _, (got,), _ = work(frames, [None], health=ActiveHealth, report=report)
    assert len(got) == 1
    assert reported == [('the stamp is zero', ('stamp_zero',), 0)]


def test_after_a_change_of_model_the_status_is_not_valid_until_its_first_mask():
    health = Health()
    health.activate(0)
    health.record_mask(1, 1, {})
    assert health.verdict(2, 1000).state == 'valid'
    demo = Reason(ReasonCode.MODEL_DEMO, 'for demonstration')
    health.record_model_change((demo,))
    assert health.verdict(2, 1000).codes == ('model_changed', 'model_demo')
    health.record_mask(3, 3, {})
    assert health.verdict(4, 1000) == ('degraded', (demo,))
    health.record_model_change(())
    assert 'changed' in health.verdict(4, 1000).reason
    health.record_mask(5, 5, {})
    assert health.verdict(6, 1000).state == 'valid'


def test_a_result_in_flight_across_a_change_of_model_is_discarded():
    """The next one is of the new model."""

    class Changed(FakeSegmenter):
        def segment_all(self, images, rois, *, confidence, grid_confidence):
            self.models.use(FakeSegmenter())
            return super().segment_all(
                images, rois, confidence=confidence, grid_confidence=grid_confidence
            )

    segmenter = Changed()
    segmenter.max_batch_size = 1
    frames = [(n, image_cdr(colour(4), n + 1)) for n in range(2)]
    _, published, counts = work(frames, [None, None], segmenter)
    assert published == [[], [(2, [4], [4])]]
    assert [(count['published'], count['discarded']) for count in counts] == [(0, 1), (1, 0)]


def one_at_a_time():
    segmenter = FakeSegmenter()
    segmenter.max_batch_size = 1
    return segmenter


@pytest.mark.parametrize(
    ('segmenter', 'sizes'), [(FakeSegmenter(), [2, 1]), (one_at_a_time(), [1, 1, 1])]
)
def test_both_images_of_a_pair_are_segmented_whatever_the_batch_size(segmenter, sizes):
    frames = [(0, image_cdr(colour(6), 11)), (1, image_cdr(colour(4), 11))]
    frames += [(0, image_cdr(colour(5), 99_000_000))]
    got, published, counts = work(frames, [None, None], segmenter, pairing=Pairing(5, 0))
    assert got == sizes
    assert published == [[(11, [6], [6]), (99_000_000, [5], [5])], [(11, [4], [4])]]
    assert [(count['pairs'], count['singles']) for count in counts] == [(1, 1), (1, 0)]


def test_an_unreadable_image_of_a_pair_does_not_affect_the_other():
    broken = image_cdr(colour(6), 11)[:40]
    frames = [(0, broken), (1, image_cdr(colour(4), 11))]
    sizes, published, counts = work(frames, [None, None], pairing=Pairing(5, 600_000))
    assert (sizes, published) == ([1], [[], [(11, [4], [4])]])
    assert [(count['pairs'], count['rejected']) for count in counts] == [(1, 1), (1, 0)]


def views(layout, first, second):
    return np.concatenate([first, second], 1 if layout == 'side_by_side' else 0)


@pytest.mark.parametrize('layout', ['side_by_side', 'top_bottom'])
@pytest.mark.parametrize(
    ('segmenter', 'sizes'), [(FakeSegmenter(), [2]), (one_at_a_time(), [1, 1])]
)
def test_a_stereo_image_has_two_masks_of_the_size_of_a_view(layout, segmenter, sizes):
    image = views(layout, colour(6), colour(4))
    segmenter.sizes.clear()
    got, published, counts = work(
        [(0, image_cdr(image, 7))], [None, None], segmenter, stereo_layout=layout
    )
    assert got == sizes
    assert published == [[(7, [6], [6])], [(7, [4], [4])]]
    assert [count['pairs'] for count in counts] == [1, 1]


def test_a_roi_is_relative_to_the_view():
    image = views('side_by_side', colour(6), colour(4))
    rois = [None, Roi(6, 0, 12, 8)]  # within the image, but outside the right view
    _, published, counts = work([(0, image_cdr(image, 7))], rois, stereo_layout='side_by_side')
    assert published == [[(7, [6], [6])], [(7, [NO_DECISION], [NO_DECISION])]]
    assert [count['rejected'] for count in counts] == [0, 1]


@pytest.mark.parametrize(
    ('layout', 'size', 'side'),
    [('side_by_side', (8, 13), 'width'), ('top_bottom', (7, 12), 'height')],
)
def test_an_image_that_cannot_be_halved_is_rejected_for_both_cameras(layout, size, side, caplog):
    frames = [(0, image_cdr(colour(6, size), 7))]
    _, published, counts = work(frames, [None, None], stereo_layout=layout)
    assert published == [[], []]
    assert [count['rejected'] for count in counts] == [1, 1]
    assert f'an image of {size[1]}x{size[0]} has an odd {side}' in caplog.text


def test_a_compressed_stereo_image_is_decoded_once(monkeypatch):
    decoded = []
    whole = worker.image_from_msg
    monkeypatch.setattr(worker, 'image_from_msg', lambda m: decoded.append(m) or whole(m))
    image = views('side_by_side', colour(60, (16, 16)), colour(40, (16, 16)))
    cdr = to_cdr(image_to_jpeg(image, header(7, 'both')))
    _, published, _ = work(
        [(0, cdr)], [None, None], stereo_layout='side_by_side', type_name=COMPRESSED_IMAGE
    )
    assert len(decoded) == 1
    assert published == [[(7, [0], [])], [(7, [0], [])]], 'JPEG keeps these values'
