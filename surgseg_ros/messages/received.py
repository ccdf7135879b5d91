# SPDX-License-Identifier: Apache-2.0
"""Reads serialized image messages from a topic or a bag, which may be malformed."""

import struct
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.image_files import decode_mask
from surgseg_ros.messages.images import check_compressed, rows_of
from surgseg_ros.messages.results import from_cdr
from surgseg_ros.messages.types import ImageError

_STAMP: Final = {0: struct.Struct('>iI'), 1: struct.Struct('<iI')}
"""Seconds and nanoseconds, by the byte order in the encapsulation header."""
_STAMP_AT: Final = 4

_MASK_ENCODINGS: Final = ('mono8', '8UC1')


def read_image(cdr: bytes, type_name: str) -> Any:
    """
    Read a serialized image message.

    :param cdr: the serialized message.
    :param type_name: type of an image message.
    :return: the message; its data is a view of `cdr`.
    :raises ImageError: if it is not such a message, or its text is not UTF-8.
    """
    try:
        return from_cdr(cdr, type_name)
    except Exception as error:  # of any kind: a parser may raise anything for malformed data
        if isinstance(error.__cause__, UnicodeDecodeError):
            raise ImageError(
                f'frame_id or encoding {error.__cause__.object!r:.80} is not UTF-8: '
                'configure a frame_id of ASCII letters in the camera driver',
                'text',
            ) from error
        raise ImageError(
            f'{len(cdr)} bytes cannot be read as {type_name} ({error!s:.200}): check that the '
            'publisher uses the same message definition',
            'cdr',
        ) from error


def read_stamp(cdr: bytes) -> int | None:
    """
    Read only the stamp of a serialized message that starts with a header.

    :param cdr: the serialized message.
    :return: nanoseconds; None if there are too few bytes.
    """
    if len(cdr) < _STAMP_AT + _STAMP[1].size:
        return None
    seconds, nanoseconds = _STAMP[cdr[1] & 1].unpack_from(cdr, _STAMP_AT)
    return int(seconds) * 10**9 + int(nanoseconds)


def read_size(cdr: bytes, type_name: str) -> tuple[int, int] | None:
    """
    Read the size in a serialized image message; the image is not decoded.

    :param cdr: the serialized message.
    :param type_name: type of an image message.
    :return: (H, W) in pixels; None if it is not such a message, or the image is incomplete.
    """
    try:
        message = read_image(cdr, type_name)
        if hasattr(message, 'format'):
            file = check_compressed(bytes(message.data))
            return file.height, file.width
        return message.height, message.width
    except ImageError:
        return None


def mask_from_msg(message: Any) -> NDArray[np.uint8]:
    """
    Read the mask in a message, with unchanged values.

    :param message: a sensor_msgs Image of mono8 or 8UC1, or a CompressedImage that holds an 8-bit
        grey PNG.
    :return: (H, W) uint8; it may be a read-only view of the message's data.
    :raises ImageError: if the message is something else.
    """
    if hasattr(message, 'format'):
        return _mask_from_png(message)
    if message.encoding not in _MASK_ENCODINGS:
        text = f'encoding {message.encoding!r:.80} is not that of a mask: publish it as mono8'
        raise ImageError(text, 'encoding')
    return rows_of(message, 1)


def _mask_from_png(message: Any) -> NDArray[np.uint8]:
    file = check_compressed(bytes(message.data))
    try:
        return decode_mask(file.data)
    except ValueError as error:
        text = f'a compressed image ({message.format!r:.80}) is not a mask: it {error}'
        raise ImageError(text, 'mask') from error
