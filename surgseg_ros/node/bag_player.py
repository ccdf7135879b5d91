# SPDX-License-Identifier: Apache-2.0
"""Publishes the messages of a bag with their timing, and the time of the bag on /clock."""

import importlib
import math
import threading
import time
from collections.abc import Collection
from typing import Any, Final

from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile

from surgseg_ros.bags.reading import Bag, BagError
from surgseg_ros.messages.serialization import COMPRESSED_IMAGE, IMAGE

DEPTH: Final = 5  # with less, large images are lost on the way to a reliable subscriber
MATCH_POLL_S: Final = 0.02
ACKNOWLEDGE_POLL_S: Final = 0.1
ACKNOWLEDGE_TIMEOUT_S: Final = 10.0
FIRST_TIMEOUT_S: Final = 2.0


class Clock:
    """
    Publishes the time of the bag on /clock.

    :param node: the node that publishes.
    :param frequency_hz: minimum publications per second of real time.
    """

    def __init__(self, node: Node, frequency_hz: float) -> None:
        self._message = importlib.import_module('rosgraph_msgs.msg').Clock()
        self._publisher = node.create_publisher(type(self._message), '/clock', DEPTH)
        self._period_s = 1.0 / frequency_hz
        self.next_s = -math.inf

    def publish(self, time_ns: int) -> None:
        """
        Publish a time.

        :param time_ns: time of the bag in nanoseconds.
        """
        stamp = self._message.clock
        stamp.sec, stamp.nanosec = divmod(time_ns, 10**9)
        self._publisher.publish(self._message)
        self.next_s = time.monotonic() + self._period_s


class Player:
    """
    Publishes the recorded bytes of a bag's messages, with reliable QoS.

    :param node: the node that publishes; it does not have to be spun.
    :param bag: the open bag.
    :param topics: the topics to play; None: all images of the bag.
    :param also: further topics; the bag may lack them, and their subscribers are not awaited.
    :param rate: bag time per real time.
    :param clock_hz: rate of /clock; None: it is not published.
    :raises BagError: if the bag lacks a topic or has no images, or a type is not installed.
    """

    def __init__(
        self,
        node: Node,
        bag: Bag,
        topics: Collection[str] | None = None,
        also: Collection[str] = (),
        *,
        rate: float = 1.0,
        clock_hz: float | None = None,
    ) -> None:
        """Create the publishers, so that subscribers find them before playback."""
        self._bag = bag
        self._rate = rate
        self._clock = Clock(node, clock_hz) if clock_hz else None
        names = image_topics(bag) if topics is None else topics
        bag.messages(names)  # raises if a topic is missing
        self._awaited = frozenset(names)
        names = [*names, *(name for name in also if name in bag.topics and name not in names)]
        self._publishers = {name: _publisher(node, bag, name) for name in names}
        self.topic_names = [publisher.topic_name for publisher in self._publishers.values()]
        self.counts = dict.fromkeys(self._publishers, 0)
        self._untried: set[str] = set()  # topics without an acknowledged message
        self.late_s: list[float] = [0.0, 0.0]  # sum, maximum

    def wait_for_subscribers(
        self, stop: threading.Event, timeout_s: float = math.inf
    ) -> list[str]:
        """
        Wait until every topic has a subscriber, except for topics in `also`.

        Both sides run DDS discovery separately, and a subscriber may discover the publisher later:
        it then gets earlier messages only from the history, which is short. So `play` waits until
        the first message of each topic is acknowledged.

        :param stop: ends the wait.
        :param timeout_s: ends the wait, too.
        :return: the topics without a subscriber, by their published names.
        """
        self._untried = set(self._publishers)
        end_s = time.monotonic() + timeout_s
        while True:
            publishers = [self._publishers[name] for name in self._awaited]
            missing = [x.topic_name for x in publishers if not x.get_subscription_count()]
            if not missing or time.monotonic() > end_s or stop.wait(MATCH_POLL_S):
                return missing

    def play(self, stop: threading.Event, *, loop: bool = False) -> None:
        """
        Publish the messages, each at its time.

        :param stop: ends playback.
        :param loop: start again after the last message, one mean interval later.
        :raises BagError: after the last complete message of a truncated bag.
        """
        start_s = self._play_once(time.monotonic(), stop)
        while loop and not stop.is_set():
            start_s = self._play_once(start_s, stop)

    def wait_until_acknowledged(self, stop: threading.Event) -> bool:
        """
        Wait until the reliable subscribers have received everything.

        :param stop: ends the wait.
        :return: whether they have.
        """
        end_s = time.monotonic() + ACKNOWLEDGE_TIMEOUT_S
        return all(_is_acknowledged(x, stop, end_s) for x in self._publishers.values())

    def subscriber_counts(self) -> dict[str, int]:
        """
        Count the subscribers, reliable or not.

        :return: the number of subscribers by published topic name.
        """
        publishers = self._publishers.values()
        return {x.topic_name: x.get_subscription_count() for x in publishers}

    def report(self) -> str:
        """
        Summarize how many messages were published, and their delays.

        :return: one line.
        """
        total = sum(self.counts.values())
        parts = zip(self.topic_names, self.counts.values(), strict=True)
        counts = ', '.join(f'{name} {count}' for name, count in parts)
        mean_ms, max_ms = 1e3 * self.late_s[0] / max(total, 1), 1e3 * self.late_s[1]
        late = f'late by {mean_ms:.1f} ms on average, {max_ms:.1f} ms at most'
        return f'{total} messages published ({counts}), {late}'

    def _play_once(self, start_s: float, stop: threading.Event) -> float:
        """Play once, starting at a monotonic time; return the time at which to play again."""
        first_ns = last_ns = None
        count = 0
        for topic, time_ns, cdr in self._bag.messages(self._publishers):
            first_ns = time_ns if first_ns is None else first_ns
            due_s = start_s + (time_ns - first_ns) / 1e9 / self._rate
            if not self._wait_until(due_s, time_ns, stop):
                return due_s
            self._publishers[topic].publish(cdr)
            self.counts[topic] += 1
            if topic in self._untried:
                start_s += self._try_out(topic, stop)
            last_ns, count = time_ns, count + 1
        if first_ns is None or last_ns is None:
            return start_s + 1.0
        interval_ns = (last_ns - first_ns) / (count - 1) if count > 1 else 1e9
        return start_s + (last_ns - first_ns + interval_ns) / 1e9 / self._rate

    def _try_out(self, topic: str, stop: threading.Event) -> float:
        """Wait until a topic's first message is acknowledged; return the seconds it took."""
        self._untried.discard(topic)
        start_s = time.monotonic()
        _is_acknowledged(self._publishers[topic], stop, start_s + FIRST_TIMEOUT_S)
        return time.monotonic() - start_s

    def _wait_until(self, due_s: float, due_ns: int, stop: threading.Event) -> bool:
        """Publish /clock until a message is due; return False if stopped."""
        while self._clock and self._clock.next_s < due_s:
            if stop.wait(max(0.0, self._clock.next_s - time.monotonic())):
                return False
            until_due_s = max(0.0, due_s - time.monotonic())
            self._clock.publish(max(0, due_ns - int(until_due_s * self._rate * 1e9)))
        if stop.wait(max(0.0, due_s - time.monotonic())):
            return False
        if self._clock:
            self._clock.publish(due_ns)  # otherwise, the stamp of an image could be in the future
        late_s = time.monotonic() - due_s
        self.late_s = [self.late_s[0] + late_s, max(self.late_s[1], late_s)]
        return True


