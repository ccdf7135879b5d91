# SPDX-License-Identifier: Apache-2.0
"""A GPU begins with frames in the mailbox: that changes when masks come, but not which."""

import logging
import time
import types
from unittest import mock

import numpy as np
import pytest
import torch
from bench import image_cdr
from hypothesis import given
from hypothesis import strategies as st
from workers import PATIENT, FakeModelSlot, FakeSegmenter, RecordingOutputs, colour

from surgseg_ros.core.gates import GateSetting
from surgseg_ros.core.pipeline import PipelineSettings
from surgseg_ros.messages.images import image_to_jpeg
from surgseg_ros.messages.serialization import COMPRESSED_IMAGE, IMAGE, header, stamp_ns, to_cdr
from surgseg_ros.node import worker
from surgseg_ros.node.freshness import Generation
from surgseg_ros.node.health import CameraChannel, Frame, Health
from surgseg_ros.node.mailbox import Mailbox, Pairing

MS = 10**6


class Gpu(FakeSegmenter):
    """A fake Segmenter on a GPU; `begun` and `now` have the classes of images in each batch."""

    max_in_flight = 2

    def __init__(self, fails=None):
        super().__init__()
        self.begun, self.now, self.fails = [], [], fails

    def segment_all(self, images, rois, **wanted):
        self.now.append([int(image[0, 0, 0]) for image in images])
        return super().segment_all(images, rois, **wanted)

    def begin(self, images, rois, **wanted):
        self.begun.append([int(image[0, 0, 0]) for image in images])
        if self.fails == 'begin':
            raise torch.OutOfMemoryError('no memory is left')

        def results():
            if self.fails == 'results':
                raise torch.OutOfMemoryError('no memory is left')
            return FakeSegmenter.segment_all(self, images, rois, **wanted)

        return results


class Stage:
    """
    A worker; its outputs call `act(stage)` for `mask` or `detections` and a stamp in ms.

    That happens in the worker's thread, so tests do not depend on timing.
    """

    def __init__(self, segmenter, cameras=1, pairing=None, type_name=IMAGE, **more):
        self.dropped, self.order, self.acts = [], [], {}
        self.models, self.generation = FakeModelSlot(segmenter), Generation()
        self.mailbox = Mailbox(pairing, self.dropped.append)
        self.outputs = [self._outputs() for _ in range(cameras)]
        self.healths = [Health() for _ in range(cameras)]
        channels = tuple(
            CameraChannel(f'eye {n}', type_name, None, *of_camera)
            for n, of_camera in enumerate(zip(self.healths, self.outputs))
        )
        logger = logging.getLogger('worker')
        self.worker = worker.Worker(
            *(self.models, self.mailbox, channels, self.generation),
            *(lambda: PATIENT, lambda: 0, logger),
            **more,
        )

    def _outputs(self):
        stage, outputs = self, RecordingOutputs()

        def publish_mask(own, header, mask):
            RecordingOutputs.publish_mask(own, header, mask)
            stage._published('mask', header)

        def publish_detections(own, header, instruments):
            RecordingOutputs.publish_detections(own, header, instruments)
            stage._published('detections', header)

        outputs.publish_mask = types.MethodType(publish_mask, outputs)
        outputs.publish_detections = types.MethodType(publish_detections, outputs)
        return outputs

    def _published(self, what, header):
        at = what, stamp_ns(header) // MS
        self.order.append(at)
        for act in self.acts.pop(at, ()):
            act()

    def at(self, what, stamp_ms, *acts):
        self.acts[what, stamp_ms] = acts

    def after(self, batches, *acts):
        """Act after some batches, when the generation is not held."""
        rest = self.worker._publish_rest

        def publish_rest(*arguments):
            nonlocal batches
            rest(*arguments)
            batches -= 1
            for act in acts if batches == 0 else ():
                act()

        self.worker._publish_rest = publish_rest

    def put(self, stamp_ms, value=None, camera=0, cdr=None):
        image = colour(stamp_ms % 10 if value is None else value)
        cdr = image_cdr(image, stamp_ms * MS) if cdr is None else cdr
        number = self.generation.number
        self.mailbox.put(Frame(camera, cdr, time.monotonic_ns(), 0, number))

    def run(self):
        """Run until no frame is left; all but the first ones come in the worker's thread."""
        self.mailbox.take = self.mailbox.take_now
        self.worker.start()
        self.worker.join(60)
        assert not self.worker.is_alive()

    @property
    def published(self):
        return [outputs.published for outputs in self.outputs]


def masks_of(stage):
    return [stamp for what, stamp in stage.order if what == 'mask']


def test_a_frame_that_waits_is_begun_before_the_instruments_of_the_one_before():
    segmenter = Gpu()
    stage = Stage(segmenter)
    stage.at('mask', 1, lambda: stage.put(2), lambda: stage.order.append(list(segmenter.begun)))
    stage.at('detections', 1, lambda: stage.order.append(list(segmenter.begun)))
    stage.put(1)
    stage.run()
    assert stage.order == [
        *(('mask', 1), [], ('detections', 1), [[2]]),
        *(('mask', 2), ('detections', 2)),
    ]
    assert (segmenter.now, segmenter.begun) == ([[1]], [[2]])
    assert [mask for _, mask, _ in stage.published[0]] == [[1], [2]]


