# SPDX-License-Identifier: Apache-2.0
"""A worker with a fake network, model slot and outputs."""

import logging
import time

import numpy as np

from surgseg_ros.core.labels import NO_DECISION
from surgseg_ros.core.segmentation import Segmentation
from surgseg_ros.messages.serialization import IMAGE, stamp_ns
from surgseg_ros.node.freshness import Generation, ResultPolicy
from surgseg_ros.node.health import CameraChannel, Frame, Health
from surgseg_ros.node.mailbox import Mailbox
from surgseg_ros.node.worker import Inference, Worker


class FakeSegmenter:
    """A fake Segmenter: one class per image, and an error for an image smaller than its roi."""

    max_batch_size = 3
    max_in_flight = 1

    def __init__(self):
        self.sizes = []

    def segment_all(self, images, rois, *, confidence, grid_confidence):
        assert grid_confidence
        self.sizes.append(len(images))
        for image, roi in zip(images, rois):
            if roi is not None:
                roi.view(image)
        full = ((image.shape[:2], image[0, 0, 0] % 10) for image in images)
        return [Segmentation(np.full(s, c, np.uint8), np.full(s, 255, np.uint8)) for s, c in full]


class RecordingOutputs:
    """Fake Outputs."""

    def __init__(self):
        self.published, self.order = [], []

    def wants_confidence(self):
        return False

    def publish_mask(self, header, mask):
        self.order.append(('mask', stamp_ns(header)))
        self.published.append((stamp_ns(header), np.unique(mask).tolist(), []))

    def publish_detections(self, header, instruments):
        self.order.append(('detections', stamp_ns(header)))
        (of_mask,) = (found for stamp, _, found in self.published if stamp == stamp_ns(header))
        of_mask += [instrument.label for instrument in instruments]

    def publish_others(self, header, image, segmentation, instruments, raw=None):
        self.order.append(('others', stamp_ns(header)))
        assert segmentation.mask.shape == image.shape[:2]

    def publish_no_decision(self, header, image):
        self.published.append((stamp_ns(header), [NO_DECISION], [NO_DECISION]))


class ActiveHealth(Health):
    def __init__(self):
        super().__init__()
        self.activate(0)


class FakeModelSlot:
    """A fake ModelSlot without fallback."""

    def __init__(self, segmenter):
        self.use(segmenter)

    def use(self, segmenter):
        self.inference = Inference(segmenter, self)

    def fall_back(self, error):
        return False

    def disable_batching(self, reason):
        raise AssertionError(reason)


PATIENT = ResultPolicy(stale_after_ms=600_000)


def work(
    frames,
    rois,
    segmenter=None,
    policy=PATIENT,
    now_ns=lambda: 0,
    health=Health,
    report=None,
    pairing=None,
    type_name=IMAGE,
    outputs=RecordingOutputs,
    **more,
):
    """Put frames (camera, CDR) into a mailbox, and have a worker take them all at once."""
    segmenter = segmenter or FakeSegmenter()
    models = segmenter.models = FakeModelSlot(segmenter)
    mailbox, outputs = Mailbox(pairing), [outputs() for _ in rois]
    healths = [health() for _ in rois]
    channels = tuple(
        CameraChannel(f'eye {n}', type_name, roi, healths[n], outputs[n])
        for n, roi in enumerate(rois)
    )
    logger = logging.getLogger('worker')
    thread = Worker(
        *(models, mailbox, channels, Generation()),
        *(policy if callable(policy) else lambda: policy, now_ns, logger),
        report=lambda: report and report(healths[0], outputs[0]),
        **more,
    )
    for camera, cdr in frames:
        mailbox.put(Frame(camera, cdr, time.monotonic_ns(), 0, 0))
    thread.start()
    while not is_empty(mailbox):
        pass
    mailbox.close()
    thread.join()
    segmenter.orders = [o.order for o in outputs]
    return segmenter.sizes, [o.published for o in outputs], [h.counts() for h in healths]


def is_empty(mailbox):
    with mailbox._changed:
        return mailbox._queue.due_ns() is None


def colour(value, size=(8, 12)):
    return np.full((*size, 3), value, np.uint8)
