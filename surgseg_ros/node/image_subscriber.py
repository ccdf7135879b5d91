# SPDX-License-Identifier: Apache-2.0
"""Subscribes to the images of a camera, raw or compressed, and diagnoses why none arrive."""

import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
from rclpy.qos import QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from rclpy.topic_endpoint_info import TopicEndpointInfo
from rclpy.utilities import get_rmw_implementation_identifier
from sensor_msgs.msg import CompressedImage, Image

from surgseg_ros.core.reasons import Reason, ReasonCode
from surgseg_ros.node.health import Health
from surgseg_ros.node.middleware import advice_to_sender, subscribe

RAW: Final = 'raw'
COMPRESSED: Final = 'compressed'

MESSAGE_TYPES: Final = {RAW: Image, COMPRESSED: CompressedImage}
TYPE_NAMES: Final = {
    RAW: 'sensor_msgs/msg/Image',
    COMPRESSED: 'sensor_msgs/msg/CompressedImage',
}

_SUFFIX: Final = '/compressed'
"""Suffix that the compressed transport of image_transport appends to the base topic."""

_IMAGE_TYPES: Final = re.compile('Image|Packet|Video')
"""Pattern of image types: CompressedImage (zstd), Packet (theora), FFMPEGPacket etc."""


def possible_topics(node: Node, topic: str, transport: str) -> tuple[str, ...]:
    """
    List the candidate topics; as in image_transport, the base name is remapped first.

    :param node: the node that subscribes; its namespace and remappings apply.
    :param topic: the image topic, as in the node's parameters.
    :param transport: RAW or COMPRESSED.
    :return: with RAW, `topic` itself. With COMPRESSED, a name that ends in `/compressed` as it
        is; else, if `topic`/compressed is remapped, that name; else both `topic`, which may
        itself be published as CompressedImage, as the dVRK does, and `topic`/compressed.
    """
    base, beside = node.resolve_topic_name(topic), topic + _SUFFIX
    if transport != COMPRESSED or base.endswith(_SUFFIX):
        return (topic,)
    if node.resolve_topic_name(beside) != node.resolve_topic_name(beside, only_expand=True):
        return (beside,)
    return (topic, base + _SUFFIX)


def choose_topic(node: Node, topic: str, transport: str) -> str:
    """
    Choose the topic to subscribe to.

    :param node: used for discovery.
    :param topic: the image topic, as in the node's parameters.
    :param transport: RAW or COMPRESSED.
    :return: the first of `possible_topics` if it is the only one, or is published as
        CompressedImage; else the other.
    """
    first, *others = possible_topics(node, topic, transport)
    return others[0] if others and not is_published(node, first, COMPRESSED) else first


def is_published(node: Node, topic: str, transport: str) -> bool:
    """
    Return whether a topic has a publisher with the message type of a transport.

    :param node: used for discovery.
    :param topic: the topic; remappings apply.
    :param transport: RAW or COMPRESSED.
    :return: True if it has one.
    """
    infos = node.get_publishers_info_by_topic(topic)
    return any(info.topic_type == TYPE_NAMES[transport] for info in infos)


def describe_others(node: Node, topic: str, transport: str) -> str:
    """
    Describe images that are published but not read by this node, with a remedy for each.

    :param node: used for discovery.
    :param topic: the image topic, as in the node's parameters.
    :param transport: RAW or COMPRESSED.
    :return: clauses, separated by semicolons; empty if there are no such images.
    """
    base = node.resolve_topic_name(topic)
    stem = base.removesuffix(_SUFFIX)
    read = node.resolve_topic_name(choose_topic(node, topic, transport))
    clauses = []
    for name, types in sorted(node.get_topic_names_and_types()):
        if stem not in (name, name.rpartition('/')[0]):
            continue
        published = {info.topic_type for info in node.get_publishers_info_by_topic(name)}
        for type_name in sorted(published & set(types)):
            beside = name != stem and not _IMAGE_TYPES.search(type_name)
            if not beside and (name, type_name) != (read, TYPE_NAMES[transport]):
                remedy = _remedy(base, name, type_name, transport)
                clauses.append(f'{name!r} is published as {type_name}: {remedy}')
    return '; '.join(clauses)


