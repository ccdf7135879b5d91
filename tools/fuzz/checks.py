# SPDX-License-Identifier: Apache-2.0
"""Processes a message from CDR to a mask's CDR, and checks the guarantees."""

import io
import struct
import warnings
from typing import Any, Final, NamedTuple

from PIL import Image, UnidentifiedImageError

from surgseg_ros.messages.images import ImageError, image_to_msg, rgb_from_msg
from surgseg_ros.messages.serialization import COMPRESSED_IMAGE, IMAGE, to_cdr
from surgseg_ros.node.worker import read_image

TYPES: Final = {'image': IMAGE, 'compressed': COMPRESSED_IMAGE}

LONGEST_TEXT: Final = 1000
"""Maximum length of an error: log text must not grow with the message."""


class ViolatedGuaranteeError(Exception):
    """A guarantee that did not hold for a message; the text names it."""


class Content(NamedTuple):
    """
    The content of a message, read independently of rosbags.

    :param header: seconds, nanoseconds and the bytes of frame_id.
    :param size: (height, width) of an Image; None for a CompressedImage.
    :param rest: the bytes after that.
    """

    header: tuple[int, int, bytes]
    size: tuple[int, int] | None
    rest: bytes


def check(cdr: bytes, kind: str) -> str:
    """
    Send a message through all steps, with a fake network.

    :param cdr: any bytes.
    :param kind: a key of TYPES.
    :return: the cause of the refusal, or '' if there was a mask.
    :raises ViolatedGuaranteeError: unless the result is an ImageError or the right mask.
    """
    try:
        message = read_image(cdr, TYPES[kind])
        rgb = rgb_from_msg(message)
    except ImageError as error:
        if len(str(error)) > LONGEST_TEXT:
            raise ViolatedGuaranteeError(
                f'a refusal of {len(str(error))} characters: {error!s:.200}'
            ) from error
        return error.cause
    except Exception as error:
        raise ViolatedGuaranteeError(
            f'{type(error).__name__} instead of ImageError: {error}'
        ) from error
    mask = image_to_msg(rgb[..., 1] % 10, message.header)
    _compare(parse(cdr, kind), parse(to_cdr(mask), 'image'), message)
    return ''


def parse(cdr: bytes, kind: str) -> Content:
    """
    Read a message using only the rules of CDR.

    :param cdr: a message that was accepted.
    :param kind: a key of TYPES.
    :return: its content.
    """
    order = '<' if cdr[1] else '>'
    body = cdr[4:]
    seconds, nanoseconds, length = struct.unpack_from(f'{order}iII', body)
    frame_id = body[12 : 12 + length - 1]
    offset = -(-(12 + length) // 4) * 4
    if kind == 'compressed':
        return Content((seconds, nanoseconds, frame_id), None, body[offset:])
    size = struct.unpack_from(f'{order}II', body, offset)
    return Content((seconds, nanoseconds, frame_id), size, body[offset + 8 :])


def file_size(data: bytes) -> tuple[int, int] | None:
    """
    Find the size of a JPEG or PNG file with another library than OpenCV.

    :param data: the file.
    :return: (height, width); None if that library rejects the file.
    """
    with warnings.catch_warnings():  # its argument `action` is new in Python 3.11
        warnings.simplefilter('ignore')
        try:
            width, height = Image.open(io.BytesIO(data), formats=('JPEG', 'PNG')).size
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError, struct.error):
            return None
    return height, width


def _compare(came: Content, went: Content, message: Any) -> None:
    """Compare the messages of mask and image."""
    if went.header != came.header:
        raise ViolatedGuaranteeError(f'the header {came.header} became {went.header}')
    size = came.size or file_size(bytes(message.data)) or went.size
    if went.size != size:
        raise ViolatedGuaranteeError(
            f'an image of {size} (height, width) got a mask of {went.size}'
        )
    height, width = went.size or (0, 0)
    tail = struct.pack('<I6sBxII', 6, b'mono8\0', 0, width, height * width)
    if not went.rest.startswith(tail) or len(went.rest) - len(tail) != height * width:
        raise ViolatedGuaranteeError(f'behind its size the mask begins with {went.rest[:40]!r}')
