# SPDX-License-Identifier: Apache-2.0
"""The subscription follows the reliability of the cameras, and missing images are explained."""

import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from bench import until
from nodes import segmenter_attributes
from rclpy.qos import ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from surgseg_ros.core.segmenter import Segmenter
from surgseg_ros.node.health import Health
from surgseg_ros.node.image_subscriber import ImageSubscriber
from surgseg_ros.node.middleware import NEW_VARIABLE, OLD_VARIABLE, segment_bytes

RELIABLE, BEST_EFFORT = ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT


@pytest.fixture
def start(start_node, monkeypatch):
    """Start the node without a network; no image is sent here."""
    network = SimpleNamespace(**segmenter_attributes('none'))
    monkeypatch.setattr(Segmenter, 'load', lambda *arguments, **more: network)
    return lambda *arguments, **more: start_node(*arguments, model='none', **more)


def wait_for_reader(bench, reliability):
    until(lambda: bench.readers() == [reliability], f'a {reliability.name} subscription')


def test_auto_follows_the_publishers(start):
    """Reliable only if all cameras are; a camera may appear and disappear at any time."""
    bench = start().bench
    wait_for_reader(bench, BEST_EFFORT)
    bench.camera()
    wait_for_reader(bench, RELIABLE)
    other = bench.camera(best_effort=True)
    wait_for_reader(bench, BEST_EFFORT)
    bench.node.destroy_publisher(other)
    wait_for_reader(bench, RELIABLE)
    assert bench.readers() == [RELIABLE]


def test_auto_subscribes_only_once_if_the_publishers_stay_the_same(start):
    own_node = start()
    own_node.bench.camera(best_effort=True)
    until(lambda: own_node.bench.node.count_subscribers('image') == 1, 'the node listens')
    own_node.bench.camera(best_effort=True)
    own_node.node._subscribers[0].check()
    own_node.node._subscribers[0].check()
    assert own_node.bench.readers() == [BEST_EFFORT]
    own_node.logs.wait_for_text('subscribed')
    assert len([line for line in own_node.logs.messages if 'subscribed' in line]) == 1


@pytest.mark.parametrize(
    ('asked', 'given'), [('best_effort', BEST_EFFORT), ('reliable', RELIABLE)]
)
def test_an_explicit_reliability_is_kept(start, asked, given):
    own_node = start(reliability=asked)
    own_node.bench.camera()
    own_node.node._subscribers[0].check()
    wait_for_reader(own_node.bench, given)
    assert own_node.bench.readers() == [given]


def test_a_reliability_that_does_not_match_is_reported(start):
    own_node = start(reliability='reliable')
    own_node.bench.camera(best_effort=True)
    line = own_node.logs.wait_for_text('QoS that is incompatible with this node')
    assert f"'{own_node.bench.namespace}/image'" in line
    assert 'RELIABILITY' in line


def test_a_new_camera_is_not_reported_as_silent(start):
    own_node = start(no_image_warning_s=3600.0)
    (subscriber,), (health,) = own_node.node._subscribers, own_node.node._reporter.healths

    def silent_since_ns():
        subscriber.check()
        now_ns = time.monotonic_ns()
        return now_ns - health.silent_for_ns(now_ns)

    before_ns = time.monotonic_ns()
    assert silent_since_ns() < before_ns
    own_node.bench.camera()
    until(lambda: silent_since_ns() > before_ns, 'the camera is discovered')
    since_ns = silent_since_ns()
    assert silent_since_ns() == since_ns, 'the same camera is counted once'


def test_another_type_on_the_topic_is_reported(start):
    own_node = start(no_image_warning_s=0.1)
    own_node.bench.camera(message_type=CompressedImage)
    line = own_node.logs.wait_for_text('is published as sensor_msgs/msg/CompressedImage')
    assert f"'{own_node.bench.namespace}/image'" in line
    assert 'set image_transport' in own_node.logs.wait_for_text('no image for 0.1 s')


def test_compressed_images_are_received_on_the_topic_beside_the_raw_ones(start):
    """As image_transport does, even if the given topic has raw images."""
    own_node = start(image_transport='compressed')
    bench = own_node.bench
    bench.camera(message_type=Image)
    camera = bench.camera('image/compressed', message_type=CompressedImage)
    until(lambda: bench.readers('image/compressed') == [RELIABLE], 'the node listens')
    assert bench.readers('image') == []
    until(lambda: camera.get_subscription_count() == 1, 'the match')
    counts = own_node.node._reporter.healths[0].counts
    until(lambda: camera.publish(CompressedImage()) or counts()['received'], 'an image')


def test_the_base_name_is_used_until_compressed_images_appear(start):
    own_node = start(image_transport='compressed')
    bench, (subscriber,) = own_node.bench, own_node.node._subscribers
    until(lambda: bench.readers('image/compressed') == [BEST_EFFORT], 'the node listens')
    camera = bench.camera(message_type=CompressedImage)
    until(lambda: bench.readers('image') == [RELIABLE], 'the new subscription')
    until(lambda: bench.readers('image/compressed') == [], 'the end of the old subscription')
    counts = own_node.node._reporter.healths[0].counts
    until(lambda: camera.publish(CompressedImage()) or counts()['received'], 'an image')
    bench.node.destroy_publisher(camera)
    other = bench.camera('image/compressed', message_type=CompressedImage)
    until(lambda: bench.readers('image/compressed') == [RELIABLE], 'it follows the publisher')
    counted = counts()['received']
    until(lambda: other.publish(CompressedImage()) or counts()['received'] > counted, 'an image')
    bench.camera(message_type=CompressedImage)
    until(lambda: own_node.node.count_publishers('image') == 1, 'a second camera is discovered')
    subscriber.check()
    assert subscriber.resolved_topic == f'{bench.namespace}/image/compressed', (
        'images arrive on it'
    )


