# SPDX-License-Identifier: Apache-2.0
"""Detects other nodes on the same output topics, but not dead ones that are still listed."""

import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import rclpy
from bench import image_cdr, make_image, stamp_ns, until
from diagnostic_msgs.msg import DiagnosticStatus
from nodes import segmenter_attributes
from sensor_msgs.msg import Image

from surgseg_ros.core.reasons import Reason, ReasonCode
from surgseg_ros.core.segmentation import Segmentation
from surgseg_ros.core.segmenter import Segmenter
from surgseg_ros.node import other_publishers
from surgseg_ros.node.health import Health
from surgseg_ros.node.middleware import profile_variable
from surgseg_ros.node.other_publishers import (
    ALIVE_S,
    LISTED_DEAD_S,
    UNKNOWN_NAME,
    OtherPublishers,
    check_subscriptions,
)

OURS = '/or/segmenter'


class Future:
    def __init__(self):
        self._callbacks, self.answered = [], False

    def done(self):
        return self.answered

    def add_done_callback(self, callback):
        self._callbacks.append(callback)

    def answer(self):
        self.answered = True
        for callback in self._callbacks:
            callback(self)


class Client:
    """A client of a node's `get_state`; it gets a response if that node is alive."""

    def __init__(self, name, graph):
        self._name, self._graph, self.dropped = name, graph, 0

    def service_is_ready(self):
        return self._name in self._graph.services

    def call_async(self, request):
        future = Future()
        if self._graph.services[self._name]:
            self._graph.answers.append(future)
        return future

    def remove_pending_request(self, future):
        self.dropped += 1


class Graph:
    """A fake ROS graph as one node sees it; time advances only on request."""

    def __init__(self, forbids=False):
        self.forbids, self.warnings = forbids, []
        self.now_s = 1000.0
        self.publishers = {}
        self.services = {}
        self.answers = []
        self.clients = {}
        for topic in ('mask', 'status'):
            self.publish(topic, OURS)
        self.others = OtherPublishers(
            self, ['mask', 'status'], 'status', 'me', now_s=lambda: self.now_s
        )
        self.others.start()

    def publish(self, topic, name):
        namespace, _, node = name.rpartition('/')
        gid = [len(self.publishers)] * 16
        info = SimpleNamespace(endpoint_gid=gid, node_name=node, node_namespace=namespace)
        self.publishers[topic, name, len(self.publishers)] = info

    def vanish(self, name):
        for key in [key for key in self.publishers if key[1] == name]:
            del self.publishers[key]

    def report_status(self, name, instance='other'):
        self.others.on_status(DiagnosticStatus(name=name.lstrip('/'), hardware_id=instance))

    def check(self, after_s=1.0):
        self.now_s += after_s
        answers, self.answers = self.answers, []
        for future in answers:
            future.answer()
        reason = self.others.check()
        if reason is None:
            return ''
        assert reason.code is ReasonCode.TWO_PUBLISHERS
        return reason.text

    def get_fully_qualified_name(self):
        return OURS

    def resolve_topic_name(self, topic):
        return f'/or/{topic}'

    def get_publishers_info_by_topic(self, topic):
        return [info for key, info in self.publishers.items() if key[0] == topic]

    def create_subscription(self, *arguments, **more):
        if self.forbids:
            raise RuntimeError('not allowed')
        return 'subscription'

    def destroy_subscription(self, subscription):
        pass

    def get_logger(self):
        return SimpleNamespace(warning=self.warnings.append)

    def create_client(self, service_type, name, **more):
        if self.forbids:
            raise RuntimeError('not allowed')
        node = name.removesuffix('/get_state')
        self.clients[node] = Client(node, self)
        return self.clients[node]

    def destroy_client(self, client):
        self.clients = {name: one for name, one in self.clients.items() if one is not client}


@pytest.fixture
def graph():
    return Graph()


def test_a_single_node_finds_no_other_and_calls_no_service(graph):
    assert [graph.check() for _ in range(100)] == [''] * 100
    assert not graph.clients


def test_a_node_whose_lifecycle_services_respond_is_reported_at_once(graph):
    graph.publish('mask', '/or/second')
    graph.services['/or/second'] = True
    assert graph.check() == '', 'the service was only just called'
    reason = graph.check()
    assert reason.startswith("'/or/second' also publishes on '/or/mask': stop it")
    graph.vanish('/or/second')
    assert graph.check() == ''
    assert not graph.clients, 'no clients are left'


def test_a_node_killed_after_it_responded_is_not_reported_although_still_listed(graph):
    graph.publish('mask', '/or/second')
    graph.services['/or/second'] = True
    for _ in range(60):
        graph.check()
    assert graph.check()
    graph.services['/or/second'] = False
    graph.answers.clear()
    assert graph.check(ALIVE_S + 1) == ''
    for _ in range(19):  # seconds, while discovery still lists it
        assert graph.check() == ''


