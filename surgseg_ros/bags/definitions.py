# SPDX-License-Identifier: Apache-2.0
"""Parses the records of MCAP files that describe messages: schemas, channels and the summary."""

from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

from surgseg_ros.bags.connections import (
    Connection,
    describe_foreign,
    offers_transient_local,
    ros_type_name,
)
from surgseg_ros.bags.records import CHANNEL, SCHEMA

TYPE_HASH_KEY: Final = 'topic_type_hash'
"""Key of a type's hash in rosbag2's channel metadata."""

QOS_KEY: Final = 'offered_qos_profiles'
"""Key of the publishers' QoS profiles in rosbag2's channel metadata."""


class Fields:
    """
    Reads the fields of a record, one after another.

    :param content: content of the record.
    """

    def __init__(self, content: bytes | memoryview) -> None:
        """Start at the first field."""
        self._rest = memoryview(content)

    def number(self, size: int) -> int:
        """
        Read an integer.

        :param size: number of its bytes.
        :return: the integer.
        :raises ValueError: if the record is too short.
        """
        return int.from_bytes(self._take(size), 'little')

    def text(self) -> str:
        """
        Read a string.

        :return: the string.
        :raises ValueError: if the record is too short, or the string is not UTF-8.
        """
        return str(self.block(), 'utf-8')

    def block(self) -> memoryview:
        """
        Read bytes that are preceded by their length.

        :return: the bytes.
        :raises ValueError: if the record is too short.
        """
        return self._take(self.number(4))

    def counts(self, size: int) -> dict[int, int]:
        """
        Read a map from channels to numbers.

        :param size: bytes of each number.
        :return: numbers by channel id.
        :raises ValueError: if the record is too short.
        """
        block = self.block()
        pairs = Fields(block)
        return {pairs.number(2): pairs.number(size) for _ in range(len(block) // (2 + size))}

    def _take(self, size: int) -> memoryview:
        if size > len(self._rest):
            raise ValueError('a record is shorter than its fields')
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken


class ChunkIndex(NamedTuple):
    """
    The entry of a chunk in the summary.

    :param start_time_ns: time of receipt of its earliest message.
    :param place: position of the chunk's record in the file.
    :param counts: number of messages by channel id; empty if the chunk has no
        message index.
    :param compression: compression of its messages.
    """

    start_time_ns: int
    place: int
    counts: Mapping[int, int]
    compression: str


class Statistics(NamedTuple):
    """
    The counts in the summary.

    :param messages: number of messages in the file.
    :param counts: number of messages by channel id; may be empty although there are messages.
    """

    messages: int
    counts: Mapping[int, int]


class _Channel(NamedTuple):
    schema: int
    topic: str
    encoding: str
    metadata: Mapping[str, str]


class Definitions:
    """The schemas and channels of an MCAP file, whose records may be in any order."""

    def __init__(self) -> None:
        """Start without definitions."""
        self._schemas: dict[int, tuple[str, str]] = {}
        self._channels: dict[int, _Channel] = {}

    def note(self, opcode: int, content: memoryview) -> None:
        """
        Add the definition in a record; the first definition of an id is used.

        :param opcode: opcode of the record; records of other kinds are skipped.
        :param content: content of the record.
        :raises ValueError: if it is malformed.
        """
        fields = Fields(content)
        if opcode == SCHEMA:
            key, name, encoding = fields.number(2), fields.text(), fields.text()
            self._schemas.setdefault(key, (name, encoding))
        elif opcode == CHANNEL:
            key = fields.number(2)
            channel = _Channel(
                fields.number(2), fields.text(), fields.text(), read_pairs(fields.block())
            )
            self._channels.setdefault(key, channel)

    def lacks(self, keys: Collection[int]) -> set[int]:
        """
        Return the channels that are not defined yet.

        :param keys: ids of channels.
        :return: ids whose channel or schema is unknown.
        """
        return {key for key in keys if not self._is_defined(key)}

    def connections(self, counts: Mapping[int, int]) -> list[Connection]:
        """
        Return the connections of all channels whose schema is known.

        :param counts: number of messages by channel id.
        :return: the connections.
        """
        return [
            self._connection(key, counts.get(key, 0))
            for key in self._channels
            if self._is_defined(key)
        ]

    def _is_defined(self, key: int) -> bool:
        channel = self._channels.get(key)
        return channel is not None and (not channel.schema or channel.schema in self._schemas)

    def _connection(self, key: int, count: int) -> Connection:
        channel = self._channels[key]
        name, encoding = self._schemas[channel.schema] if channel.schema else ('', '')
        return Connection(
            key,
            channel.topic,
            ros_type_name(name),
            count,
            channel.metadata.get(TYPE_HASH_KEY, ''),
            offers_transient_local(channel.metadata.get(QOS_KEY)),
            describe_foreign(channel.encoding, encoding, name),
        )


def read_pairs(content: memoryview) -> dict[str, str]:
    """
    Read a map of strings.

    :param content: content of a channel's metadata.
    :return: the map; characters that are not UTF-8 are replaced.
    :raises ValueError: if it is malformed.
    """
    found, fields, left = {}, Fields(content), len(content)
    while left:
        key, value = fields.block(), fields.block()
        found[str(key, 'utf-8', 'replace')] = str(value, 'utf-8', 'replace')
        left -= 4 + len(key) + 4 + len(value)
    return found


def read_chunk_index(content: memoryview) -> ChunkIndex:
    """
    Read a chunk's entry in the summary.

    :param content: content of the record.
    :return: the entry.
    :raises ValueError: if it is malformed.
    """
    fields = Fields(content)
    start_time_ns, _, place, length = (fields.number(8) for _ in range(4))
    offsets = sorted((at, key) for key, at in fields.counts(8).items())
    end = place + length + fields.number(8)
    ends = [at for at, _ in offsets[1:]] + [end]
    # Each message index has a header of 9 bytes, an id, a length, and 16 bytes per message.
    counts = {key: max(0, end - at - 15) // 16 for (at, key), end in zip(offsets, ends)}
    return ChunkIndex(start_time_ns, place, counts, fields.text())


def read_statistics(content: memoryview) -> Statistics:
    """
    Read the counts in the summary.

    :param content: content of the record.
    :return: the counts.
    :raises ValueError: if it is malformed.
    """
    fields = Fields(content)
    messages = fields.number(8)
    for size in (2, 4, 4, 4, 4, 8, 8):  # numbers of schemas, channels and so on, and two times
        fields.number(size)
    return Statistics(messages, fields.counts(8))
