# SPDX-License-Identifier: Apache-2.0
"""What the files of a bag say about their topics: type, encoding, QoS."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import yaml

_MOST_QOS_CHARACTERS: Final = 2**18
"""A longer text is not parsed: a profile takes 400, and a topic rarely has ten publishers."""

_TRANSIENT_LOCAL: Final = ('transient_local', '1')
"""The durability by its name, which version 9 of the format writes, and by its number in rmw."""

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
    'which are no ROS messages (record the topic with `ros2 bag record`, or convert it to CDR)'
)


class Connection(NamedTuple):
    """
    One publisher of a topic, as a file describes it.

    :param id: by which the file's messages name it.
    :param topic: the topic's name.
    :param type_name: of the messages, `sensor_msgs/msg/Image` for example.
    :param message_count: how many messages of it the file holds.
    :param digest: hash of the type's definition; empty where none is given.
    :param is_latched: whether it offered transient local durability; None where that is not said.
    :param foreign: what its messages are where they are not those of ROS 2; else empty.
    """

    id: int
    topic: str
    type_name: str
    message_count: int = 0
    digest: str = ''
    is_latched: bool | None = None
    foreign: str = ''


def ros_type_name(name: str) -> str:
    """
    Write a type's name as ROS 2 does.

    :param name: as a file has it: also of DDS (`sensor_msgs::msg::dds_::Image_`), of OMG IDL
        (`sensor_msgs::msg::Image`) or without its middle part (`sensor_msgs/Image`).
    :return: `sensor_msgs/msg/Image` for example; other names as they are.
    """
    if '::' in name:
        name = '/'.join(name.removesuffix('_').replace('::dds_::', '::').split('::'))
    parts = name.split('/')
    return f'{parts[0]}/msg/{parts[1]}' if len(parts) == 2 and all(parts) else name


def describe_foreign(encoding: str, schema: str, type_name: str) -> str:
    """
    Say what messages are that cannot be read as those of ROS 2.

    :param encoding: of the messages; where it is empty, that of their schema decides.
    :param schema: encoding of the schema; empty where there is none.
    :param type_name: of the messages; empty where it is not said.
    :return: what they are and a remedy; empty for CDR of a named type, which ROS 2 writes.
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
    Tell from QoS profiles whether a topic is latched; nothing else about them matters here.

    :param profiles: what a file says of them: YAML, of a list or of one profile. Recorders write
        a list; what other tools write here is no reason to doubt the messages.
    :return: whether all profiles have transient local durability; None where there is none.
    """
    found = _loaded(profiles)
    rows = [x for x in (found if isinstance(found, list) else [found]) if isinstance(x, Mapping)]
    return all(_is_transient_local(row.get('durability')) for row in rows) if rows else None


def _loaded(profiles: object) -> object:
    text = profiles.decode('utf-8', 'replace') if isinstance(profiles, bytes) else profiles
    if not isinstance(text, str):
        return text
    if len(text) > _MOST_QOS_CHARACTERS:
        return None
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        return None


def _is_transient_local(value: Any) -> bool:
    return (
        str(value).strip().lower().removeprefix('rmw_qos_policy_durability_') in _TRANSIENT_LOCAL
    )