def test_a_newer_frame_wins_and_then_nothing_is_begun_for_a_while():
    segmenter = Gpu()
    stage = Stage(segmenter)
    stage.at('mask', 1, lambda: stage.put(2))
    stage.at('detections', 1, lambda: stage.put(3))
    stage.at('mask', 3, lambda: stage.put(4))
    stage.put(1)
    stage.run()
    assert masks_of(stage) == [1, 3, 4]
    assert (segmenter.now, segmenter.begun) == ([[1], [3], [4]], [[2]])
    assert [frame.stamp_ns for frame in stage.dropped] == [2 * MS]


def test_after_a_deactivation_the_frame_in_flight_is_discarded():
    segmenter = Gpu()
    stage = Stage(segmenter)
    stage.at('mask', 1, lambda: stage.put(2))
    stage.after(1, stage.generation.advance, stage.mailbox.clear, lambda: stage.put(3))
    stage.put(1)
    stage.run()
    assert masks_of(stage) == [1, 3]
    assert segmenter.begun == [[2]]
    assert stage.worker._speculation is None, 'it would keep a replaced model in memory'


def test_after_a_change_of_model_the_frame_in_flight_is_of_the_new_one():
    segmenter, other = Gpu(), Gpu()
    stage = Stage(segmenter)
    stage.at('mask', 1, lambda: stage.put(2))
    stage.put(1)
    stage.after(1, lambda: stage.models.use(other))
    stage.run()
    assert masks_of(stage) == [1, 2]
    assert (segmenter.begun, other.now) == ([[2]], [[2]])


@pytest.mark.parametrize('fails', ['begin', 'results'])
def test_after_a_failure_in_flight_the_frame_is_processed_as_any_other(fails):
    segmenter = Gpu(fails)
    stage = Stage(segmenter)
    stage.at('mask', 1, lambda: stage.put(2))
    stage.put(1)
    stage.run()
    assert masks_of(stage) == [1, 2]
    assert segmenter.now == [[1], [2]]


@pytest.mark.parametrize('case', ['on a CPU', 'jpeg', 'roi_mode auto', 'unreadable'])
def test_what_cannot_be_begun_is_processed_as_before(case):
    segmenter, more, sent = Gpu(), {}, {}
    if case == 'on a CPU':
        segmenter.max_in_flight = 1
    elif case == 'jpeg':
        more = {'type_name': COMPRESSED_IMAGE}
        sent = {n: to_cdr(image_to_jpeg(colour(0, (16, 16)), header(n * MS, ''))) for n in (1, 2)}
    elif case == 'roi_mode auto':
        more = {'settings': PipelineSettings(roi_mode='auto')}
    else:
        sent = {2: b'nothing'}
    stage = Stage(segmenter, **more)
    last = 1 if case == 'unreadable' else 2
    stage.at('mask', 1, lambda: stage.put(2, cdr=sent.get(2)))
    stage.put(1, cdr=sent.get(1))
    stage.run()
    assert masks_of(stage) == [1, 2][:last]
    assert not segmenter.begun
    assert stage.healths[0].counts()['rejected'] == 2 - last


SETTINGS = PipelineSettings({'black': GateSetting('no_decision', 0.9)}, steady_frames=2)
PUTS = st.lists(st.tuples(st.integers(0, 1), st.sampled_from([0, 3, 5, 8, 200, None])), max_size=3)


def played(script, max_in_flight, pairing):
    """Return all results where the nth mask and detections are followed by new frames."""
    segmenter = Gpu()
    segmenter.max_in_flight = max_in_flight
    stage = Stage(segmenter, 2, pairing, settings=SETTINGS)
    script, sent = list(script), [0, 0]

    def put(puts):
        for camera, value in puts:
            sent[camera] += 1
            cdr = b'nothing' if value is None else None
            stage.put(30 * sent[camera], value, camera, cdr)

    def published(what, header):
        stage.order.append((what, stamp_ns(header)))
        if script:
            put(script.pop(0))

    stage._published = published
    put([(0, 3), (1, 5)])
    with mock.patch.object(worker, 'PAUSE', 0):
        stage.run()
    counts = [health.counts() for health in stage.healths]
    dropped = [(frame.camera, frame.stamp_ns) for frame in stage.dropped]
    return (stage.order, stage.published, counts, dropped), len(segmenter.begun)


@pytest.mark.parametrize('pairing', [None, Pairing(5, 0)])
@given(script=st.lists(PUTS, max_size=12))
def test_what_is_published_does_not_depend_on_speculation(script, pairing):
    (plain, never), (speculative, _) = (played(script, count, pairing) for count in (1, 2))
    assert speculative == plain
    assert not never


def test_both_views_of_a_stereo_image_are_begun_together():
    segmenter = Gpu()
    stage = Stage(segmenter, 2, stereo_layout='side_by_side')

    def both(stamp_ms):
        image = np.concatenate([colour(3), colour(5)], 1)
        stage.put(stamp_ms, cdr=image_cdr(image, stamp_ms * MS))

    stage.at('mask', 1, lambda: both(2))
    both(1)
    stage.run()
    assert segmenter.begun == [[3, 5]]
    assert [[stamp // MS for stamp, *_ in of] for of in stage.published] == [[1, 2], [1, 2]]
