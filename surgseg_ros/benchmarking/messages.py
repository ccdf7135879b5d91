# SPDX-License-Identifier: Apache-2.0
"""Image messages with a stamp, as a camera sends them; without torch, whose import takes long."""

import struct
from typing import Final

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.messages.images import image_to_msg
from surgseg_ros.messages.serialization import header, to_cdr

_STAMP: Final = struct.Struct('<iI')
_STAMP_AT: Final = 4
"""Offset of the stamp, after the encapsulation header: every message starts with a Header."""


def image_cdr(image: NDArray[np.uint8]) -> bytes:
    """
    Serialize an image as a camera driver would.

    :param image: (H, W, 3) uint8 RGB.
    :return: CDR of sensor_msgs/Image with stamp 0.
    """
    return to_cdr(image_to_msg(image, header(0, 'camera')))


def stamped(cdr: bytes, stamp_ns: int) -> bytes:
    """
    Set the stamp of a serialized message.

    :param cdr: little-endian message that starts with a header.
    :param stamp_ns: nanoseconds.
    :return: a copy.
    """
    stamp = _STAMP.pack(*divmod(stamp_ns, 10**9))
    return b''.join((cdr[:_STAMP_AT], stamp, memoryview(cdr)[_STAMP_AT + _STAMP.size :]))


def stamp_of(cdr: bytes) -> int:
    """
    Read only the stamp of a serialized message.

    :param cdr: little-endian message that starts with a header.
    :return: nanoseconds.
    """
    seconds, nanoseconds = _STAMP.unpack_from(cdr, _STAMP_AT)
    return int(seconds) * 10**9 + int(nanoseconds)
