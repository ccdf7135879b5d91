# SPDX-License-Identifier: Apache-2.0
"""Message types as rosbags knows them, and what a message raises that is not an image."""

from pathlib import Path
from typing import Any, Final, NamedTuple

from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from surgseg_ros.core.reasons import ReasonCode


class ImageError(ValueError):
    """
    An image message that no image can be made of.

    :param text: what is wrong, and the remedy.
    :param cause: a short name of the kind of fault, to count by and to warn once by.
    """

    def __init__(self, text: str, cause: str) -> None:
        """Keep the cause beside the text."""
        super().__init__(text)
        self.cause = cause


class ImageWarning(NamedTuple):
    """
    Why an image that could be read is not to be trusted.

    :param code: the kind of fault, to count by and to warn once by.
    :param text: what is wrong, and the remedy.
    """

    code: ReasonCode
    text: str


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
