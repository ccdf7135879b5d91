# SPDX-License-Identifier: Apache-2.0
"""
Reads the colour layout of a CompressedImage from its `format`.

The publisher of image_transport writes `ORIGINAL; CODEC compressed STORED`: the encoding of the
original image, and that of the samples passed to the encoder. If these were bgr8, the file has
the usual order of colours. Drivers often write only the name of the codec.
"""

import re
from typing import Final, NamedTuple

from surgseg_ros.core.reasons import ReasonCode
from surgseg_ros.messages.encodings import find_encoding
from surgseg_ros.messages.types import ImageError, ImageWarning

_STORED: Final = re.compile(r'compressed\s+(\w+)')
_GREY: Final = ('', 'mono8', 'mono16', '8uc1')


class ColorLayout(NamedTuple):
    """
    How to read the colours of a compressed image.

    :param bayer_encoding: encoding of the Bayer mosaic in a grey file; empty if it is not one.
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
    Read a `format` as the subscriber of image_transport does.

    The codec in it does not matter: it is detected from the file.

    :param text: the `format`.
    :param is_grey: whether the file has one component.
    :return: how to read the colours of the file.
    :raises ImageError: if the file is not a colour or grey image.
    """
    original, separator, rest = text.lower().partition(';')
    original = original.strip()
    stored = match[1] if (match := _STORED.search(rest)) else ''
    if not separator and not _is_encoding(original):
        return ColorLayout()  # a codec's name, or nothing
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
