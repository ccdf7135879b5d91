# SPDX-License-Identifier: Apache-2.0
"""The subscription follows the cameras' reliability, and silence is explained."""

import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from bench import until
from nodes import stand_in
from rclpy.qos import ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from surgseg_ros.core.segmenter import Segmenter
from surgseg_ros.node.dds_profile import NEW_VARIABLE, OLD_VARIABLE, segment_bytes
from surgseg_ros.node.health import Health
from surgseg_ros.node.intake import Intake

RELIABLE, BEST_EFFORT = ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT


@pytest.fixture
def start(start_here, monkeypatch):
    """Start the node without a network; no picture is sent here."""
    network = SimpleNamespace(**stand_in('none'))
    monkeypatch.setattr(Segmenter, 'load', lambda *arguments, **more: network)
    return lambda *arguments, **more: start_here(*arguments, model='none', **more)


def wait_for_reader(bench, reliability):
    until(lambda: bench.readers() == [reliability], f'a {reliability.name} subscription')


def test_auto_follows_the_publishers(start):
    """Reliable only if all of them are; a camera may come and go at any time."""
    bench = start().bench
    wait_for_reader(bench, BEST_EFFORT)
    bench.camera()
    wait_for_reader(bench, RELIABLE)
    other = bench.camera(best_effort=True)
    wait_for_reader(bench, BEST_EFFORT)
    bench.node.destroy_publisher(other)
    wait_for_reader(bench, RELIABLE)
    assert bench.readers() == [RELIABLE]


def test_auto_begins_right_and_stays_where_nothing_changes(start):
    here = start()
    here.bench.camera(best_effort=True)
    until(lambda: here.bench.node.count_subscribers('image') == 1, 'the node listens')
    here.bench.camera(best_effort=True)
    here.node._intakes[0].look()
    here.node._intakes[0].look()
    assert here.bench.readers() == [BEST_EFFORT]
    here.logs.wait_for_text('subscribed')
    assert len([line for line in here.logs.messages if 'subscribed' in line]) == 1


@pytest.mark.parametrize(
    ('asked', 'given'), [('best_effort', BEST_EFFORT), ('reliable', RELIABLE)]
)
def test_a_set_reliability_is_kept(start, asked, given):
    here = start(reliability=asked)
    here.bench.camera()
    here.node._intakes[0].look()
    wait_for_reader(here.bench, given)
    assert here.bench.readers() == [given]


def test_a_reliability_that_does_not_match_is_said(start):
    here = start(reliability='reliable')
    here.bench.camera(best_effort=True)
    line = here.logs.wait_for_text('QoS that this node can not take')
    assert f"'{here.bench.namespace}/image'" in line
    assert 'RELIABILITY' in line


def test_a_camera_that_has_just_come_is_not_called_silent(start):
    here = start(no_image_warning_s=3600.0)
    (intake,), (health,) = here.node._intakes, here.node._reporter.healths

    def silent_since_ns():
        intake.look()
        now_ns = time.monotonic_ns()
        return now_ns - health.silent_for_ns(now_ns)

    before_ns = time.monotonic_ns()
    assert silent_since_ns() < before_ns
    here.bench.camera()
    until(lambda: silent_since_ns() > before_ns, 'the camera is seen')
    since_ns = silent_since_ns()
    assert silent_since_ns() == since_ns, 'the same camera does not count again'


def test_another_type_on_the_topic_is_said(start):
    here = start(no_image_warning_s=0.1)
    here.bench.camera(message_type=CompressedImage)
    line = here.logs.wait_for_text('is published as sensor_msgs/msg/CompressedImage')
    assert f"'{here.bench.namespace}/image'" in line
    assert 'set image_transport' in here.logs.wait_for_text('no image for 0.1 s')


def test_compressed_images_are_looked_for_beside_the_raw_ones(start):
    """As image_transport does, though the name that is given carries images as well."""
    here = start(image_transport='compressed')
    bench = here.bench
    bench.camera(message_type=Image)
    camera = bench.camera('image/compressed', message_type=CompressedImage)
    until(lambda: bench.readers('image/compressed') == [RELIABLE], 'the node listens')
    assert bench.readers('image') == []
    until(lambda: camera.get_subscription_count() == 1, 'the match')
    counts = here.node._reporter.healths[0].counts
    until(lambda: camera.publish(CompressedImage()) or counts()['received'], 'an image')


def test_a_name_under_which_compressed_images_appear_later_is_taken_until_they_come(start):
    here = start(image_transport='compressed')
    bench, (intake,) = here.bench, here.node._intakes
    until(lambda: bench.readers('image/compressed') == [BEST_EFFORT], 'the node listens')
    camera = bench.camera(message_type=CompressedImage)
    until(lambda: bench.readers('image') == [RELIABLE], 'it has changed over')
    until(lambda: bench.readers('image/compressed') == [], 'it has left')
    counts = here.node._reporter.healths[0].counts
    until(lambda: camera.publish(CompressedImage()) or counts()['received'], 'an image')
    bench.node.destroy_publisher(camera)
    other = bench.camera('image/compressed', message_type=CompressedImage)
    until(lambda: bench.readers('image/compressed') == [RELIABLE], 'it follows the publisher')
    counted = counts()['received']
    until(lambda: other.publish(CompressedImage()) or counts()['received'] > counted, 'an image')
    bench.camera(message_type=CompressedImage)
    until(lambda: here.node.count_publishers('image') == 1, 'a second camera is seen')
    intake.look()
    assert intake.resolved_topic == f'{bench.namespace}/image/compressed', 'images come by it'


