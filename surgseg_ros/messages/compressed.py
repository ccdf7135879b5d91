# SPDX-License-Identifier: Apache-2.0
"""Converts an image or a mask to a compressed image message: JPEG for images, PNG for masks."""

from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from surgseg_ros.messages.images import COMPRESSED_IMAGE
from surgseg_ros.messages.types import TYPES

JPEG_QUALITY: Final = 95
_PNG_COMPRESSION: Final = 1  # a mask is small at any level, and the first is the fastest


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
    _check(image, (3,), 'image: give (H, W, 3) of uint8')
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    settings = [cv2.IMWRITE_JPEG_QUALITY, quality]
    return _message(header, 'rgb8; jpeg compressed bgr8', '.jpg', bgr, settings)


def mask_to_png(mask: NDArray[np.uint8], header: Any) -> Any:
    """
    Compress a mask as PNG, without loss.

    :param mask: (H, W) uint8.
    :param header: std_msgs/Header, used unchanged.
    :return: sensor_msgs/CompressedImage with the `format` that image_transport sets.
    :raises ValueError: if the array has another shape or type.
    """
    _check(mask, (), 'mask: give (H, W) of uint8')
    settings = [cv2.IMWRITE_PNG_COMPRESSION, _PNG_COMPRESSION]
    return _message(header, 'mono8; png compressed ', '.png', mask, settings)


def _check(array: NDArray[np.uint8], channels: tuple[int, ...], expected: str) -> None:
    if array.dtype != np.uint8 or array.ndim != 2 + len(channels) or array.shape[2:] != channels:
        raise ValueError(f'a {array.dtype} array of shape {array.shape} is not a valid {expected}')


def _message(header: Any, form: str, suffix: str, planes: Any, settings: list[int]) -> Any:
    _, encoded = cv2.imencode(suffix, planes, settings)
    return TYPES.types[COMPRESSED_IMAGE](header=header, format=form, data=encoded.reshape(-1))
