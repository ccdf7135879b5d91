# SPDX-License-Identifier: Apache-2.0
"""If the network fails on an image, the node publishes no decision for it and continues."""

import numpy as np
import pytest
from bench import FRAME_ID, image_cdr, make_image, stamp_ns, until
from nodes import segmenter_attributes
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray

from surgseg_ros.core.segmentation import Segmentation
from surgseg_ros.core.segmenter import Segmenter
from surgseg_ros.node import parameters

FAILING_NS, SOUND_NS = 5, 6


class NetworkThatFailsOnDark:
    """A fake Segmenter that fails on dark images."""

    def __init__(self):
        vars(self).update(segmenter_attributes('fickle'))

    def segment_all(self, images, rois, *, confidence, grid_confidence):
        (image,) = images
        if not image.any():
            raise ArithmeticError('the logits are no numbers')
        size = image.shape[:2]
        return [Segmentation(np.zeros(size, np.uint8), np.full(size, 255, np.uint8))]


@pytest.fixture
def bench(monkeypatch, start_node):
    monkeypatch.setattr(Segmenter, 'load', lambda *arguments, **more: NetworkThatFailsOnDark())
    return start_node(model='fickle', stale_after_ms=600_000).bench


def test_a_failed_image_is_no_decision_and_the_next_is_segmented(bench):
    masks = bench.listen(Image, 'mask')
    detections = bench.listen(Detection2DArray, 'detections')
    status = bench.status()
    camera = bench.camera()
    bench.connect(camera, masks)
    until(lambda: bench.node.count_publishers('detections') == 1, 'detections are listened to')
    status.wait_for_state('valid')

    camera.publish(image_cdr(np.zeros((48, 80, 3), np.uint8), FAILING_NS))

    mask = masks.wait_for_stamp(FAILING_NS)
    assert (mask.height, mask.width, mask.encoding) == (48, 80, 'mono8')
    assert set(bytes(mask.data)) == {255}
    (detection,) = detections.wait_for_stamp(FAILING_NS).detections
    assert detection.results[0].hypothesis.class_id == '255'
    assert (detection.bbox.size_x, detection.bbox.size_y) == (80, 48)
    failed = 'no decision on an image: ArithmeticError: the logits are no numbers'
    assert status.wait_for_reason('degraded', failed).values[3].value == 'processing_failed'

    heard = len(status.messages)
    camera.publish(image_cdr(make_image(), SOUND_NS))
    assert stamp_ns(masks.wait_for_stamp(SOUND_NS)) == SOUND_NS
    status.wait_for_state('valid', since=heard)


def test_while_stale_no_decision_is_published_periodically(bench):
    masks, status = bench.listen(Image, 'mask'), bench.status()
    detections = bench.listen(Detection2DArray, 'detections')
    bench.connect(bench.camera(), masks)
    until(lambda: bench.node.count_publishers('detections') == 1, 'detections are listened to')
    heard, last_ns = len(masks.messages), stamp_ns(masks.messages[-1])
    assert set(bytes(masks.messages[-1].data)) == {0}

    assert bench.set(stale_after_ms=100, fail_safe='no_decision').successful

    status.wait_for_state('stale')
    until(lambda: len(masks.messages) >= heard + 3, 'three times no decision')
    first, *others = masks.messages[heard:]
    assert stamp_ns(first) > last_ns
    for mask in (first, *others):
        assert (mask.header.frame_id, mask.height, mask.width) == (FRAME_ID, 48, 80)
        assert set(bytes(mask.data)) == {255}
        (detection,) = detections.wait_for_stamp(stamp_ns(mask)).detections
        assert detection.results[0].hypothesis.class_id == '255'


def test_by_default_nothing_is_published_while_stale(bench):
    masks, status = bench.listen(Image, 'mask'), bench.status()
    diagnostics = bench.diagnostics()
    camera = bench.camera()
    bench.connect(camera, masks)
    heard = len(masks.messages)
    assert bench.set(max_frame_age_ms=10, age_source='header').successful

    camera.publish(image_cdr(make_image(), 10**9 * 10**9))  # a stamp of the year 2001
    reason = status.wait(lambda m: 'after its stamp' in m.values[0].value).values[0].value
    assert 'max_frame_age_ms is 10' in reason
    diagnostics.wait(lambda part: part.numbers['too_old'] == '1')

    assert bench.set(stale_after_ms=100).successful
    status.wait_for_state('stale')
    diagnostics.wait(since=len(diagnostics.messages) + 1)
    assert len(masks.messages) == heard


def test_a_stamp_in_the_future_is_reported_if_age_is_measured_by_headers(bench):
    masks, status = bench.listen(Image, 'mask'), bench.status()
    camera = bench.camera()
    bench.connect(camera, masks)
    assert bench.set(age_source='header').successful
    future_ns = 4 * 10**9 * 10**9 // 2
    camera.publish(image_cdr(make_image(), future_ns))
    masks.wait_for_stamp(future_ns)
    reason = status.wait_for_reason('degraded', 'in the future').values[0].value
    assert 'synchronize the clocks' in reason


def test_a_mask_with_a_meaningless_stamp_is_degraded(bench):
    masks, status = bench.listen(Image, 'mask'), bench.status()
    camera = bench.camera()
    bench.connect(camera, masks)

    camera.publish(image_cdr(make_image(), 0))
    masks.wait_for_stamp(0)

    assert status.wait_for_reason('degraded', 'the stamp is zero').level == b'\x01'


def test_two_cameras_on_one_topic_are_degraded_until_one_is_left(bench):
    masks, status = bench.listen(Image, 'mask'), bench.status()
    cameras = bench.camera(), bench.camera()
    until(lambda: all(c.get_subscription_count() == 1 for c in cameras), 'the match')

    def alternate():
        for camera in cameras:
            camera.publish(image_cdr(make_image(), bench.new_stamp_ns()))
        return masks.wait(timeout_s=0.2) and status.wait(
            lambda m: m.values[0].value == 'images of several publishers alternate', timeout_s=0.2
        )

    until(alternate, 'the node to notice')
    heard = len(status.messages)
    assert any(message.message == 'degraded' for message in status.messages)

    def go_on():
        cameras[0].publish(image_cdr(make_image(), bench.new_stamp_ns()))
        return any(message.message == 'valid' for message in status.messages[heard:])

    until(go_on, 'one camera to be trusted again')


def test_a_misspelled_parameter_name_is_reported(monkeypatch, start_node):
    monkeypatch.setattr(Segmenter, 'load', lambda *arguments, **more: NetworkThatFailsOnDark())
    node = start_node(model='fickle', stale_after='600').node
    assert parameters.unknown(node) == ['stale_after']
