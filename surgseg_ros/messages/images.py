# SPDX-License-Identifier: Apache-2.0
"""Converts image messages, also malformed ones, to images and masks, and arrays to messages."""

import struct
import sys
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.image_files import (
    EncodedImage,
    ImageFileError,
    check_file,
    decode_grey,
    decode_mask,
    decode_rgb,
    encode_png,
)
from surgseg_ros.core.processes import MAX_PIXELS
from surgseg_ros.core.reasons import ReasonCode
from surgseg_ros.messages.encodings import (
    ENCODINGS,
    Encoding,
    ImageError,
    ImageWarning,
    check_form,
    color_layout,
    find_encoding,
    refuse_depth,
)
from surgseg_ros.messages.serialization import COMPRESSED_IMAGE, IMAGE, TYPES, from_cdr

RgbArray = NDArray[np.uint8]

MAX_SIDE_PX: Final = 16_384

JPEG_QUALITY: Final = 95

_REMEDIES: Final = {
    'unreadable': 'set the image transport to JPEG or PNG',
    'cut off': 'check for losses between the camera and this machine',
    'damaged': 'check for losses between the camera and this machine',
    'refused': 'send baseline or progressive JPEG, or plain PNG',
}
"""Remedies by the kind of an ImageFileError."""


_NOT_CHECKED: Final = ImageWarning(
    ReasonCode.JPEG_NOT_CHECKED,
    'a JPEG of this chroma subsampling cannot be checked for damage: send 4:2:0, 4:2:2 or 4:4:4',
)


class RgbImage(NamedTuple):
    """
    The image of a message, with warnings.

    :param rgb: (H, W, 3) uint8 RGB; it may be a read-only view of the message's data.
    :param warnings: why the image cannot be trusted.
    """

    rgb: RgbArray
    warnings: tuple[ImageWarning, ...] = ()


def image_from_msg(message: Any) -> RgbImage:
    """
    Convert an image message of either type.

    :param message: a sensor_msgs Image or CompressedImage, by rosbags or by rclpy.
    :return: the image, and warnings about it.
    :raises ImageError: if the message cannot be converted.
    """
    if hasattr(message, 'format'):
        return image_from_compressed(message)
    return RgbImage(rgb_from_image(message))


def rgb_from_msg(message: Any) -> RgbArray:
    """
    Convert an image message of either type to RGB, without its warnings.

    :param message: a sensor_msgs Image or CompressedImage, by rosbags or by rclpy.
    :return: (H, W, 3) uint8 RGB; it may be a read-only view of the message's data.
    :raises ImageError: if the message cannot be converted.
    """
    return image_from_msg(message).rgb


def rgb_from_image(message: Any) -> RgbArray:
    """
    Convert an uncompressed image message to RGB.

    Of 16-bit samples, the high byte is used: it is the value of an 8-bit camera at the same light,
    and unlike scaling by 255/65535, it needs no computation.

    :param message: a sensor_msgs Image, by rosbags or by rclpy.
    :return: (H, W, 3) uint8 RGB; a read-only view of the message's data if that is rgb8.
    :raises ImageError: if the encoding is unknown, or the fields contradict each other.
    """
    encoding, sample_bytes = find_encoding(message.encoding)
    height, width = message.height, message.width
    _check_size(height, width)
    check_form(encoding, message.encoding, height, width)
    if encoding.planes > 1:
        rows = _planes_of(message, encoding)
    else:
        rows = rows_of(message, encoding.pixel_bytes * sample_bytes)
    if sample_bytes == 2:
        high_byte = 0 if message.is_bigendian else 1
        rows = np.ascontiguousarray(rows[:, high_byte::2])  # (H, W * pixel_bytes)
    try:
        return encoding.to_rgb(rows, width)
    except cv2.error as error:
        text = f'an image of {width}x{height} in {message.encoding} was not converted'
        raise ImageError(f'{text}: publish rgb8 ({error!s:.300})', 'conversion') from error


