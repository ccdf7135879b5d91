# SPDX-License-Identifier: Apache-2.0
"""By which topic an image transport brings the images, and what is published instead of them."""

import re
from typing import Final

from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image

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
