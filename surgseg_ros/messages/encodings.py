# SPDX-License-Identifier: Apache-2.0
"""
Encodings of sensor_msgs/Image and their conversion to RGB; the format of CompressedImage.

The publisher of image_transport writes `ORIGINAL; CODEC compressed STORED` as `format`: the
encoding of the original image, and that of the samples passed to the encoder. If these were bgr8,
the file has the usual order of colours. Drivers often write only the name of the codec.
"""

import functools
import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.reasons import ReasonCode

_CV_BRIDGE_TRIAL: Final = """
from types import SimpleNamespace as Message
from cv_bridge import CvBridge
grey = Message(height=2, width=2, encoding='mono8', is_bigendian=0, step=2, data=bytes(4))
assert CvBridge().imgmsg_to_cv2(grey, 'rgb8').shape == (2, 2, 3)
"""


class ImageError(ValueError):
    """
    An image message that cannot be converted to an image.

    :param text: what is wrong, and the remedy.
    :param cause: short name of the kind of error, by which it is counted, and reported once.
    """

    def __init__(self, text: str, cause: str) -> None:
        """Store the cause with the text."""
        super().__init__(text)
        self.cause = cause


class ImageWarning(NamedTuple):
    """
    Why an image that was read cannot be trusted.

    :param code: the kind of problem, by which it is counted, and reported once.
    :param text: what is wrong, and the remedy.
    """

    code: ReasonCode
    text: str


@functools.cache
def converter() -> Callable[[Any, str], Any]:
    """
    Choose cv_bridge if it works, and rosbags-image otherwise.

    :return: converts an image message with dense rows to a named encoding.
    """
    convert: Callable[[Any, str], Any]
    if importlib.util.find_spec('cv_bridge') and _cv_bridge_works():
        convert = importlib.import_module('cv_bridge').CvBridge().imgmsg_to_cv2
    else:
        convert = importlib.import_module('rosbags.image').message_to_cvimage
    return convert


def _cv_bridge_works() -> bool:
    """Try cv_bridge in a separate process; built for another NumPy, it can crash."""
    trial = [sys.executable, '-c', _CV_BRIDGE_TRIAL]
    return subprocess.run(trial, capture_output=True, check=False).returncode == 0


RgbArray = NDArray[np.uint8]


class Encoding(NamedTuple):
    """
    An encoding with 8 bits per sample.

    :param pixel_bytes: bytes per pixel in rows of length `step`; in a planar encoding, in those
        of the luma plane.
    :param to_rgb: converts rows and width to (H, W, 3) uint8 RGB. The rows are (H, W *
        pixel_bytes) if `planes` is 1, else all planes with their padding, (H * planes, step).
    :param planes: size of the data divided by step x height.
    :param multiple_px: height and width must be multiples of these, since pixels share samples.
    :param min_px: minimum height and width.
    """

    pixel_bytes: int
    to_rgb: Callable[[RgbArray, int], RgbArray]
    planes: Fraction = Fraction(1)
    multiple_px: tuple[int, int] = (1, 1)
    min_px: int = 1


def _limited_range_bt601() -> NDArray[np.float64]:
    """
    Compute the (3, 4) matrix from Y, Cb, Cr and 1 to R, G and B, all of 8 bits.

    ITU-R BT.601-7: luma is 0.299 R + 0.587 G + 0.114 B, and its range is 219 steps from 16; the
    scaled differences Cb (B - Y) and Cr (R - Y) have 224 steps around 128.
    """
    red, green, blue = 0.299, 0.587, 0.114
    luma, of_cb, of_cr = 255 / 219, 255 / 224 * 2 * (1 - blue), 255 / 224 * 2 * (1 - red)
    matrix = np.array(
        [
            [luma, 0, of_cr],
            [luma, -of_cb * blue / green, -of_cr * red / green],
            [luma, of_cb, 0],
        ]
    )
    return np.column_stack([matrix, -matrix @ (16, 128, 128)])


_FROM_YUV: Final = _limited_range_bt601()


def _as_it_is(rows: RgbArray, width: int) -> RgbArray:
    return rows.reshape(len(rows), width, 3)


def _packed(code: int, channels: int, rows: RgbArray, width: int) -> RgbArray:
    pixels = rows.reshape(len(rows), width, channels)
    return np.asarray(cv2.cvtColor(pixels, code), np.uint8)