def image_from_compressed(message: Any) -> RgbImage:
    """
    Convert a compressed image message, JPEG or PNG, with the colour layout of its `format`.

    An orientation tag in the file is ignored.

    :param message: a sensor_msgs CompressedImage, by rosbags or by rclpy.
    :return: the image, and warnings about it.
    :raises ImageError: if the data is neither JPEG nor PNG, incomplete, damaged or too large, or
        is not a colour or grey image.
    """
    refuse_depth(message.format)
    file = check_compressed(bytes(message.data))
    layout = color_layout(message.format, file.is_grey)
    try:
        if layout.bayer_encoding:
            return RgbImage(_demosaiced(decode_grey(file), layout.bayer_encoding))
        rgb, is_checked = decode_rgb(file)
    except ImageFileError as error:
        raise _image_error(error) from error
    if layout.is_exchanged:
        rgb = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_BGR2RGB), np.uint8)
    return RgbImage(rgb, layout.warnings + (() if is_checked else (_NOT_CHECKED,)))


def _demosaiced(mosaic: NDArray[np.uint8] | NDArray[np.uint16], encoding: str) -> RgbArray:
    """Convert the (H, W) samples of a Bayer file like those of an uncompressed image."""
    height, width = mosaic.shape
    message = SimpleNamespace(
        height=height,
        width=width,
        encoding=f'{encoding.rstrip("0123456789")}{8 * mosaic.itemsize}',
        is_bigendian=int(sys.byteorder == 'big'),
        step=width * mosaic.itemsize,
        data=np.ascontiguousarray(mosaic).reshape(-1).view(np.uint8),
    )
    return rgb_from_image(message)


def _image_error(error: ImageFileError) -> ImageError:
    return ImageError(f'{error}: {_REMEDIES[error.kind]}', 'decode')


def image_to_msg(image: RgbArray, header: Any) -> Any:
    """
    Create an image message from an image or a mask.

    :param image: (H, W, 3) uint8 RGB, which becomes rgb8, or (H, W) uint8, which becomes mono8.
    :param header: std_msgs/Header, used unchanged.
    :return: sensor_msgs/Image with dense rows; a view of the array if it is dense.
    :raises ValueError: if the array has another shape or type.
    """
    encoding = 'mono8' if image.ndim == 2 else 'rgb8'
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)):
        text = f'a {image.dtype} array of shape {image.shape} is not an image'
        raise ValueError(f'{text}: give (H, W, 3) or (H, W) of uint8')
    height, width = image.shape[:2]
    return TYPES.types[IMAGE](
        header=header,
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=width * ENCODINGS[encoding].pixel_bytes,
        data=np.ascontiguousarray(image).reshape(-1),
    )


def image_to_jpeg(image: NDArray[np.uint8], header: Any, quality: int = JPEG_QUALITY) -> Any:
    """
    Compress an image as JPEG; not for masks, whose classes JPEG would change.

    :param image: (H, W, 3) uint8 RGB.
    :param header: std_msgs/Header, used unchanged.
    :param quality: JPEG quality, 1 to 100.
    :return: sensor_msgs/CompressedImage with the `format` that image_transport sets.
    :raises ValueError: if the array has another shape or type, or the quality is out of range.
    """
    if not 1 <= quality <= 100:
        raise ValueError(f'JPEG quality {quality} is not within 1 to 100')
    _check_array(image, (3,), 'image: give (H, W, 3) of uint8')
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return _compressed_msg(header, 'rgb8; jpeg compressed bgr8', np.asarray(encoded, np.uint8))


def mask_to_png(mask: NDArray[np.uint8], header: Any) -> Any:
    """
    Compress a mask as PNG, without loss.

    :param mask: (H, W) uint8.
    :param header: std_msgs/Header, used unchanged.
    :return: sensor_msgs/CompressedImage with the `format` that image_transport sets.
    :raises ValueError: if the array has another shape or type.
    """
    _check_array(mask, (), 'mask: give (H, W) of uint8')
    return _compressed_msg(header, 'mono8; png compressed ', encode_png(mask))


