# SPDX-License-Identifier: Apache-2.0
"""Serialized images with a new stamp each, by which a mask is known again."""

import struct
from typing import Final

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.messages.images import image_to_msg
from surgseg_ros.messages.results import header, to_cdr

_STAMP: Final = struct.Struct('<iI')
_STAMP_AT: Final = 4
"""Behind the encapsulation header; every message here begins with a Header."""


def image_cdr(picture: NDArray[np.uint8]) -> bytes:
    """
    Serialize an image as a camera's driver would.

    :param picture: (H, W, 3) uint8 RGB.
    :return: CDR of sensor_msgs/Image with stamp 0.
    """
    return to_cdr(image_to_msg(picture, header(0, 'camera')))


def stamped(cdr: bytes, stamp_ns: int) -> bytes:
    """
    Give a serialized message another stamp.

    :param cdr: little endian, of a message that begins with a header.
    :param stamp_ns: nanoseconds.
    :return: a copy.
    """
    stamp = _STAMP.pack(*divmod(stamp_ns, 10**9))
    return b''.join((cdr[:_STAMP_AT], stamp, memoryview(cdr)[_STAMP_AT + _STAMP.size :]))


def stamp_of(cdr: bytes) -> int:
    """
    Read a serialized message's stamp, and nothing else of it.

    :param cdr: little endian, of a message that begins with a header.
    :return: nanoseconds.
    """
    seconds, nanoseconds = _STAMP.unpack_from(cdr, _STAMP_AT)
    return int(seconds) * 10**9 + int(nanoseconds)
