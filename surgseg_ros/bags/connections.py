# SPDX-License-Identifier: Apache-2.0
"""
Shared definitions of the readers of all storages: connections, their interface and their errors.

A connection is the description of a topic's publisher in the files of a bag: type, encoding, QoS.
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