def test_a_call_without_response_is_canceled_and_repeated(graph):
    graph.publish('mask', '/or/second')
    graph.services['/or/second'] = False
    graph.check()
    graph.check(ALIVE_S + 1)
    assert graph.clients['/or/second'].dropped == 1
    graph.services['/or/second'] = True
    graph.check(ALIVE_S + 1)
    assert graph.check()


def test_a_dead_node_that_is_still_listed_is_never_reported(graph):
    """A node killed with -9 is listed for 20 s; so is the predecessor of this node."""
    for name in ('/or/second', OURS):
        graph.publish('mask', name)
        graph.publish('status', name)
    for _ in range(21):
        assert graph.check() == ''
    graph.vanish('/or/second')
    assert len(graph.publishers) == 4


@pytest.mark.parametrize('name', ['/bag_player', f'/{UNKNOWN_NAME}'])
def test_a_node_without_lifecycle_services_is_reported_after_being_listed_for_longer(graph, name):
    graph.publish('mask', name)
    assert graph.check() == ''
    assert graph.check(LISTED_DEAD_S) == ''
    reason = graph.check()
    assert "also publishes on '/or/mask'" in reason
    assert ("'/bag_player'" in reason) == (name == '/bag_player')
    assert '_NODE_NAME' not in reason


def test_another_node_of_the_same_name_is_recognized_by_its_status(graph):
    """Its `get_state` cannot show it: this node itself responds to that name."""
    graph.publish('mask', OURS)
    graph.publish('status', OURS)
    graph.services[OURS] = True
    graph.report_status(OURS, instance='me')
    assert graph.check() == ''
    graph.report_status(OURS)
    reason = graph.check()
    assert reason.startswith(
        f"another node named '{OURS}' also publishes on '/or/mask', '/or/status'"
    )
    assert not graph.clients
    assert graph.check(ALIVE_S + 1) == ''
    graph.report_status(f'{OURS}: left')
    assert graph.check()


def test_another_node_of_the_same_name_without_status_is_reported_after_a_time(graph):
    graph.publish('mask', OURS)
    graph.check()
    assert graph.check(LISTED_DEAD_S) == ''
    assert 'another node named' in graph.check()


def test_if_a_policy_forbids_subscription_and_calls_others_are_reported_after_a_time():
    graph = Graph(forbids=True)
    (warning,) = graph.warnings
    assert "cannot subscribe to 'status' (not allowed)" in warning
    graph.publish('mask', '/or/second')
    graph.publish('mask', OURS)
    assert [graph.check() for _ in range(21)] == [''] * 21
    graph.now_s += LISTED_DEAD_S
    assert f"'/or/second', another node named '{OURS}' also publishes" in graph.check()
    graph.vanish('/or/second')
    graph.check()
    graph.others.stop()


def test_a_stopped_check_finds_no_others(graph):
    graph.publish('mask', '/bag_player')
    graph.check()
    graph.others.stop()
    assert graph.check(LISTED_DEAD_S + 1) == ''
    assert not graph.clients


class BackgroundNetwork:
    """A fake Segmenter whose masks are all background."""

    def __init__(self):
        vars(self).update(segmenter_attributes('flat'))

    def segment_all(self, images, rois, *, confidence, grid_confidence):
        sizes = [image.shape[:2] for image in images]
        return [Segmentation(np.zeros(s, np.uint8), np.full(s, 255, np.uint8)) for s in sizes]


@pytest.fixture
def start(start_node, monkeypatch):
    monkeypatch.setattr(Segmenter, 'load', lambda *arguments, **more: BackgroundNetwork())
    return lambda *arguments, **more: start_node(
        *arguments, model='flat', stale_after_ms=600_000, **more
    )


def feed(own_node, topic='image'):
    """Send an image, and wait for its mask."""
    camera, mask = own_node.bench.camera(topic), own_node.bench.listen(Image, 'mask')
    own_node.bench.connect(camera, mask)
    sent_ns = own_node.bench.new_stamp_ns()
    camera.publish(image_cdr(make_image(), sent_ns))
    assert stamp_ns(mask.wait_for_stamp(sent_ns)) == sent_ns


def reason_of(message):
    return message.values[0].value


def test_two_segmenters_on_the_same_topics_are_degraded_until_one_is_left(start):
    first = start()
    status = first.bench.status('status')
    feed(first)
    status.wait_for_state('valid')
    second = start(
        *('-r', '__node:=second', '-r', f'mask:={first.bench.namespace}/mask'), autostart=True
    )
    # Discovery sometimes finds a publisher, but never the name of its node.
    names = (f"'{second.bench.namespace}/second'", 'another node, whose name is unknown,')
    found = tuple(f"{name} also publishes on '{first.bench.namespace}/mask'" for name in names)
    degraded = status.wait(lambda m: m.message == 'degraded' and reason_of(m).startswith(found))
    assert degraded, [reason_of(m) for m in status.messages]
    assert first.logs.wait_for_text('status stays degraded until then').startswith(found)
    heard = len(status.messages)
    second.node.trigger_deactivate()
    second.node.trigger_cleanup()
    status.wait_for_state('valid', since=heard)