def test_what_is_there_instead_of_compressed_images_is_in_log_status_and_diagnostics(start):
    here = start(
        '-r', 'image:=cam/image_raw', image_transport='compressed', no_image_warning_s=0.1
    )
    status, diagnostics = here.bench.status(), here.bench.diagnostics()
    here.bench.camera('cam/image_raw')
    name = f'{here.bench.namespace}/cam/image_raw'
    line = here.logs.wait_for_text('but')
    assert f"topic '{name}/compressed' has no publisher, but '{name}' is published as" in line
    assert line.endswith('set image_transport to raw')
    stale = status.wait(lambda m: m.message == 'stale' and 'set image_' in m.values[0].value)
    assert stale.values[0].value.startswith('no image has come yet: topic ')
    assert diagnostics.wait(lambda part: 'set image_transport to raw' in part.message)


def test_a_topic_that_never_appears_is_said_by_its_resolved_name(start):
    here = start('-r', 'image:=/rig/left/image_raw', no_image_warning_s=0.1)
    assert "'/rig/left/image_raw' has no publisher" in here.logs.wait_for_text('no image for')


def test_a_camera_that_sends_nothing_is_said(start):
    here = start(no_image_warning_s=0.1)
    here.bench.camera()
    line = here.logs.wait_for_text('nothing arrives')
    assert f"'{here.bench.namespace}/image' has a publisher" in line
    assert 'offers reliable volatile; this node asks for reliable' in line


def test_qos_can_be_overridden(start, request):
    # The namespace is the next one; the override has to name the topic in full.
    here = start(
        '-r', 'mask:=/the_mask', **{'qos_overrides./the_mask.publisher.reliability': 'best_effort'}
    )
    (info,) = until(
        lambda: here.bench.node.get_publishers_info_by_topic('/the_mask'), 'the mask topic'
    )
    assert info.qos_profile.reliability == BEST_EFFORT
    assert here.bench.change('deactivate')
    assert here.bench.change('cleanup')
    assert here.bench.change('configure'), 'an override does not stand in the way of a second time'


def test_frames_that_were_overwritten_unread_are_counted():
    """Gaps in the numbers of a lone publisher; those of several say nothing."""
    health, got = Health(), []
    intake = Intake(None, 'image', 'raw', 'auto', health, lambda *given: got.append(given), None)
    intake._publishers_seen = 1
    for number in (7, 8, 12, 1, 2):
        intake._on_image(b'', {'publication_sequence_number': number})
    assert health.counts()['missing'] == 3
    intake._publishers_seen = 2
    intake._on_image(b'', {'publication_sequence_number': 90})
    intake._on_image(b'', {})
    assert (health.counts()['missing'], health.counts()['received']) == (3, 7)
    assert got[-1] == (b'', 0), 'of unknown age'


@pytest.mark.parametrize(('publishers', 'state'), [(1, 'valid'), (2, 'degraded')])
def test_without_numbers_any_of_several_publishers_may_have_sent_it(publishers, state):
    health = Health()
    health.activate(0)
    intake = Intake(None, 'image', 'raw', 'auto', health, lambda *given: None, None)
    intake._publishers_seen = publishers
    intake._on_image(b'', {})
    health.see_mask(1, 1, {})
    assert health.verdict(2, 1000).state == state


def test_the_age_at_receipt_and_the_time_on_the_way_come_from_the_information():
    health, got = Health(), []
    intake = Intake(None, 'image', 'raw', 'auto', health, lambda *given: got.append(given), None)
    before_ns = time.time_ns()
    info = {'source_timestamp': before_ns - 7_000_000, 'received_timestamp': before_ns - 2_000_000}
    intake._on_image(b'', info)
    assert 2_000_000 <= got[0][1] <= 2_000_000 + time.time_ns() - before_ns
    assert health.times_ms()['transport'].p50 == 5.0


def test_what_is_lost_on_the_way_is_counted_and_the_remedy_said_once():
    health, said = Health(), []
    node = SimpleNamespace(
        resolve_topic_name=lambda topic: f'/rig/{topic}',
        get_logger=lambda: SimpleNamespace(warning=said.append),
    )
    intake = Intake(node, 'image', 'raw', 'auto', health, None, None)
    for number in (2, 3):
        intake._on_lost(SimpleNamespace(total_count_change=number))
    assert health.counts()['lost'] == 5
    (line,) = said
    assert "'/rig/image' are lost on their way" in line
    variable, profile = re.search(r'"export (\w+)=(\S+)"', line).groups()
    assert variable in (OLD_VARIABLE, NEW_VARIABLE)
    assert segment_bytes(Path(profile)) > 0


def test_made_anew_in_the_executors_hands_the_subscription_still_hears(start):
    """Rclpy leaves the group of what is destroyed just before it is taken locked for ever."""
    here = start()
    old = here.node._intakes[0]._subscription
    assert old.callback_group.beginning_execution(old)
    camera = here.bench.camera()
    wait_for_reader(here.bench, RELIABLE)

    def heard():
        camera.publish(Image())
        return here.node._reporter.healths[0].counts()['received']

    until(heard, 'an image')