def image_topics(bag: Bag) -> list[str]:
    """
    Find the image topics of a bag.

    :param bag: the open bag.
    :return: the names of the topics of type Image and CompressedImage.
    :raises BagError: if there are none.
    """
    types = (IMAGE, COMPRESSED_IMAGE)
    found = [name for name, topic in bag.topics.items() if topic.type_name in types]
    if not found:
        found_topics = ', '.join(
            f'{name} ({topic.type_name})' for name, topic in bag.topics.items()
        )
        text = f'bag {str(bag.path)!r} has no images but {found_topics}'
        raise BagError(f'{text}: choose some of these with --topics')
    return found


def _is_acknowledged(publisher: Publisher, stop: threading.Event, end_s: float) -> bool:
    """Wait until reliable subscribers have received everything; return whether they have."""
    patience = Duration(nanoseconds=int(ACKNOWLEDGE_POLL_S * 1e9))
    while not stop.is_set() and time.monotonic() < end_s:
        if publisher.wait_for_all_acked(patience):
            return True
    return False


def _publisher(node: Node, bag: Bag, topic: str) -> Publisher:
    """Create a reliable publisher, which matches reliable and best-effort subscribers."""
    qos = QoSProfile(depth=DEPTH)
    if bag.is_latched(topic):
        qos.durability = DurabilityPolicy.TRANSIENT_LOCAL
    return node.create_publisher(_message_class(topic, bag.topics[topic].type_name), topic, qos)


def _message_class(topic: str, type_name: str) -> Any:
    package, _, name = type_name.partition('/msg/')
    try:
        return getattr(importlib.import_module(f'{package}.msg'), name)
    except (ImportError, AttributeError) as error:
        text = f'type {type_name!r} of topic {topic!r} is not installed'
        raise BagError(f'{text}: install {package!r} or leave the topic out') from error
