# SPDX-License-Identifier: Apache-2.0
"""
Connections, which the readers of all storages share, and the records of MCAP that describe them.

A connection is the description of a topic's publisher in the files of a bag: type, encoding, QoS.
MCAP files describe it by schemas and channels.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final, NamedTuple, Protocol

import yaml

_MAX_QOS_CHARACTERS: Final = 2**18
"""Longer QoS profiles are not parsed: one takes 400 characters, and topics rarely have ten."""

_TRANSIENT_LOCAL: Final = ('transient_local', '1')
"""Values for transient local: its name, as in version 9 of the format, and its number in rmw."""

_CDR_SCHEMAS: Final = ('', 'ros2msg', 'ros2idl', 'omgidl')
"""Encodings of schemas that describe CDR, for channels that do not name their own encoding."""

_ROS_1: Final = ('ros1', 'ros1msg')
_ROS_1_TEXT: Final = (
    'messages of ROS 1 (convert with rosbags-convert, from the .bag file that it was made of)'
)
_OTHER_NAMES: Final = {
    'cbor': 'CBOR',
    'flatbuffer': 'FlatBuffers',
    'json': 'JSON',
    'msgpack': 'MessagePack',
    'protobuf': 'Protobuf',
}
_OTHER_REMEDY: Final = (
    'which are not ROS messages (record the topic with `ros2 bag record`, or convert it to CDR)'
)


class Connection(NamedTuple):
    """
    One publisher of a topic, as a file describes it.

    :param id: id by which the messages in the file refer to it.
    :param topic: the topic's name.
    :param type_name: type of the messages, such as `sensor_msgs/msg/Image`.
    :param message_count: number of its messages in the file.
    :param digest: hash of the type's definition; empty if there is none.
    :param is_latched: whether it offered transient local durability; None if unknown.
    :param foreign: a description of its messages if they are not those of ROS 2, else empty.
    """

    id: int
    topic: str
    type_name: str
    message_count: int = 0
    digest: str = ''
    is_latched: bool | None = None
    foreign: str = ''


Received = tuple[Connection, int, bytes]
"""Connection, time of receipt in nanoseconds, CDR."""


class DamagedError(ValueError):
    """A part of a file that cannot be read, though other parts can."""


class UnreadableError(ValueError):
    """A file that may be intact, but has an unsupported format."""


class Source(Protocol):
    """The interface of the readers of bag files."""

    connections: list[Connection]
    """The publishers of the topics, as far as they are recorded."""

    def open(self) -> None:
        """Open the file and find the connections."""

    def messages(self, connections: Collection[Connection]) -> Iterator[Received]:
        """
        Iterate over the messages.

        :raises DamagedError: after the last message, if messages were left out without a report.
        """

    def close(self) -> None:
        """Close the file."""


def ros_type_name(name: str) -> str:
    """
    Convert a type's name to that of ROS 2.

    :param name: as in a file; also as in DDS (`sensor_msgs::msg::dds_::Image_`), in OMG IDL
        (`sensor_msgs::msg::Image`) or without the middle part (`sensor_msgs/Image`).
    :return: for example `sensor_msgs/msg/Image`; other names are returned unchanged.
    """
    if '::' in name:
        name = '/'.join(name.removesuffix('_').replace('::dds_::', '::').split('::'))
    parts = name.split('/')
    return f'{parts[0]}/msg/{parts[1]}' if len(parts) == 2 and all(parts) else name


def describe_foreign(encoding: str, schema: str, type_name: str) -> str:
    """
    Describe messages that cannot be read as ROS 2 messages.

    :param encoding: encoding of the messages; if empty, that of their schema is used.
    :param schema: encoding of the schema; empty if there is none.
    :param type_name: type of the messages; empty if unknown.
    :return: a description and a remedy; empty for CDR of a named type, which ROS 2 writes.
    """
    kind, schema = encoding.strip().lower(), schema.strip().lower()
    if kind in _ROS_1 or (not kind and schema in _ROS_1):
        return _ROS_1_TEXT
    if kind == 'cdr' or (not kind and schema in _CDR_SCHEMAS):
        no_type = 'messages without a schema, whose type is unknown (record them with one)'
        return '' if type_name else no_type
    kind = kind or schema
    named = f' of type {type_name!r}' if type_name else ''
    return f'messages in {_OTHER_NAMES.get(kind, repr(kind))}{named}, {_OTHER_REMEDY}'


def offers_transient_local(profiles: object) -> bool | None:
    """
    Determine from QoS profiles whether a topic is latched; other policies are ignored.

    :param profiles: as in the file: YAML, a list or one profile. Recorders write a list; other
        values do not affect how messages are read.
    :return: whether all profiles have transient local durability; None if there is no profile.
    """
    found = _loaded(profiles)
    rows = [x for x in (found if isinstance(found, list) else [found]) if isinstance(x, Mapping)]
    return all(_is_transient_local(row.get('durability')) for row in rows) if rows else None


def _loaded(profiles: object) -> object:
    text = profiles.decode('utf-8', 'replace') if isinstance(profiles, bytes) else profiles
    if not isinstance(text, str):
        return text
    if len(text) > _MAX_QOS_CHARACTERS:
        return None
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        return None


def _is_transient_local(value: Any) -> bool:
    return (
        str(value).strip().lower().removeprefix('rmw_qos_policy_durability_') in _TRANSIENT_LOCAL
    )


SCHEMA: Final = 3
CHANNEL: Final = 4
"""Opcodes of records."""

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
    :param start: position of the chunk's record in the file.
    :param counts: number of messages by channel id; empty if the chunk has no
        message index.
    :param compression: compression of its messages.
    """

    start_time_ns: int
    start: int
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
    start_time_ns, _, start, length = (fields.number(8) for _ in range(4))
    offsets = sorted((at, key) for key, at in fields.counts(8).items())
    end = start + length + fields.number(8)
    ends = [at for at, _ in offsets[1:]] + [end]
    # Each message index has a header of 9 bytes, an id, a length, and 16 bytes per message.
    counts = {key: max(0, end - at - 15) // 16 for (at, key), end in zip(offsets, ends)}
    return ChunkIndex(start_time_ns, start, counts, fields.text())


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
