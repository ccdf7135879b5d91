# SPDX-License-Identifier: Apache-2.0
"""Reads bags of ROS 2, without ROS."""

import heapq
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple

from surgseg_ros.bags.definitions import Connection, DamagedError, Received
from surgseg_ros.bags.records import MAGIC, unpack, zstd
from surgseg_ros.bags.sources import BagError, Opened, describe_loss, open_sources
from surgseg_ros.core.errors import did_you_mean
from surgseg_ros.messages.serialization import TYPES

_NOTHING: Final = Opened([], None, [], [])

__all__ = ['Bag', 'BagError', 'Topic']


class Topic(NamedTuple):
    """
    A topic of a bag.

    :param type_name: `sensor_msgs/msg/Image` for example.
    :param message_count: number of messages.
    """

    type_name: str
    message_count: int


class Bag:
    """
    A bag, open within the `with` block; memory does not grow with its length.

    :param path: a folder as `ros2 bag record` writes it, with metadata.yaml or without, or one
        .mcap or .db3 file, also compressed as .mcap.zstd or .db3.zstd.
    :raises BagError: on entering, if there is no bag or it is empty.

    While the bag is open, `topics` has the topics of the files, `foreign` describes messages on
    them that are not from ROS 2, and `damage` lists problems of the files as sentences; it is
    empty if the bag is complete.
    """

    def __init__(self, path: Path | str) -> None:
        """Remember the path; nothing is opened yet."""
        self.path = Path(path)
        self.topics: dict[str, Topic] = {}
        self.foreign: dict[str, str] = {}
        self.damage: list[str] = []
        self._opened = _NOTHING
        self._stack = ExitStack()

    def __enter__(self) -> 'Bag':
        """Open the bag's files and find the topics."""
        with ExitStack() as stack:
            self._opened = open_sources(self.path, stack)
            self.topics = {x.topic: self._topic(x.topic) for x in self._connections()}
            self.foreign = {
                x.topic: x.foreign
                for source in self._opened.sources
                for x in source.connections
                if x.foreign and x.message_count
            }
            metadata = self._opened.metadata
            listed = {*self.topics, *(metadata.counts if metadata else ())}
            self.damage = self._loss(listed - (self.foreign.keys() - self.topics.keys()))
            if not any(topic.message_count for topic in self.topics.values()):
                raise BagError(f'bag {str(self.path)!r} {self._why_empty()}')
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Close the bag's files."""
        self._opened = _NOTHING
        self._stack.close()

    def messages(self, topics: Collection[str] | None = None) -> Iterator[tuple[str, int, bytes]]:
        """
        Iterate over the messages in the order of their receipt, serialized as they are.

        A file that is truncated, or has no index, is read in file order.
        Messages that rosbag2 compressed one by one are decompressed.

        :param topics: names of topics; all topics if None.
        :return: (topic, time of receipt in nanoseconds, CDR) of each message.
        :raises BagError: at once if a topic is absent; after the last complete message if the bag
            is truncated or lacks messages that it lists.
        """
        wanted = set(self.topics if topics is None else topics)
        for name in sorted(wanted - set(self.topics)):
            if name in self.foreign:
                text = f'topic {name!r} of bag {str(self.path)!r} holds {self.foreign[name]}'
                raise BagError(text)
            present = ', '.join(f'{x} ({topic.type_name})' for x, topic in self.topics.items())
            near = did_you_mean(name, self.topics)
            text = f'topic {name!r} is not in bag {str(self.path)!r}{near}, which has {present}'
            raise BagError('; '.join([text, *self.damage]))
        return self._counted(wanted)

    def read(self, topics: Collection[str] | None = None) -> Iterator[tuple[str, int, Any]]:
        """
        Iterate over the messages in the order of their receipt, each as an object.

        :param topics: names of topics; all topics if None.
        :return: (topic, time of receipt in nanoseconds, message of one of TYPES) for each message.
        :raises BagError: as `messages` does; at once if a type is unknown, or is defined
            differently in the bag; later if a message does not match its type.
        """
        received = self.messages(topics)
        self._check_types(self.topics if topics is None else topics)
        return ((topic, time_ns, self._message(topic, cdr)) for topic, time_ns, cdr in received)

    def is_latched(self, topic: str) -> bool:
        """
        Check whether the publishers of a topic kept messages for late subscribers.

        :param topic: name of the topic.
        :return: whether all of them offered transient local durability.
        """
        latched = {x.is_latched for x in self._connections() if x.topic == topic}
        return latched - {None} == {True}

    def _loss(self, topics: Collection[str]) -> list[str]:
        counts = Counter({name: x.message_count for name, x in self.topics.items()})
        return describe_loss(self._opened, counts, topics)

    def _why_empty(self) -> str:
        """Explain why there are no messages to read."""
        if self.foreign:
            return f'holds {" and ".join(dict.fromkeys(self.foreign.values()))}'
        return f'holds no message: {"; ".join(self.damage or ["nothing was recorded"])}'

    def _connections(self) -> list[Connection]:
        """List the publishers of ROS 2 messages."""
        return [
            connection
            for source in self._opened.sources
            for connection in source.connections
            if not connection.foreign
        ]

    def _topic(self, name: str) -> Topic:
        """Sum up a topic over files and publishers."""
        connections = [x for x in self._connections() if x.topic == name]
        types = sorted({x.type_name for x in connections})
        return Topic(' and '.join(types), sum(x.message_count for x in connections))

    def _counted(self, wanted: set[str]) -> Iterator[tuple[str, int, bytes]]:
        """Iterate over the messages, and raise at the end if some are missing."""
        missing = Counter({name: self.topics[name].message_count for name in wanted})
        broken: list[str] = []
        for topic, time_ns, cdr in self._merged(wanted, broken):
            missing[topic] -= 1
            yield topic, time_ns, cdr
        damage = self._loss(wanted) + broken
        damage += [f'{n} messages of {name!r} are missing' for name, n in missing.items() if n > 0]
        for name in sorted(wanted & self.foreign.keys()):
            damage.append(f'topic {name!r} also holds {self.foreign[name]}')
        if damage:
            text = f'bag {str(self.path)!r} is damaged: {"; ".join(damage)}'
            raise BagError(f'{text}. Everything else was read')

    def _merged(self, wanted: set[str], broken: list[str]) -> Iterator[tuple[str, int, bytes]]:
        """Iterate over all files by time; record those that end early, and continue."""
        streams = []
        for source in self._opened.sources:
            readable = [x for x in source.connections if not x.foreign]
            if connections := [x for x in readable if x.topic in wanted]:
                streams.append(_readable_part(source.messages(connections), broken))
        return heapq.merge(*streams, key=lambda item: item[1])

    def _check_types(self, topics: Collection[str]) -> None:
        for connection in self._connections():
            if connection.topic not in topics:
                continue
            name = connection.type_name
            if name not in TYPES.fielddefs:
                text = f'type {name!r} of topic {connection.topic!r} is unknown'
                raise BagError(f'{text}: choose other topics')
            own_hash = TYPES.hash_rihs01(name)
            listed = self._opened.metadata.hashes if self._opened.metadata else {}
            bag_hash = connection.digest or listed.get(connection.topic, '')
            if bag_hash.startswith('RIHS01_') and bag_hash != own_hash:
                text = f'type {name!r} of topic {connection.topic!r} has the hash {bag_hash}'
                raise BagError(f'{text} in the bag and {own_hash} here: choose other topics')

    def _message(self, topic: str, cdr: bytes) -> Any:
        type_name = self.topics[topic].type_name
        try:
            return TYPES.deserialize_cdr(cdr, type_name)
        except Exception as error:  # the readers generated by rosbags raise many types
            text = f'a message of topic {topic!r} is not a {type_name}: {error}'
            raise BagError(f'{text} (bag {str(self.path)!r})') from error


def _unpacked(data: bytes) -> bytes:
    """Decompress a message that was compressed individually, which only its first bytes show."""
    return unpack(data) if data.startswith(MAGIC) else data


def _readable_part(
    messages: Iterable[Received], broken: list[str]
) -> Iterator[tuple[str, int, bytes]]:
    """Yield the readable messages of a file, and record which cannot be read."""
    unreadable = []
    try:
        for connection, time_ns, data in messages:
            try:
                cdr = _unpacked(bytes(data))
            except zstd.ZstdError as error:
                unreadable.append(str(error))
                continue
            yield connection.topic, time_ns, cdr
    except MemoryError:  # not an error of the file
        raise
    except DamagedError as error:
        broken.append(str(error))
    except Exception as error:  # several libraries raise many types of errors
        broken.append(f'a file cannot be read further: {error}')
    if unreadable:
        broken.append(f'{len(unreadable)} messages cannot be decompressed: {unreadable[0]}')