def test_two_cameras_and_other_namespaces_are_not_other_publishers(start, monkeypatch):
    monkeypatch.setattr(other_publishers, 'LISTED_DEAD_S', 0.0)
    own_node = start(image_topics=['l/image', 'r/image'], camera_names=['left', 'right'])
    start()
    own_node.bench.listen(Image, 'left/mask')
    assert [others.check() for others in own_node.node._others for _ in range(5)] == [None] * 10


def test_masks_published_by_a_player_are_detected(start, monkeypatch):
    monkeypatch.setattr(other_publishers, 'LISTED_DEAD_S', 0.0)
    own_node = start()
    status = own_node.bench.status()
    feed(own_node)
    status.wait_for_state('valid')
    heard = len(status.messages)
    player = own_node.bench.node.create_publisher(Image, 'mask', 1)
    player_found = f"'{own_node.bench.namespace}/bench' also publishes on"
    assert status.wait_for_reason('degraded', player_found, since=heard).level == b'\x01'
    heard = len(status.messages)
    own_node.bench.node.destroy_publisher(player)
    assert status.wait_for_state('valid', since=heard).level == b'\x00'


LONG_LEASE = """<dds><profiles xmlns="http://www.eprosima.com">
<participant profile_name="long_lease" is_default_profile="true"><rtps><builtin>
<discovery_config><leaseDuration><sec>600</sec></leaseDuration></discovery_config>
</builtin></rtps></participant></profiles></dds>"""
"""Keeps a killed node listed by Fast DDS until this machine, however slow, started another."""


@pytest.fixture(scope='module')
def killed(run_node, bench, model, tmp_path_factory):
    """Yield a node with the name and namespace of one that was killed before."""
    profile = tmp_path_factory.mktemp('profile') / 'long_lease.xml'
    profile.write_text(LONG_LEASE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(profile_variable(os.environ), str(profile))
        first = run_node(model=model, stale_after_ms=600_000)
    until(lambda: bench.node.count_publishers('mask') and bench.readers(), 'the first node')
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    # This takes the ports of the killed node. If the next one had them, a publisher that finds the
    # shared memory of a port dead could replace it by another, which the node never reads.
    context = rclpy.Context()
    rclpy.init(context=context)
    holder = rclpy.create_node('holder', context=context)
    yield run_node(model=model, stale_after_ms=600_000)
    holder.destroy_node()
    rclpy.shutdown(context=context)


def test_a_restarted_node_is_not_degraded_by_its_dead_predecessor(bench, killed):
    until(lambda: bench.node.count_publishers('mask') == 2, 'the dead one is listed beside it')
    status, diagnostics = bench.status(), bench.diagnostics()
    bench.connect(bench.camera(), bench.listen(Image, 'mask'))
    status.wait_for_state('valid')
    looks = len(diagnostics.messages) + 3  # it checks before each of them
    until(lambda: len(diagnostics.messages) >= looks, 'three checks')
    assert bench.node.count_publishers('mask') == 2, 'it was listed all the time'
    assert {m.message for m in status.messages} <= {'inactive', 'stale', 'valid'}


def test_two_nodes_of_one_name_are_both_degraded(bench, killed, run_node, model):
    status = bench.status()
    run_node(model=model, stale_after_ms=600_000)
    name = f'{bench.namespace}/segmenter'
    camera = bench.camera()
    text = f'another node named {name!r} also publishes on'

    def degraded():
        camera.publish(image_cdr(make_image(), bench.new_stamp_ns()))
        reported = [m for m in status.messages if m.message == 'degraded' and text in reason_of(m)]
        return len({m.hardware_id for m in reported}) == 2

    assert until(degraded, 'both to report it')


def test_all_cameras_of_a_topic_without_images_report_why():
    healths = Health(), Health()
    for health in healths:
        health.activate(0)
    reason = Reason(ReasonCode.NO_PUBLISHER, 'nobody publishes')
    warnings = []
    subscriber = SimpleNamespace(
        healths=healths, check=lambda: None, explain_silence=lambda: reason
    )
    logger = SimpleNamespace(warning=lambda text, **more: warnings.append(text))
    check_subscriptions([subscriber], 0.0, logger)
    assert warnings == ['no image for 0 s: nobody publishes'], 'once for the topic'
    for health in healths:
        assert reason in health.verdict(10**9, 500).reasons
