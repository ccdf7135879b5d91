# SPDX-License-Identifier: Apache-2.0
"""The message types: those of ROS 2 Jazzy, and vision_msgs from the package's own .msg files."""

from pathlib import Path
from typing import Any, Final

from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

VISION_MSGS: Final = Path(__file__).parent / 'vision_msgs' / 'msg'


def make_typestore() -> Typestore:
    """Make a store of all types in use; bags with types of their own register them in a copy."""
    store = get_typestore(Stores.ROS2_JAZZY)
    for path in sorted(VISION_MSGS.glob('*.msg')):
        store.register(get_types_from_msg(path.read_text(), f'vision_msgs/msg/{path.stem}'))
    return store


TYPES: Final = make_typestore()


def message_class(name: str) -> type[Any]:
    """
    Find a message's class.

    :param name: the type's full name, such as 'sensor_msgs/msg/Image'.
    :return: its dataclass, for use with the functions of TYPES.
    :raises ValueError: where there is no such type.
    """
    if name not in TYPES.types:
        raise ValueError(f'there is no message type {name!r}: write it like sensor_msgs/msg/Image')
    found: type[Any] = TYPES.types[name]
    return found
