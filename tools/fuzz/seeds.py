# SPDX-License-Identifier: Apache-2.0
"""Valid messages to start with: all encodings, both byte orders, several kinds of JPEG and PNG."""

from collections.abc import Iterator
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from surgseg_ros.messages.serialization import COMPRESSED_IMAGE, IMAGE, TYPES, header

_HEIGHT: Final = 6
_WIDTH: Final = 10
_HEADER: Final = header(7 * 10**9 + 5, '/endoscope left')

ENCODINGS: Final = {
    **dict.fromkeys(('rgb8', 'bgr8'), 3),
    **dict.fromkeys(('rgba8', 'bgra8'), 4),
    **dict.fromkeys(('rgb16', 'bgr16'), 6),
    **dict.fromkeys(('rgba16', 'bgra16'), 8),
    'mono8': 1,
    'mono16': 2,
    **{f'bayer_{pattern}8': 1 for pattern in ('rggb', 'bggr', 'gbrg', 'grbg')},
    **{f'bayer_{pattern}16': 2 for pattern in ('rggb', 'bggr', 'gbrg', 'grbg')},
    **dict.fromkeys(('yuv422', 'yuv422_yuy2', 'uyvy', 'yuyv'), 2),
    **dict.fromkeys(('nv12', 'nv21', 'nv24', 'yuv420', 'I420'), 1),
}
"""Bytes per pixel, in the first plane, of each encoding that the node accepts."""

_HALF_PLANES: Final = {'nv12': 3, 'nv21': 3, 'nv24': 6, 'yuv420': 3, 'I420': 3}
"""Size of the data in halves of step x height; 2 for the others."""

_FILES: Final = {
    'png_grey': ('.png', 1, []),
    'png_bilevel': ('.png', 1, [cv2.IMWRITE_PNG_BILEVEL, 1]),
    'png_rgb': ('.png', 3, []),
    'png_rgba': ('.png', 4, []),
    'jpeg': ('.jpg', 3, []),
    'jpeg_grey': ('.jpg', 1, []),
    'jpeg_progressive': ('.jpg', 3, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
    'jpeg_restart': ('.jpg', 3, [cv2.IMWRITE_JPEG_RST_INTERVAL, 1]),
}


def seeds(kind: str) -> dict[str, bytes]:
    """
    Create valid messages.

    :param kind: `image` or `compressed`.
    :return: CDR by descriptive name.
    """
    return dict(_images() if kind == 'image' else _compressed())


def _images() -> Iterator[tuple[str, bytes]]:
    for encoding, pixel_bytes in ENCODINGS.items():
        step = _WIDTH * pixel_bytes + 2
        message = TYPES.types[IMAGE](
            header=_HEADER,
            height=_HEIGHT,
            width=_WIDTH,
            encoding=encoding,
            is_bigendian=0,
            step=step,
            data=_noise(_HEIGHT * step * _HALF_PLANES.get(encoding, 2) // 2),
        )
        for little in (True, False):
            cdr = TYPES.serialize_cdr(message, IMAGE, little_endian=little)
            yield f'{encoding}_{"little" if little else "big"}', bytes(cdr)


def _compressed() -> Iterator[tuple[str, bytes]]:
    for name, (suffix, channels, options) in _FILES.items():
        image = _noise(24 * 20 * channels).reshape(24, 20, channels)
        _, data = cv2.imencode(suffix, image, options)
        message = TYPES.types[COMPRESSED_IMAGE](
            header=_HEADER, format=suffix[1:], data=np.asarray(data).reshape(-1)
        )
        for little in (True, False):
            cdr = TYPES.serialize_cdr(message, COMPRESSED_IMAGE, little_endian=little)
            yield f'{name}_{"little" if little else "big"}', bytes(cdr)


def _noise(size: int) -> NDArray[np.uint8]:
    return np.random.default_rng(7).integers(0, 256, size, np.uint8)