def remedy_for_type(type_name: str, transport: str) -> str:
    """
    Suggest what to do if the subscribed topic is published with another type.

    :param type_name: the type of the publisher.
    :param transport: the transport in use, RAW or COMPRESSED.
    :return: a clause.
    """
    for other, read in TYPE_NAMES.items():
        if read == type_name and other != transport:
            return f'set image_transport to {other}'
    return 'remap the topic to one that carries images'


def _remedy(base: str, name: str, type_name: str, transport: str) -> str:
    stem = base.removesuffix(_SUFFIX)
    if type_name == TYPE_NAMES[RAW]:
        found = RAW
    elif type_name == TYPE_NAMES[COMPRESSED] and name in (stem, stem + _SUFFIX):
        found = COMPRESSED
    else:
        kind = name.rpartition('/')[2]
        if name == stem:
            return 'remap the topic to one that carries images'
        return (
            f'this node does not support the transport {kind!r}: configure the camera driver to '
            'publish raw or compressed images, or run `ros2 run image_transport republish`'
        )
    steps = [] if found == transport else [f'set image_transport to {found}']
    reached = name == base or (found == COMPRESSED and name == base + _SUFFIX)
    steps += [] if reached else [f'set the topic to {name!r}']
    return ' and '.join(steps) or 'wait until this node has switched to it'


_DEPTH: Final = 5
"""With a depth of 1, large reliable messages were lost before they could be read."""

_MIX_WINDOW: Final = 30
"""Number of images in which alternating publishers are detected: one second at 30 Hz."""

# Without reliability: an override would fix the initial choice.
INPUT_POLICIES: Final = (QoSPolicyKind.DEPTH, QoSPolicyKind.HISTORY, QoSPolicyKind.DURABILITY)
"""QoS policies of the image subscription that can be overridden."""


