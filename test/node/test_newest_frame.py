# SPDX-License-Identifier: Apache-2.0
"""With a slow network no queue builds up, and no result is published after its activation."""

import threading

import numpy as np
import pytest
from bench import FRAME_ID, TIMEOUT_S, image_cdr, stamp_ns, until
from nodes import SlowNetwork
from sensor_msgs.msg import Image

from surgseg_ros.core.segmenter import Segmenter

HEIGHT, WIDTH = 30, 50


@pytest.fixture
def slow(monkeypatch):
    network = SlowNetwork()
    monkeypatch.setattr(Segmenter, 'load', lambda *arguments, **more: network)
    return network


@pytest.fixture
def camera(slow, start_node):
    """Yield a connected camera; no frame has been sent."""
    own_node = start_node(model='slow', stale_after_ms=600_000)
    yield Camera(own_node, slow)
    slow.let_go.release(1000)  # the node exits only if no frame is blocked


class Camera:
    def __init__(self, own_node, network):
        self.own_node, self.bench = own_node, own_node.bench
        self.mask = self.bench.listen(Image, 'mask')
        self.network = network
        self._publisher = self.bench.camera()
        until(lambda: self.bench.node.count_publishers('mask') == 1, 'the mask is listened to')
        until(lambda: self.bench.readers() == [self._publisher.qos_profile.reliability], 'reader')
        until(lambda: self._publisher.get_subscription_count() == 1, 'the match')
        self.sent = 0

    def publish(self):
        """Publish the next frame; its number is its stamp, and the color of its pixels."""
        self.sent += 1
        pixels = np.full((HEIGHT, WIDTH, 3), self.sent % 10, np.uint8)
        self._publisher.publish(image_cdr(pixels, self.sent))

    def send(self):
        """Publish the next frame, and wait until the node has it."""
        self.publish()
        until(lambda: self.counts()['received'] == self.sent, f'frame {self.sent}')

    def counts(self):
        return self.own_node.node._reporter.healths[0].counts()

    def wait_taken(self):
        assert self.network.taken.acquire(timeout=TIMEOUT_S)


def test_the_mask_is_of_the_newest_frame_when_the_network_becomes_free(camera):
    rounds = 10
    camera.send()
    camera.wait_taken()
    for _ in range(rounds):
        for _ in range(3):
            camera.send()
        camera.network.let_go.release()
        camera.wait_taken()
    camera.network.let_go.release()
    camera.mask.wait_for_stamp(camera.sent)
    assert [stamp_ns(m) for m in camera.mask.messages] == [1, *range(4, 3 * rounds + 2, 3)]
    counts = camera.counts()
    assert counts['received'] == 1 + 3 * rounds
    assert counts['dropped'] == 2 * rounds
    assert counts['published'] == 1 + rounds
    for mask in camera.mask.messages:
        assert mask.header.frame_id == FRAME_ID
        assert (mask.height, mask.width, mask.step) == (HEIGHT, WIDTH, WIDTH)
        assert (mask.encoding, mask.is_bigendian) == ('mono8', 0)
        assert bytes(mask.data) == bytes([stamp_ns(mask) % 10]) * (HEIGHT * WIDTH)


def test_a_result_in_flight_across_a_deactivation_is_discarded(camera):
    camera.send()
    camera.wait_taken()
    assert camera.bench.change('deactivate')
    camera.network.let_go.release()
    until(lambda: camera.counts()['discarded'] == 1, 'the result is discarded')
    assert camera.counts()['published'] == 0


def test_a_result_in_flight_does_not_appear_in_the_next_activation(camera):
    camera.send()
    camera.wait_taken()
    assert camera.bench.change('deactivate')
    assert camera.bench.change('activate')
    camera.network.let_go.release()
    until(lambda: camera.counts()['discarded'] == 1, 'the result is discarded')
    while not camera.mask.wait(timeout_s=0.5):
        camera.publish()
        camera.network.let_go.release()
    assert min(stamp_ns(m) for m in camera.mask.messages) > 1


def test_cleanup_waits_for_the_network_and_services_respond_meanwhile(camera):
    camera.send()
    camera.wait_taken()
    assert camera.bench.change('deactivate')
    future, answered = camera.bench.change_async('cleanup')
    until(lambda: camera.bench.state() == 'cleaningup', 'the transition')
    assert not camera.bench.change('activate'), 'one transition at a time'
    assert not answered.is_set()
    camera.network.let_go.release()
    assert answered.wait(TIMEOUT_S)
    assert future.result().success
    assert camera.bench.state() == 'unconfigured'
    assert 'segment' not in [thread.name for thread in threading.enumerate()]


def test_shutdown_during_inference(camera):
    camera.send()
    camera.wait_taken()
    _, answered = camera.bench.change_async('shutdown')
    until(lambda: camera.bench.state() == 'shuttingdown', 'the transition')
    camera.network.let_go.release()
    assert answered.wait(TIMEOUT_S)
    assert camera.bench.state() == 'finalized'
    assert camera.counts()['published'] == 0


def test_a_network_that_hangs_is_reported(camera):
    """Images arrive, but no mask is published."""
    status = camera.bench.status()
    camera.send()
    camera.network.let_go.release()
    status.wait_for_state('valid')
    assert camera.bench.set(stale_after_ms=1000).successful
    reason = 'images arrive, but no mask is ready within 1000 ms'
    while not status.wait(lambda m: m.values[0].value == reason, timeout_s=0.1):
        camera.send()
    camera.network.let_go.release()