def _check_array(array: NDArray[np.uint8], channels: tuple[int, ...], expected: str) -> None:
    if array.dtype != np.uint8 or array.ndim != 2 + len(channels) or array.shape[2:] != channels:
        raise ValueError(f'a {array.dtype} array of shape {array.shape} is not a valid {expected}')


def _compressed_msg(header: Any, form: str, encoded: NDArray[np.uint8]) -> Any:
    return TYPES.types[COMPRESSED_IMAGE](header=header, format=form, data=encoded.reshape(-1))


def rows_of(message: Any, pixel_bytes: int) -> RgbArray:
    """
    Return a view of the data of an uncompressed image message without padding of rows.

    :param message: a sensor_msgs Image.
    :param pixel_bytes: bytes per pixel.
    :return: (height, width * pixel_bytes) uint8.
    :raises ImageError: if the fields contradict each other.
    """
    height, width, step = message.height, message.width, message.step
    _check_size(height, width)
    if step < width * pixel_bytes:
        text = f'step {step} is less than a row of {width} {message.encoding} pixels'
        raise ImageError(f'{text}: the driver has to set step to {width * pixel_bytes}', 'step')
    if len(message.data) < step * height:
        text = f'{len(message.data)} bytes of data are fewer than step {step} x height {height}'
        raise ImageError(f'{text}: check the driver, or for losses in transport', 'data')
    data = np.frombuffer(message.data, np.uint8, count=step * height)
    return data.reshape(height, step)[:, : width * pixel_bytes]


def _planes_of(message: Any, encoding: Encoding) -> RgbArray:
    """
    Return a view of the planes of an image message with padding, (height * planes, step) uint8.

    Unlike for packed encodings, data that is too long is rejected: its chroma may start later, for
    example if a decoder has rounded the height up.
    """
    height, width, step = message.height, message.width, message.step
    if step < width:
        text = f'step {step} is less than a row of {width} bytes of luma'
        raise ImageError(f'{text}: the driver has to set step to that of luma', 'step')
    rows = int(height * encoding.planes)
    if len(message.data) != rows * step:
        text = (
            f'{len(message.data)} bytes of data are not the {rows * step} that {message.encoding} '
            f'has at step {step} x height {height}'
        )
        raise ImageError(
            f'{text}: the driver has to set height to that of the image, step to that of luma, '
            'and to leave no gaps between planes',
            'data',
        )
    return np.frombuffer(message.data, np.uint8).reshape(rows, step)


def _check_size(height: int, width: int) -> None:
    if not (0 < height <= MAX_SIDE_PX and 0 < width <= MAX_SIDE_PX):
        text = f'size {width}x{height} is not within 1 to {MAX_SIDE_PX} pixels each way'
        raise ImageError(f'{text}: check the settings of the camera', 'size')
    if height * width > MAX_PIXELS:
        text = f'size {width}x{height} has more than {MAX_PIXELS} pixels'
        raise ImageError(f'{text}: check the settings of the camera', 'size')


def check_compressed(data: bytes) -> EncodedImage:
    """
    Check that a JPEG or PNG is complete and within limits, before it is decoded.

    :param data: content of the file.
    :return: what to decode, with the size in pixels from its header.
    :raises ImageError: if it is neither, is incomplete or too large, or is of a kind that no
        camera sends.
    """
    try:
        file = check_file(data)
    except ImageFileError as error:
        raise _image_error(error) from error
    _check_size(file.height, file.width)
    return file


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
    :raises ImageError: if it is not such a message, or its strings are not UTF-8.
    """
    try:
        return from_cdr(cdr, type_name)
    except Exception as error:  # a parser may raise any type for malformed data
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
    Read the mask of a message; the values are not changed.

    :param message: a sensor_msgs Image of mono8 or 8UC1, or a CompressedImage with an 8-bit grey
        PNG.
    :return: (H, W) uint8; it may be a read-only view of the message's data.
    :raises ImageError: if the message is not a mask.
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
