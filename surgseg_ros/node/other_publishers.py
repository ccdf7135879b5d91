# SPDX-License-Identifier: Apache-2.0
"""Checks whether images arrive, and whether another node publishes on the same outputs."""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.srv import GetState
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.client import Client
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from rclpy.task import Future
from rclpy.topic_endpoint_info import TopicEndpointInfo

from surgseg_ros.core.reasons import Reason, ReasonCode
from surgseg_ros.node.health import CameraChannel
from surgseg_ros.node.image_subscriber import ImageSubscriber

LISTED_DEAD_S: Final = 25.0
"""
How long a publisher without a sign of life must be listed before it counts as alive.

Discovery lists a killed participant until its lease ends: 20 s with Fast DDS by default, 10 s with
Cyclone DDS. The rest is a margin for a late check.
"""

ALIVE_S: Final = 3.0
"""Validity of a sign of life: a segmenter repeats `status`, and is queried every second."""

UNKNOWN_NAME: Final = '_NODE_NAME_UNKNOWN_'
"""Name that rmw returns for a publisher whose node has not been discovered yet."""


class _Endpoint(NamedTuple):
    topic: str
    gid: bytes
    node: str


class _StateQuery(NamedTuple):
    """
    A client of a node's `get_state`, and its pending request.

    The client is None if a security policy forbids it.
    """

    client: Client | None
    pending: Future | None
    asked_s: float


