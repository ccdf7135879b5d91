# SPDX-License-Identifier: Apache-2.0
"""Two cameras over DDS: their images are processed in pairs, or are halves of one image."""

import numpy as np
import pytest
from bench import TIMEOUT_S, image_cdr, make_image, stamp_ns, until
from nodes import SlowNetwork
from sensor_msgs.msg import CompressedImage, Image
from vision_msgs.msg import Detection2DArray

from surgseg_ros.core.segmenter import Segmenter
from surgseg_ros.messages.images import image_to_jpeg
from surgseg_ros.messages.serialization import header, to_cdr

NAMES = ('left', 'right')
PATIENT = {'stale_after_ms': 600_000, 'cpu_threads': 1, 'reliability': 'reliable'}
"""With `auto` the node subscribes again when it discovers the cameras, and may lose an image."""

TWO_TOPICS = {'image_topics': [f'{name}/image' for name in NAMES], 'camera_names': list(NAMES)}


@pytest.fixture
def slow(monkeypatch):
    network = SlowNetwork()
    monkeypatch.setattr(Segmenter, 'load', lambda *arguments, **more: network)
    yield network
    network.let_go.release(1000)  # the node exits only if no frame is blocked


class TwoCameras:
    """Two cameras connected to the node, with recorders; no image has been sent."""

    def __init__(self, own_node):
        self._own_node, bench = own_node, own_node.bench
        self.masks = [bench.listen(Image, f'{name}/mask') for name in NAMES]
        self.cameras = [bench.camera(f'{name}/image') for name in NAMES]
        for camera, name in zip(self.cameras, NAMES):
            until(lambda c=camera: c.get_subscription_count() == 1, 'the node listens')
            until(lambda e=name: bench.node.count_publishers(f'{e}/mask') == 1, 'the masks')

    def send(self, camera, stamp_s):
        """Send an image of a camera, and wait until the node has it."""
        before = self.counts()[camera]['received']
        pixels = np.full((30, 50, 3), stamp_s % 10, np.uint8)
        self.cameras[camera].publish(image_cdr(pixels, stamp_s * 10**9, NAMES[camera]))
        until(lambda: self.counts()[camera]['received'] > before, 'the image')

    def counts(self):
        return [health.counts() for health in self._own_node.node._reporter.healths]

    def stamps_s(self):
        return [[stamp_ns(m) // 10**9 for m in mask.messages] for mask in self.masks]


def test_with_a_slow_network_every_stamp_has_both_masks(slow, start_node):
    """While one pair is being segmented others arrive, and the newest is next."""
    rounds = 5
    both = TwoCameras(start_node(model='slow', pair_wait_ms=10_000, **TWO_TOPICS, **PATIENT))
    for camera in (0, 1):
        both.send(camera, 1)
    for first in range(2, 3 * rounds, 3):
        assert slow.taken.acquire(timeout=TIMEOUT_S)
        for number in range(first, first + 3):
            for camera in (number % 2, 1 - number % 2):
                both.send(camera, number)
        slow.let_go.release()
        assert slow.taken.acquire(timeout=TIMEOUT_S)
        slow.let_go.release()
    slow.let_go.release(2)
    expected = [1, *range(4, 3 * rounds + 2, 3)]
    until(lambda: both.stamps_s() == [expected] * 2, f'{expected} of both')
    for counts in both.counts():
        assert (counts['pairs'], counts['singles']) == (1 + rounds, 0)
        assert (counts['dropped'], counts['published']) == (2 * rounds, 1 + rounds)
    for mask, name in zip(both.masks, NAMES):
        assert {m.header.frame_id for m in mask.messages} == {name}


def test_a_camera_that_stops_is_stale_and_the_other_continues(slow, start_node):
    own_node = start_node(
        model='slow', pair_wait_ms=1, **TWO_TOPICS, **{**PATIENT, 'stale_after_ms': 2000}
    )
    both, statuses = (
        TwoCameras(own_node),
        [own_node.bench.status(f'{name}/status') for name in NAMES],
    )
    slow.let_go.release(1000)
    number = 0

    def left_alone():
        nonlocal number
        number += 1
        both.send(0, number)
        return [s.messages and s.messages[-1].message for s in statuses] == ['valid', 'stale']

    until(left_alone, 'one is valid, the other stale')
    assert both.counts()[0]['singles'] > 0
    assert both.stamps_s()[1] == []


def test_without_pairing_cameras_are_served_in_turn(slow, start_node):
    both = TwoCameras(start_node(model='slow', pairing='none', **TWO_TOPICS, **PATIENT))
    slow.let_go.release(1000)
    both.send(0, 1)
    both.masks[0].wait_for_stamp(10**9)
    both.send(1, 1)
    both.masks[1].wait_for_stamp(10**9)
    assert [counts['pairs'] for counts in both.counts()] == [0, 0]


def test_a_newer_stereo_image_replaces_an_older_one_for_both_cameras(slow, start_node):
    own_node = start_node(model='slow', stereo_layout='top_bottom', **PATIENT)
    bench, camera = own_node.bench, own_node.bench.camera()
    masks = [bench.listen(Image, f'{name}/mask') for name in NAMES]
    until(lambda: bench.readers() == [camera.qos_profile.reliability], 'the node listens')
    until(lambda: camera.get_subscription_count() == 1, 'the match')
    for name in NAMES:
        until(lambda e=name: bench.node.count_publishers(f'{e}/mask') == 1, 'the masks')
    healths = own_node.node._reporter.healths
    for number in range(1, 4):
        pixels = np.full((8, 6, 3), number, np.uint8)
        camera.publish(image_cdr(pixels, number * 10**9))
        until(lambda n=number: healths[1].counts()['received'] == n, 'the image')
        if number == 1:
            assert slow.taken.acquire(timeout=TIMEOUT_S)
    slow.let_go.release(1000)
    for mask in masks:
        mask.wait_for_stamp(3 * 10**9)
        assert [stamp_ns(m) // 10**9 for m in mask.messages] == [1, 3]
    assert [health.counts()['dropped'] for health in healths] == [1, 1]


@pytest.mark.parametrize('transport', ['raw', 'compressed'])
@pytest.mark.parametrize('layout', ['side_by_side', 'top_bottom'])
def test_halves_of_an_image_are_cameras_with_masks_of_their_size(
    start_node, model, layout, transport
):
    """One subscription gives two results, as if each half were an image."""
    roi = [8, 4, 64, 40]
    own_node = start_node(
        model=str(model), stereo_layout=layout, image_transport=transport, roi=roi, **PATIENT
    )
    bench = own_node.bench
    masks = [bench.listen(Image, f'{name}/mask') for name in NAMES]
    found = [bench.listen(Detection2DArray, f'{name}/detections') for name in NAMES]
    halves = [make_image(3), make_image(4)]
    image = np.concatenate(halves, 1 if layout == 'side_by_side' else 0)
    topic, kind = ('image', Image) if transport == 'raw' else ('image/compressed', CompressedImage)
    camera = bench.camera(topic, kind)
    until(lambda: len(bench.readers(topic)) == 1, 'one subscription')
    sent_ns = 0
    while not all(mask.wait(lambda m, ns=sent_ns: stamp_ns(m) == ns, 1.0) for mask in masks):
        sent_ns = bench.new_stamp_ns()
        as_jpeg = transport == 'compressed'
        one = header(sent_ns, 'ecm')
        camera.publish(to_cdr(image_to_jpeg(image, one)) if as_jpeg else image_cdr(image, sent_ns))
    for mask, detections in zip(masks, found):
        message = mask.wait_for_stamp(sent_ns)
        assert (message.height, message.width) == halves[0].shape[:2]
        pixels = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width)
        assert (pixels[:4] == 255).all()
        assert (pixels[4:44, 8:72] != 255).all()
        centres = [d.bbox.center.position for d in detections.wait_for_stamp(sent_ns).detections]
        assert all(c.x < message.width and c.y < message.height for c in centres)
    counts = [health.counts() for health in own_node.node._reporter.healths]
    assert len(own_node.node._subscribers) == 1
    assert counts[0]['received'] == counts[1]['received'] > 0
    assert counts[0]['pairs'] == counts[1]['pairs'] > 0
