# SPDX-License-Identifier: Apache-2.0
"""Message types of rosbags, how they are read, and errors and warnings of image messages."""

from pathlib import Path
from typing import Any, Final, NamedTuple

from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from surgseg_ros.core.reasons import ReasonCode


class ImageError(ValueError):
    """
    An image message that cannot be converted to an image.

    :param text: what is wrong, and the remedy.
    :param cause: short name of the kind of error; it is counted, and reported once, by this name.
    """

    def __init__(self, text: str, cause: str) -> None:
        """Store the cause with the text."""
        super().__init__(text)
        self.cause = cause


class ImageWarning(NamedTuple):
    """
    Why an image that could be read cannot be trusted.

    :param code: the kind of fault; it is counted, and reported once, by this code.
    :param text: what is wrong, and the remedy.
    """

    code: ReasonCode
    text: str


VISION_MSGS: Final = Path(__file__).parent / 'vision_msgs' / 'msg'


def make_typestore() -> Typestore:
    """Make a store of all types in use; bags with other types register them in a copy."""
    store = get_typestore(Stores.ROS2_JAZZY)
    for path in sorted(VISION_MSGS.glob('*.msg')):
        store.register(get_types_from_msg(path.read_text(), f'vision_msgs/msg/{path.stem}'))
    return store


TYPES: Final = make_typestore()


def message_class(name: str) -> type[Any]:
    """
    Return the class of a message type.

    :param name: the type's full name, such as 'sensor_msgs/msg/Image'.
    :return: its dataclass, for use with the functions of TYPES.
    :raises ValueError: if there is no such type.
    """
    if name not in TYPES.types:
        raise ValueError(f'there is no message type {name!r}: write it like sensor_msgs/msg/Image')
    found: type[Any] = TYPES.types[name]
    return found


def from_cdr(cdr: bytes, type_name: str) -> Any:
    """
    Read a serialized message; arrays are views of `cdr`.

    :param cdr: CDR with its encapsulation header, of either byte order.
    :param type_name: `sensor_msgs/msg/Image`, for example.
    :return: the message, of a type in TYPES.
    """
    return TYPES.deserialize_cdr(memoryview(cdr), type_name)  # bytes would be copied