class OtherPublishers:
    """
    Detects publishers of other nodes on a camera's output topics.

    A publisher counts while its node shows signs of life: the node answers `get_state`, or its
    `status` arrives on this camera's topic, with a `hardware_id` that differs from this node's.
    Without a sign of life, a publisher counts after it has been listed for longer than discovery
    lists a dead one: then it is not a lifecycle node, or it hangs.

    :param node: this node.
    :param topics: the camera's output topics, as relative names.
    :param status_topic: the topic among them that is `status`.
    :param instance: the `hardware_id` of this node's own `status`.
    :param now_s: the steady clock.
    """

    def __init__(
        self,
        node: Node,
        topics: Sequence[str],
        status_topic: str,
        instance: str,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Store the arguments; nothing is subscribed to yet."""
        self._node = node
        self._name = node.get_fully_qualified_name()
        self._topics = tuple(topics)
        self._status_topic = status_topic
        self._instance = instance
        self._now_s = now_s
        self._lock = threading.Lock()  # transitions and checks run in different threads
        self._started = False
        self._subscription: Subscription | None = None
        self._first_seen_s: dict[_Endpoint, float] = {}
        self._sign_s: dict[str, float] = {}
        self._queries: dict[str, _StateQuery] = {}

    def start(self) -> None:
        """Subscribe to `status`, unless a security policy forbids that."""
        # Best effort, so that this node's last status does not wait for its own subscription.
        qos = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
        with self._lock:
            self._started = True
            try:
                self._subscription = self._node.create_subscription(
                    DiagnosticStatus,
                    self._status_topic,
                    self.on_status,
                    qos,
                    callback_group=MutuallyExclusiveCallbackGroup(),
                )
            except Exception as error:  # RCLError is not public in every distribution
                self._node.get_logger().warning(
                    f'cannot subscribe to {self._status_topic!r} ({error}): another node named '
                    f'{self._name!r} is detected only after {LISTED_DEAD_S:g} s'
                )

    def stop(self) -> None:
        """Unsubscribe, and reset the state."""
        with self._lock:
            if self._subscription is not None:
                self._node.destroy_subscription(self._subscription)
            self._started, self._subscription = False, None
            self._drop_queries(keep=())
            self._first_seen_s.clear()
            self._sign_s.clear()

    def on_status(self, status: DiagnosticStatus) -> None:
        """
        Record which node published a `status`.

        :param status: from the camera's topic; may be this node's own.
        """
        if status.hardware_id != self._instance:
            # Names of nodes have no colon; the part after it is the camera's name.
            self._sign_s['/' + status.name.partition(':')[0]] = self._now_s()

    def check(self) -> Reason | None:
        """
        Look for other publishers, and query their nodes; does not wait for answers.

        :return: which nodes publish on which topics, with a remedy; None if there are none.
        """
        with self._lock:
            if not self._started:
                return None
            now_s = self._now_s()
            others = self._others(now_s)
            names = {other.node for other in others} - {self._name, UNKNOWN_NAME}
            self._drop_queries(keep=names)
            for name in sorted(names):
                self._query(name, now_s)
            return self._report([other for other in others if self._is_alive(other, now_s)])

    def _others(self, now_s: float) -> list[_Endpoint]:
        """List the publishers of other nodes, and record since when each has been listed."""
        listed = [
            _Endpoint(topic, bytes(info.endpoint_gid), _full_name(info))
            for topic in self._topics
            for info in self._node.get_publishers_info_by_topic(topic)
        ]
        known = self._first_seen_s
        self._first_seen_s = {end: known.get(end, now_s) for end in listed}
        others = [end for end in listed if end.node != self._name]
        for topic in self._topics:
            same = [end for end in listed if end.topic == topic and end.node == self._name]
            # One of them is this node's. rclpy does not report which one, and it does not matter.
            others += sorted(same, key=lambda end: self._first_seen_s[end])[1:]
        return others

    def _is_alive(self, other: _Endpoint, now_s: float) -> bool:
        sign_s = self._sign_s.get(other.node)
        if sign_s is not None and now_s - sign_s <= ALIVE_S:
            return True
        since_s = max(self._first_seen_s[other], sign_s or 0.0)
        return now_s - since_s > LISTED_DEAD_S

    def _query(self, name: str, now_s: float) -> None:
        """Request the state of a node, unless an earlier request is still pending."""
        query = self._queries.get(name)
        if query is None:
            query = self._queries[name] = _StateQuery(self._client(name), None, now_s)
        client, pending, asked_s = query
        if client is None:
            return
        if pending is not None and not pending.done():
            if now_s - asked_s <= ALIVE_S:
                return
            client.remove_pending_request(pending)
        if client.service_is_ready():
            pending = client.call_async(GetState.Request())
            pending.add_done_callback(lambda future: self._answered(name))
            self._queries[name] = _StateQuery(client, pending, now_s)

    def _client(self, name: str) -> Client | None:
        try:
            return self._node.create_client(
                GetState, f'{name}/get_state', callback_group=MutuallyExclusiveCallbackGroup()
            )
        except Exception:  # RCLError is not public in every distribution
            return None  # without answers, only the time is used

    def _answered(self, name: str) -> None:
        self._sign_s[name] = self._now_s()

    def _drop_queries(self, keep: Iterable[str]) -> None:
        for name in self._queries.keys() - set(keep):
            if (client := self._queries.pop(name).client) is not None:
                self._node.destroy_client(client)

    def _report(self, others: Sequence[_Endpoint]) -> Reason | None:
        if not others:
            return None
        topics = ', '.join(
            sorted({repr(self._node.resolve_topic_name(other.topic)) for other in others})
        )
        nodes = ', '.join(sorted({self._describe(other.node) for other in others}))
        text = (
            f'{nodes} also publishes on {topics}: stop it, or put one of the two nodes into '
            'another namespace'
        )
        return Reason(ReasonCode.TWO_PUBLISHERS, text)

    def _describe(self, name: str) -> str:
        if name == UNKNOWN_NAME:
            return 'another node, whose name is unknown,'
        return f'another node named {name!r}' if name == self._name else repr(name)


def _full_name(info: TopicEndpointInfo | Any) -> str:
    if UNKNOWN_NAME in info.node_name:
        return UNKNOWN_NAME
    return f'{info.node_namespace.rstrip("/")}/{info.node_name}'


def check_subscriptions(
    subscribers: Sequence[ImageSubscriber], limit_s: float, logger: Any
) -> None:
    """
    Check the image subscriptions, and warn if no image arrives.

    :param subscribers: one per image topic; empty while the node is not active.
    :param limit_s: seconds without an image after which to warn.
    :param logger: the rclpy logger of the node.
    """
    for subscriber in subscribers:
        try:
            subscriber.check()
            _report_silence(subscriber, limit_s, logger)
        except Exception as error:  # of one camera; the others, and /diagnostics, continue
            text = f'checking the publishers of {subscriber.resolved_topic!r} failed: {error}'
            logger.error(text, throttle_duration_sec=10.0)


def check_other_publishers(
    channels: Sequence[CameraChannel], others: Sequence[OtherPublishers], logger: Any
) -> None:
    """
    Set a camera to degraded if another node publishes on its output topics, and warn once.

    :param channels: the node's cameras.
    :param others: one per camera.
    :param logger: the rclpy logger of the node.
    """
    for channel, publishers in zip(channels, others, strict=False):
        try:
            reason = publishers.check()
        except Exception as error:  # of one camera; the others, and /diagnostics, continue
            text = f'looking for other publishers failed: {error}'
            logger.error(text, throttle_duration_sec=10.0)
            continue
        channel.health.record_other_publishers(reason)
        if reason is not None and channel.health.first_time(reason.text):
            logger.warning(f'{channel.prefix}{reason.text} (status stays degraded until then)')


def _report_silence(subscriber: ImageSubscriber, limit_s: float, logger: Any) -> None:
    health = subscriber.healths[0]
    silent_ns = health.silent_for_ns(time.monotonic_ns())
    if silent_ns is None or silent_ns < limit_s * 1e9:
        return
    explanation = subscriber.explain_silence()
    for each in subscriber.healths:
        each.record_silence(explanation)
    text = f'no image for {limit_s:g} s: {explanation.text}'
    if health.first_time(explanation.text):
        logger.warning(text)
    else:  # it may be a new interruption, or a long one
        logger.warning(text, throttle_duration_sec=60.0, skip_first=True)