def _two_planes(code: int, rows: RgbArray, width: int) -> RgbArray:
    """Convert a luma plane and an interleaved chroma plane below it, with equal padding."""
    return np.asarray(cv2.cvtColor(rows[:, :width], code), np.uint8)


def _three_planes(code: int, rows: RgbArray, width: int) -> RgbArray:
    """Convert a luma plane and two chroma planes, whose rows are half as long with padding."""
    step = rows.shape[1]
    if step % 2:
        text = f'step {step} is odd, and rows of chroma are half as long'
        raise ImageError(f'{text}: make the driver pad rows to an even length', 'step')
    if step > width:  # OpenCV expects the second half of a row at width / 2, not at step / 2
        height = len(rows) // 3 * 2
        chroma = rows[height:].reshape(height, step // 2)[:, : width // 2]
        rows = np.concatenate([rows[:height, :width], chroma.reshape(-1, width)])
    return np.asarray(cv2.cvtColor(rows, code), np.uint8)


def _full_chroma(rows: RgbArray, width: int) -> RgbArray:
    """Convert a luma plane and a full interleaved chroma plane, which OpenCV cannot convert."""
    height, step = len(rows) // 3, rows.shape[1]
    luma = np.maximum(rows[:height, :width], 16)  # as OpenCV does: values below 16 are black, too
    chroma = rows[height:].reshape(height, 2 * step)[:, : 2 * width].reshape(height, width, 2)
    return np.asarray(cv2.transform(cv2.merge([luma, chroma]), _FROM_YUV), np.uint8)


def _mosaic(code: int) -> Encoding:
    """Define a Bayer encoding; OpenCV returns black if there are only two rows or columns."""
    return Encoding(1, partial(_packed, code, 1), min_px=3)


def _pairs(code: int) -> Encoding:
    """Define 4:2:2, with chroma per two pixels; OpenCV before 4.8 overruns rows of odd width."""
    return Encoding(2, partial(_packed, code, 2), multiple_px=(1, 2))


def _quads(convert: Callable[[int, RgbArray, int], RgbArray], code: int) -> Encoding:
    """Define 4:2:0, in which four pixels share their chroma."""
    return Encoding(1, partial(convert, code), Fraction(3, 2), multiple_px=(2, 2))


ENCODINGS: Final = {
    'rgb8': Encoding(3, _as_it_is),
    'bgr8': Encoding(3, partial(_packed, cv2.COLOR_BGR2RGB, 3)),
    'rgba8': Encoding(4, partial(_packed, cv2.COLOR_RGBA2RGB, 4)),
    'bgra8': Encoding(4, partial(_packed, cv2.COLOR_BGRA2RGB, 4)),
    'mono8': Encoding(1, partial(_packed, cv2.COLOR_GRAY2RGB, 1)),
    # OpenCV names a mosaic by its second row and column.
    'bayer_rggb8': _mosaic(cv2.COLOR_BAYER_BG2RGB),
    'bayer_bggr8': _mosaic(cv2.COLOR_BAYER_RG2RGB),
    'bayer_gbrg8': _mosaic(cv2.COLOR_BAYER_GR2RGB),
    'bayer_grbg8': _mosaic(cv2.COLOR_BAYER_GB2RGB),
    'yuv422': _pairs(cv2.COLOR_YUV2RGB_UYVY),
    'yuv422_yuy2': _pairs(cv2.COLOR_YUV2RGB_YUY2),
    'nv12': _quads(_two_planes, cv2.COLOR_YUV2RGB_NV12),
    'nv21': _quads(_two_planes, cv2.COLOR_YUV2RGB_NV21),
    'nv24': Encoding(1, _full_chroma, Fraction(3)),
    'yuv420': _quads(_three_planes, cv2.COLOR_YUV2RGB_I420),
}
"""Encodings by lower-case name; YUV is BT.601 with limited range, as in cv_bridge."""

OTHER_NAMES: Final = {
    'uyvy': 'yuv422',  # since Humble; FourCC
    'yuyv': 'yuv422_yuy2',
    'yuy2': 'yuv422_yuy2',  # GStreamer
    'i420': 'yuv420',  # GStreamer
    'iyuv': 'yuv420',
    'yu12': 'yuv420',  # V4L2
    'yuv420p': 'yuv420',  # FFmpeg
}
"""Other names of the same layouts, in lower case."""


def find_encoding(name: str) -> tuple[Encoding, int]:
    """
    Find an encoding by its name, case-insensitively, since GStreamer and GenICam use capitals.

    :param name: name in the message.
    :return: the encoding with 8 bits per sample, and the bytes per sample of the named encoding.
    :raises ImageError: if it is not known.
    """
    small = name.lower()
    base = OTHER_NAMES.get(small, small)
    if base in ENCODINGS:
        return ENCODINGS[base], 1
    if small.endswith('16') and small[:-2] + '8' in ENCODINGS:
        return ENCODINGS[small[:-2] + '8'], 2
    known = ', '.join(sorted({*ENCODINGS, *OTHER_NAMES}))
    text = f'encoding {name!r:.80} is not known: publish one of {known}, or one with 16 for the 8'
    raise ImageError(text, 'encoding')


def check_form(encoding: Encoding, name: str, height: int, width: int) -> None:
    """
    Reject sizes that OpenCV would accept, though some versions overrun the image's memory.

    :param encoding: encoding of the image.
    :param name: name of the encoding in the message.
    :param height: height of the image in pixels.
    :param width: width of the image in pixels.
    :raises ImageError: if an image of that size cannot have this encoding.
    """
    rows, columns = encoding.multiple_px
    if height % rows or width % columns:
        even = 'width and height' if rows > 1 else 'width'
        text = f'an image of {width}x{height} cannot be {name}, whose pixels share their colour'
        raise ImageError(f'{text}: publish an even {even}, or rgb8', 'conversion')
    if min(height, width) < encoding.min_px:
        text = f'an image of {width}x{height} is too small for {name}'
        minimum = encoding.min_px
        raise ImageError(f'{text}: publish at least {minimum}x{minimum}, or rgb8', 'conversion')


_STORED: Final = re.compile(r'compressed\s+(\w+)')
_GREY: Final = ('', 'mono8', 'mono16', '8uc1')


class ColorLayout(NamedTuple):
    """
    How to read the colours of a compressed image.

    :param bayer_encoding: encoding of the Bayer mosaic in a grey file; empty for other files.
    :param is_exchanged: whether red and blue are exchanged in the file.
    :param warnings: why the colours cannot be trusted.
    """

    bayer_encoding: str = ''
    is_exchanged: bool = False
    warnings: tuple[ImageWarning, ...] = ()


def refuse_depth(text: str) -> None:
    """
    Reject images of the transport for depth, whose data starts with another header.

    :param text: the `format`.
    :raises ImageError: if it is a depth image.
    """
    if 'compresseddepth' in text.lower():
        what = f'format {text!r:.80} holds depth, not colour: subscribe to a colour topic'
        raise ImageError(what, 'encoding')


def color_layout(text: str, is_grey: bool) -> ColorLayout:
    """
    Parse a `format` as the subscriber of image_transport does.

    The codec in it is ignored: it is detected from the file.

    :param text: the `format`.
    :param is_grey: whether the file has one component.
    :return: the colour layout of the file.
    :raises ImageError: if the file is not a colour or grey image.
    """
    original, separator, rest = text.lower().partition(';')
    original = original.strip()
    stored = match[1] if (match := _STORED.search(rest)) else ''
    if not separator and not _is_encoding(original):
        return ColorLayout()  # only a codec's name, or empty
    if is_grey:
        return _of_grey_file(text, original, stored)
    if not separator or original in _GREY or stored.startswith('bgr'):
        return ColorLayout()
    if stored.startswith('rgb'):
        return ColorLayout(is_exchanged=True)
    what = (
        f'format {text!r:.80} does not contain the order of the colours in the file, so red and '
        'blue may be exchanged: make the publisher write bgr8 after "compressed"'
    )
    return ColorLayout(warnings=(ImageWarning(ReasonCode.COLOR_ORDER, what),))


def _of_grey_file(text: str, original: str, stored: str) -> ColorLayout:
    if original in _GREY:
        return ColorLayout()
    if not _is_encoding(original):
        what = f'format {text!r:.80} holds {original!r:.40}, which is not an image encoding'
        raise ImageError(f'{what}: subscribe to a colour topic', 'encoding')
    bayer = original.startswith('bayer_')
    if bayer and (not stored or stored.startswith('bayer')):
        return ColorLayout(bayer_encoding=original)
    what = (
        f'all colour is lost: format {text!r:.80} declares {original}, but the '
        'file is grey; make the publisher convert to rgb8 before compression'
    )
    return ColorLayout(warnings=(ImageWarning(ReasonCode.COLOR_LOST, what),))


def _is_encoding(name: str) -> bool:
    try:
        find_encoding(name)
    except ImageError:
        return False
    return True