def test_a_wrong_transport_is_reported_in_log_status_and_diagnostics(start):
    own_node = start(
        '-r', 'image:=cam/image_raw', image_transport='compressed', no_image_warning_s=0.1
    )
    status, diagnostics = own_node.bench.status(), own_node.bench.diagnostics()
    own_node.bench.camera('cam/image_raw')
    name = f'{own_node.bench.namespace}/cam/image_raw'
    line = own_node.logs.wait_for_text('but')
    assert f"topic '{name}/compressed' has no publisher, but '{name}' is published as" in line
    assert line.endswith('set image_transport to raw')
    stale = status.wait(lambda m: m.message == 'stale' and 'set image_' in m.values[0].value)
    assert stale.values[0].value.startswith('no image has arrived yet; topic ')
    assert diagnostics.wait(lambda part: 'set image_transport to raw' in part.message)


def test_a_topic_that_never_appears_is_reported_by_its_resolved_name(start):
    own_node = start('-r', 'image:=/rig/left/image_raw', no_image_warning_s=0.1)
    assert "'/rig/left/image_raw' has no publisher" in own_node.logs.wait_for_text('no image for')


def test_a_camera_that_sends_nothing_is_reported(start):
    own_node = start(no_image_warning_s=0.1)
    own_node.bench.camera()
    line = own_node.logs.wait_for_text('nothing arrives')
    assert f"'{own_node.bench.namespace}/image' has a publisher" in line
    assert 'offers reliable volatile; this node requests reliable' in line


def test_qos_can_be_overridden(start, request):
    # The namespace is the next one; the override has to name the topic in full.
    own_node = start(
        '-r', 'mask:=/the_mask', **{'qos_overrides./the_mask.publisher.reliability': 'best_effort'}
    )
    (info,) = until(
        lambda: own_node.bench.node.get_publishers_info_by_topic('/the_mask'), 'the mask topic'
    )
    assert info.qos_profile.reliability == BEST_EFFORT
    assert own_node.bench.change('deactivate')
    assert own_node.bench.change('cleanup')
    assert own_node.bench.change('configure'), (
        'an override does not prevent a second configuration'
    )


def test_frames_overwritten_before_they_were_read_are_counted():
    """Counted by gaps in the sequence numbers of the only publisher; with several, not counted."""
    health, got = Health(), []
    subscriber = ImageSubscriber(
        None, 'image', 'raw', 'auto', [health], lambda *given: got.append(given), None
    )
    subscriber._publishers_seen = 1
    for number in (7, 8, 12, 1, 2):
        subscriber._on_image(b'', {'publication_sequence_number': number})
    assert health.counts()['missing'] == 3
    subscriber._publishers_seen = 2
    subscriber._on_image(b'', {'publication_sequence_number': 90})
    subscriber._on_image(b'', {})
    assert (health.counts()['missing'], health.counts()['received']) == (3, 7)
    assert got[-1] == (b'', 0), 'its age is unknown'


@pytest.mark.parametrize(('publishers', 'state'), [(1, 'valid'), (2, 'degraded')])
def test_without_sequence_numbers_the_publisher_of_a_message_is_unknown(publishers, state):
    health = Health()
    health.activate(0)
    subscriber = ImageSubscriber(None, 'image', 'raw', 'auto', [health], lambda *given: None, None)
    subscriber._publishers_seen = publishers
    subscriber._on_image(b'', {})
    health.record_mask(1, 1, {})
    assert health.verdict(2, 1000).state == state


def test_age_at_receipt_and_transport_time_come_from_the_message_info():
    health, got = Health(), []
    subscriber = ImageSubscriber(
        None, 'image', 'raw', 'auto', [health], lambda *given: got.append(given), None
    )
    before_ns = time.time_ns()
    info = {'source_timestamp': before_ns - 7_000_000, 'received_timestamp': before_ns - 2_000_000}
    subscriber._on_image(b'', info)
    assert 2_000_000 <= got[0][1] <= 2_000_000 + time.time_ns() - before_ns
    assert health.times_ms()['transport'].p50 == 5.0


def test_lost_messages_are_counted_and_the_remedy_is_reported_once():
    health, warnings = Health(), []
    node = SimpleNamespace(
        resolve_topic_name=lambda topic: f'/rig/{topic}',
        get_logger=lambda: SimpleNamespace(warning=warnings.append),
    )
    subscriber = ImageSubscriber(node, 'image', 'raw', 'auto', [health], None, None)
    for number in (2, 3):
        subscriber._on_lost(SimpleNamespace(total_count_change=number))
    assert health.counts()['lost'] == 5
    (line,) = warnings
    assert "'/rig/image' are lost in transport" in line
    variable, profile = re.search(r'"export (\w+)=(\S+)"', line).groups()
    assert variable in (OLD_VARIABLE, NEW_VARIABLE)
    assert segment_bytes(Path(profile)) > 0


def test_a_subscription_recreated_in_an_executor_callback_still_receives(start):
    """Rclpy leaves the callback group locked if an entity is destroyed just before it is taken."""
    own_node = start()
    old = own_node.node._subscribers[0]._subscription
    assert old.callback_group.beginning_execution(old)
    camera = own_node.bench.camera()
    wait_for_reader(own_node.bench, RELIABLE)

    def heard():
        camera.publish(Image())
        return own_node.node._reporter.healths[0].counts()['received']

    until(heard, 'an image')