class ImageSubscriber:
    """
    Subscribes to an image topic between `start` and `stop`, and passes the messages on.

    With the transport `compressed`, the topic depends on the publishers: it is selected again
    until an image arrives, and while the selected topic has no publisher.

    :param node: the node that subscribes.
    :param topic: relative name of the image topic.
    :param transport: a key of MESSAGE_TYPES.
    :param reliability: `auto`, `reliable` or `best_effort`.
    :param healths: health of each camera whose view is in the images; each counts them.
    :param receive: called with each serialized message and its age in nanoseconds.
    :param check_soon: called when the publishers have changed and `check` has to run.
    """

    def __init__(
        self,
        node: Node,
        topic: str,
        transport: str,
        reliability: str,
        healths: Sequence[Health],
        receive: Callable[[bytes, int], None],
        check_soon: Callable[[], None],
    ) -> None:
        """Store the arguments; nothing is subscribed to yet."""
        self._node = node
        self._topic = topic
        self._chosen = topic
        self._has_received = False
        self._transport = transport
        self._choice = reliability
        self.healths = healths
        """Health of each camera whose view is in the images; the first one is used for logs."""
        self._receive = receive
        self._check_soon = check_soon
        self._lock = threading.Lock()  # transitions and checks run in different threads
        self._subscription: Subscription | None = None
        self._last_sequence: int | None = None
        self._publishers_seen = 0
        self._publisher_ids: set[bytes] = set()
        self._backward: deque[bool] = deque(maxlen=_MIX_WINDOW)

    @property
    def resolved_topic(self) -> str:
        """The full name of the topic after remapping."""
        return self._node.resolve_topic_name(self._chosen)

    def start(self) -> None:
        """Subscribe."""
        with self._lock:
            self._chosen = choose_topic(self._node, self._topic, self._transport)
            self._subscribe(reliable=self._choice == 'reliable')
        self.check()

    def stop(self) -> None:
        """Unsubscribe."""
        with self._lock:
            if self._subscription is not None:
                self._node.destroy_subscription(self._subscription)
            self._subscription = self._last_sequence = None

    def check(self) -> None:
        """Adapt topic and reliability to the publishers, and report incompatible publishers."""
        with self._lock:
            if self._subscription is None:
                return
            self._choose_again()
            right, wrong = self._publishers()
            self._publishers_seen = len(right)
            known = self._publisher_ids
            self._publisher_ids = {bytes(info.endpoint_gid) for info in right}
            if self._publisher_ids - known:
                for health in self.healths:
                    health.record_publisher(time.monotonic_ns())
            self._report_several(right)
            for type_name in sorted({info.topic_type for info in wrong}):
                self._report_wrong_type(type_name)
            if self._choice != 'auto' or not right:
                return
            offers = [info.qos_profile.reliability for info in right]
            reliable = all(offer == ReliabilityPolicy.RELIABLE for offer in offers)
            if reliable != self._is_reliable():
                self._node.destroy_subscription(self._subscription)
                self._subscribe(reliable)

    def explain_silence(self) -> Reason:
        """
        Explain why no image arrives.

        :return: the reason, which names the topic.
        """
        right, wrong = self._publishers()
        name = f'topic {self.resolved_topic!r}'
        if not right:
            of_type = f' of {TYPE_NAMES[self._transport]}' if wrong else ''
            others = describe_others(self._node, self._topic, self._transport)
            remedy = f', but {others}' if others else ': start the camera, or remap the topic'
            return Reason(ReasonCode.NO_PUBLISHER, f'{name} has no publisher{of_type}{remedy}')
        offers = ', '.join(
            f'{_name_of(info)} offers '
            f'{info.qos_profile.reliability.name.lower()} '
            f'{info.qos_profile.durability.name.lower()}'
            for info in right
        )
        requested = 'reliable' if self._is_reliable() else 'best_effort'
        text = (
            f'{name} has a publisher, but nothing arrives ({offers}; this node '
            f'requests {requested}): check QoS with `ros2 topic info -v`, and whether the camera '
            'is running'
        )
        return Reason(ReasonCode.NOTHING_RECEIVED, text)

    def _choose_again(self) -> None:
        """Switch to the topic that has images, if none arrive on the current topic."""
        node, transport = self._node, self._transport
        if transport != COMPRESSED:
            return
        if self._has_received and is_published(node, self._chosen, transport):
            return
        wanted = choose_topic(node, self._topic, transport)
        if wanted != self._chosen and is_published(node, wanted, transport):
            reliable = self._is_reliable()
            node.destroy_subscription(self._subscription)
            self._chosen = wanted
            self._backward.clear()
            self._subscribe(reliable)

    def _subscribe(self, reliable: bool) -> None:
        profile = QoSProfile(
            depth=_DEPTH,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        )
        self._last_sequence = None
        self._has_received = False
        self._subscription = subscribe(
            self._node,
            MESSAGE_TYPES[self._transport],
            self._chosen,
            self._on_image,
            profile,
            events={
                'matched': lambda event: self._check_soon(),
                'message_lost': self._on_lost,
                'incompatible_qos': self._on_incompatible,
            },
            # A new group each time: if a subscription is destroyed while the executor handles it,
            # its group stays locked. The node's default group also keeps destroyed subscriptions.
            callback_group=MutuallyExclusiveCallbackGroup(),
            qos_overriding_options=QoSOverridingOptions(INPUT_POLICIES),
            raw=True,
        )
        reliability = 'reliable' if reliable else 'best effort'
        self._node.get_logger().info(f'subscribed to {self.resolved_topic!r}, {reliability}')

    def _on_image(self, cdr: bytes, info: Mapping[str, Any]) -> None:
        received_ns = info.get('received_timestamp') or 0
        sent_ns = info.get('source_timestamp') or 0
        transport_ms = (received_ns - sent_ns) / 1e6 if received_ns and sent_ns else None
        self._has_received = True
        for health in self.healths:
            health.record_arrival(time.monotonic_ns(), transport_ms)
        self._follow(info.get('publication_sequence_number'))
        age_ns = time.time_ns() - received_ns if received_ns else 0
        self._receive(cdr, max(0, age_ns))

    def _follow(self, sequence: int | None) -> None:
        """Count gaps in the sequence numbers, and detect several publishers."""
        if sequence is None:  # without numbers, the publisher is unknown
            several = Reason(ReasonCode.TWO_CAMERAS, 'there are several publishers')
            self._record_ambiguity(several if self._publishers_seen > 1 else None)
            return
        last, self._last_sequence = self._last_sequence, sequence
        self._backward.append(last is not None and sequence <= last)
        # The numbers of a restarted camera go back once; those of two cameras repeatedly.
        mixed = Reason(ReasonCode.TWO_CAMERAS, 'images of several publishers alternate')
        self._record_ambiguity(mixed if sum(self._backward) > 1 else None)
        if last is not None and sequence > last + 1 and self._publishers_seen == 1:
            self._count('missing', sequence - last - 1)

    def _record_ambiguity(self, reason: Reason | None) -> None:
        for health in self.healths:
            health.record_ambiguity(reason)

    def _count(self, name: str, number: int) -> None:
        for health in self.healths:
            health.count(name, number)

    def _on_lost(self, event: Any) -> None:
        """Count lost images, and log once how to configure the camera driver."""
        self._count('lost', event.total_count_change)
        if self.healths[0].first_time('lost'):
            advice = advice_to_sender(get_rmw_implementation_identifier(), os.environ)
            self._node.get_logger().warning(
                f'images of {self.resolved_topic!r} are lost in transport: {advice} '
                '(reported once; all are counted in /diagnostics)'
            )

    def _on_incompatible(self, event: Any) -> None:
        if self.healths[0].first_time(f'incompatible {self._is_reliable()}'):
            self._node.get_logger().warning(
                f'a publisher of {self.resolved_topic!r} offers a QoS that is incompatible with '
                f'this node (policy {event.last_policy_kind.name}): its images do not arrive; set '
                'reliability to auto or best_effort, or use the qos_overrides parameters'
            )
        self._check_soon()

    def _report_several(self, publishers: list[TopicEndpointInfo]) -> None:
        names = sorted(f'{p.node_namespace.rstrip("/")}/{p.node_name}' for p in publishers)
        text = f'{len(names)} publishers on {self.resolved_topic!r}: {", ".join(names)}'
        if len(names) > 1 and self.healths[0].first_time(text):
            self._node.get_logger().warning(f'{text}; stop or remap all but one')

    def _report_wrong_type(self, type_name: str) -> None:
        if self.healths[0].first_time(f'type {type_name}'):
            self._node.get_logger().warning(
                f'{self.resolved_topic!r} is published as {type_name}, this node reads '
                f'{TYPE_NAMES[self._transport]}: {remedy_for_type(type_name, self._transport)}'
            )

    def _is_reliable(self) -> bool:
        subscription = self._subscription
        return (
            subscription is not None
            and subscription.qos_profile.reliability == ReliabilityPolicy.RELIABLE
        )

    def _publishers(self) -> tuple[list[TopicEndpointInfo], list[TopicEndpointInfo]]:
        """Return the publishers of the subscribed type, and those of other types."""
        infos = self._node.get_publishers_info_by_topic(self._chosen)
        wanted = TYPE_NAMES[self._transport]
        right = [info for info in infos if info.topic_type == wanted]
        return right, [info for info in infos if info.topic_type != wanted]


def _name_of(info: TopicEndpointInfo) -> str:
    if 'UNKNOWN' in info.node_name:  # discovered before its node
        return 'a node'
    return f'{info.node_namespace.rstrip("/")}/{info.node_name}'
