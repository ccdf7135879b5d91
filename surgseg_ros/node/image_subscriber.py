# SPDX-License-Identifier: Apache-2.0
"""Subscribes to a camera's images, whatever transport they come by."""

import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
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
from surgseg_ros.node.compatibility import subscribe
from surgseg_ros.node.dds_profile import advice_to_sender
from surgseg_ros.node.health import Health

RAW: Final = 'raw'
COMPRESSED: Final = 'compressed'

MESSAGE_TYPES: Final = {RAW: Image, COMPRESSED: CompressedImage}
TYPE_NAMES: Final = {
    RAW: 'sensor_msgs/msg/Image',
    COMPRESSED: 'sensor_msgs/msg/CompressedImage',
}

_SUFFIX: Final = '/compressed'
"""What image_transport's compressed transport appends to the name of the images' topic."""

_IMAGE_TYPES: Final = re.compile('Image|Packet|Video')
"""In the types of transports: CompressedImage (zstd), Packet (theora), FFMPEGPacket and so on."""


def possible_topics(node: Node, topic: str, transport: str) -> tuple[str, ...]:
    """
    List the topics that can be subscribed to; image_transport too remaps the base name first.

    :param node: whose names and remappings count.
    :param topic: the images' topic, as the node's parameters have it.
    :param transport: RAW or COMPRESSED.
    :return: `topic` itself with RAW. With COMPRESSED a name that ends in `/compressed` as it is;
        else what `topic`/compressed was remapped to; else both `topic`, which itself may be
        published as CompressedImage, as the dVRK does, and the name with `/compressed`.
    """
    base, beside = node.resolve_topic_name(topic), topic + _SUFFIX
    if transport != COMPRESSED or base.endswith(_SUFFIX):
        return (topic,)
    if node.resolve_topic_name(beside) != node.resolve_topic_name(beside, only_expand=True):
        return (beside,)
    return (topic, base + _SUFFIX)


def choose_topic(node: Node, topic: str, transport: str) -> str:
    """
    Find the topic to subscribe to.

    :param node: through which discovery is asked.
    :param topic: the images' topic, as the node's parameters have it.
    :param transport: RAW or COMPRESSED.
    :return: the first of `possible_topics` if it is the only one, or carries compressed images;
        else the other.
    """
    first, *others = possible_topics(node, topic, transport)
    return others[0] if others and not is_published(node, first, COMPRESSED) else first


def is_published(node: Node, topic: str, transport: str) -> bool:
    """
    Tell whether a topic has a publisher of a transport's type.

    :param node: through which discovery is asked.
    :param topic: the topic; remappings apply.
    :param transport: RAW or COMPRESSED.
    :return: whether it has.
    """
    infos = node.get_publishers_info_by_topic(topic)
    return any(info.topic_type == TYPE_NAMES[transport] for info in infos)


