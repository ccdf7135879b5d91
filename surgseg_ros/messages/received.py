# SPDX-License-Identifier: Apache-2.0
"""Image messages as they come from a topic or a bag: serialized, and perhaps spoiled."""

import struct
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.image_files import decode_mask
from surgseg_ros.messages.images import check_compressed, rows_of
from surgseg_ros.messages.results import from_cdr
from surgseg_ros.messages.types import ImageError

_STAMP: Final = {0: struct.Struct('>iI'), 1: struct.Struct('<iI')}
"""Seconds and nanoseconds, by the byte order that the encapsulation header tells."""
_STAMP_AT: Final = 4

_MASK_ENCODINGS: Final = ('mono8', '8UC1')


def read_image(cdr: bytes, type_name: str) -> Any:
    """
    Read a serialized image message.

    :param cdr: as it came.
    :param type_name: of an image message.
    :return: the message; its data is a view on `cdr`.
    :raises ImageError: if it is not such a message, or its text is not UTF-8.
    """
    try:
        return from_cdr(cdr, type_name)
    except Exception as error:  # whatever a parser says of bytes that are no message
        if isinstance(error.__cause__, UnicodeDecodeError):
            raise ImageError(
                f'frame_id or encoding {error.__cause__.object!r:.80} is not UTF-8: '
                'let the camera driver set a frame_id of ASCII letters',
                'text',
            ) from error
        raise ImageError(
            f'{len(cdr)} bytes cannot be read as {type_name} ({error!s:.200}): check that the '
            'publisher uses the same message definition',
            'cdr',
        ) from error


def read_stamp(cdr: bytes) -> int | None:
    """
    Read the stamp of a serialized message that begins with a header, and nothing else of it.

    :param cdr: as it came.
    :return: nanoseconds; None where there are too few bytes for one.
    """
    if len(cdr) < _STAMP_AT + _STAMP[1].size:
        return None
    seconds, nanoseconds = _STAMP[cdr[1] & 1].unpack_from(cdr, _STAMP_AT)
    return int(seconds) * 10**9 + int(nanoseconds)


def read_size(cdr: bytes, type_name: str) -> tuple[int, int] | None:
    """
    Read how large the image of a serialized image message says it is; it is not decoded.

    :param cdr: as it came.
    :param type_name: of an image message.
    :return: (H, W) in pixels; None where it is no such message, or no image that is whole.
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
    Take the mask out of a message, its values as they are.

    :param message: a sensor_msgs Image of mono8 or 8UC1, or a CompressedImage that holds a grey
        PNG of 8 bits.
    :return: (H, W) uint8; it may be a read-only view of the message's data.
    :raises ImageError: if the message is something else.
    """
    if hasattr(message, 'format'):
        return _mask_from_png(message)
    if message.encoding not in _MASK_ENCODINGS:
        text = f'encoding {message.encoding!r:.80} is no mask: publish it as mono8'
        raise ImageError(text, 'encoding')
    return rows_of(message, 1)


def _mask_from_png(message: Any) -> NDArray[np.uint8]:
    file = check_compressed(bytes(message.data))
    try:
        return decode_mask(file.data)
    except ValueError as error:
        text = f'a compressed image ({message.format!r:.80}) is no mask: it {error}'
        raise ImageError(text, 'mask') from error