def describe_others(node: Node, topic: str, transport: str) -> str:
    """
    Say which images are published that this node does not read, and what to do about each.

    :param node: through which discovery is asked.
    :param topic: the images' topic, as the node's parameters have it.
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
    Say what to do where the topic that is subscribed to is published as another type.

    :param type_name: as which it is published.
    :param transport: the one in use, RAW or COMPRESSED.
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
            f'this node does not read the transport {kind!r}: let the camera driver publish raw '
            f'or compressed images, or run `ros2 run image_transport republish`'
        )
    steps = [] if found == transport else [f'set image_transport to {found}']
    reached = name == base or (found == COMPRESSED and name == base + _SUFFIX)
    steps += [] if reached else [f'name the topic {name!r}']
    return ' and '.join(steps) or 'wait until this node has changed to it'


_DEPTH: Final = 5
"""With 1, large reliable messages were seen lost that nobody had time to read."""

_MIX_WINDOW: Final = 30
"""Images over which publishers are seen to alternate: a second at 30 Hz."""

# Reliability is not among them: an override would pin the first choice.
INPUT_POLICIES: Final = (QoSPolicyKind.DEPTH, QoSPolicyKind.HISTORY, QoSPolicyKind.DURABILITY)
"""Of the image subscription, that can be overridden."""


class ImageSubscriber:
    """
    Subscribes to an image topic while started, and hands on what comes.

    With the transport `compressed`, which topic that is depends on what is published: it is
    chosen again as long as nothing has come, or while what was chosen has no publisher.

    :param node: whose subscription it is.
    :param topic: relative name of the image topic.
    :param transport: a key of MESSAGE_TYPES.
    :param reliability: `auto`, `reliable` or `best_effort`.
    :param health: where to count.
    :param receive: gets each serialized message and its age in nanoseconds.
    :param check_soon: called when the publishers have changed, so that `check` is due.
    """

    def __init__(
        self,
        node: Node,
        topic: str,
        transport: str,
        reliability: str,
        health: Health,
        receive: Callable[[bytes, int], None],
        check_soon: Callable[[], None],
    ) -> None:
        """Keep what is needed; nothing is subscribed to yet."""
        self._node = node
        self._topic = topic
        self._chosen = topic
        self._heard = False
        self._transport = transport
        self._choice = reliability
        self._health = health
        self._receive = receive
        self._check_soon = check_soon
        self._lock = threading.Lock()  # transitions and upkeep come from different threads
        self._subscription: Subscription | None = None
        self._last_sequence: int | None = None
        self._publishers_seen = 0
        self._publisher_ids: set[bytes] = set()
        self._backward: deque[bool] = deque(maxlen=_MIX_WINDOW)

    @property
    def resolved_topic(self) -> str:
        """The topic's full name after remapping."""
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
        """Hold topic and reliability against what is published, and follow the publishers."""
        with self._lock:
            if self._subscription is None:
                return
            self._choose_anew()
            right, wrong = self._publishers()
            self._publishers_seen = len(right)
            known = self._publisher_ids
            self._publisher_ids = {bytes(info.endpoint_gid) for info in right}
            if self._publisher_ids - known:
                self._health.record_publisher(time.monotonic_ns())
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
        Say why no image may come.

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
        asked = 'reliable' if self._is_reliable() else 'best_effort'
        text = (
            f'{name} has a publisher, but nothing arrives ({offers}; this node asks for {asked}): '
            'check QoS with `ros2 topic info -v`, and whether the camera runs'
        )
        return Reason(ReasonCode.NOTHING_RECEIVED, text)

    def _choose_anew(self) -> None:
        """Change to the topic on which images are published, where none come by the present."""
        node, transport = self._node, self._transport
        if transport != COMPRESSED:
            return
        if self._heard and is_published(node, self._chosen, transport):
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
        self._heard = False
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
            # A new one each time: destroyed in the executor's hands, a subscription leaves its
            # group locked for ever. The node's default group would also keep what was destroyed.
            callback_group=MutuallyExclusiveCallbackGroup(),
            qos_overriding_options=QoSOverridingOptions(INPUT_POLICIES),
            raw=True,
        )
        word = 'reliable' if reliable else 'best effort'
        self._node.get_logger().info(f'subscribed to {self.resolved_topic!r}, {word}')

    def _on_image(self, cdr: bytes, info: Mapping[str, Any]) -> None:
        received_ns = info.get('received_timestamp') or 0
        sent_ns = info.get('source_timestamp') or 0
        way_ms = (received_ns - sent_ns) / 1e6 if received_ns and sent_ns else None
        self._heard = True
        self._health.record_arrival(time.monotonic_ns(), way_ms)
        self._follow(info.get('publication_sequence_number'))
        age_ns = time.time_ns() - received_ns if received_ns else 0
        self._receive(cdr, max(0, age_ns))

    def _follow(self, sequence: int | None) -> None:
        """Count gaps in the publisher's numbering, and see whether several publishers mix."""
        if sequence is None:  # the middleware does not number: any of several may have sent it
            several = Reason(ReasonCode.TWO_CAMERAS, 'there are several publishers')
            self._health.record_ambiguity(several if self._publishers_seen > 1 else None)
            return
        last, self._last_sequence = self._last_sequence, sequence
        self._backward.append(last is not None and sequence <= last)
        # A camera that is started again steps back once; two that alternate do again and again.
        mixed = Reason(ReasonCode.TWO_CAMERAS, 'images of several publishers alternate')
        self._health.record_ambiguity(mixed if sum(self._backward) > 1 else None)
        if last is not None and sequence > last + 1 and self._publishers_seen == 1:
            self._health.count('missing', sequence - last - 1)

    def _on_lost(self, event: Any) -> None:
        """Count, and say once what to set at the camera: it is started by others."""
        self._health.count('lost', event.total_count_change)
        if self._health.first_time('lost'):
            advice = advice_to_sender(get_rmw_implementation_identifier(), os.environ)
            self._node.get_logger().warning(
                f'images of {self.resolved_topic!r} are lost on their way here: {advice} '
                '(reported once; all are counted in /diagnostics)'
            )

    def _on_incompatible(self, event: Any) -> None:
        if self._health.first_time(f'incompatible {self._is_reliable()}'):
            self._node.get_logger().warning(
                f'a publisher of {self.resolved_topic!r} offers a QoS that this node cannot take '
                f'(policy {event.last_policy_kind.name}): its images do not arrive; set '
                'reliability to auto or best_effort, or the qos_overrides parameters'
            )
        self._check_soon()

    def _report_several(self, publishers: list[TopicEndpointInfo]) -> None:
        names = sorted(f'{p.node_namespace.rstrip("/")}/{p.node_name}' for p in publishers)
        text = f'{len(names)} publishers on {self.resolved_topic!r}: {", ".join(names)}'
        if len(names) > 1 and self._health.first_time(text):
            self._node.get_logger().warning(f'{text}; stop or remap all but one')

    def _report_wrong_type(self, type_name: str) -> None:
        if self._health.first_time(f'type {type_name}'):
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
        """Find the publishers of the type that is read, and those of other types."""
        infos = self._node.get_publishers_info_by_topic(self._chosen)
        wanted = TYPE_NAMES[self._transport]
        right = [info for info in infos if info.topic_type == wanted]
        return right, [info for info in infos if info.topic_type != wanted]


def _name_of(info: TopicEndpointInfo) -> str:
    if 'UNKNOWN' in info.node_name:  # discovered before its node was
        return 'a node'
    return f'{info.node_namespace.rstrip("/")}/{info.node_name}'
