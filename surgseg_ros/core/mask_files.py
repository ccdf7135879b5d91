# SPDX-License-Identifier: Apache-2.0
"""Class masks as PNG files: what is none is told, since decoders make some mask of almost all."""

import struct
import zlib
from collections.abc import Iterator
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.labels import CLASS_COUNT, NO_DECISION
from surgseg_ros.core.limits import MAX_PIXELS, TOO_LARGE, refusal

WANTED: Final = 'a mask is an 8-bit grey PNG with the class index as grey value'

_SIGNATURE: Final = b'\x89PNG\r\n\x1a\n'
_GREY: Final = 0
_COLOUR_TYPES: Final = {
    _GREY: 'grey',
    2: 'colour',
    3: 'palette',
    4: 'grey with transparency',
    6: 'colour with transparency',
}
_SCALES: Final = {8: 1, 4: 17, 2: 85}
"""By the bits of a pixel, by what decoders multiply grey values, so that the last one is white."""

_OTHER_KINDS: Final = {
    b'\xff\xd8': 'JPEG data, which make other classes of the edges',
    b'GIF8': 'a GIF',
    b'BM': 'a BMP',
    b'II*\0': 'a TIFF',
    b'MM\0*': 'a TIFF',
    b'RIFF': 'WebP data',
}


def decode_mask(data: bytes) -> NDArray[np.uint8]:
    """
    Decode a PNG file of class indices.

    Grey of 8, 4 and 2 bits is read as indices. Of 1 bit it would say 0 and 1 of what is usually
    'no' and 'yes', 0 and 255: such files are no masks of classes.

    :param data: the file's content.
    :return: (H, W) uint8, its values as the file has them.
    :raises ValueError: if it is another kind of file, or damaged; the message begins
        with a verb.
    """
    if not data.startswith(_SIGNATURE):
        kinds = (kind for start, kind in _OTHER_KINDS.items() if data.startswith(start))
        raise ValueError(f'is {next(kinds, "no PNG")}; {WANTED}')
    names = [name for name, _ in _chunks(data)]
    if names[:1] != [b'IHDR'] or names[-1:] != [b'IEND'] or len(data) < 33:
        raise ValueError('is a PNG that is cut off or damaged; copy it again')
    depth, kind = data[24], data[25]
    if kind != _GREY or depth not in _SCALES or b'tRNS' in names:
        told_kind = _COLOUR_TYPES.get(kind, 'unknown')
        hole = ' with a transparent colour' if b'tRNS' in names else ''
        article = 'an' if depth == 8 else 'a'
        raise ValueError(f'is {article} {depth}-bit {told_kind} PNG{hole}; {WANTED}')
    return _decode(data, _SCALES[depth])


def _decode(data: bytes, scale: int) -> NDArray[np.uint8]:
    width, height = struct.unpack_from('>II', data, 16)
    if width * height > MAX_PIXELS:
        raise ValueError(TOO_LARGE)
    try:
        mask = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ValueError(refusal(error)) from error
    if mask is None or mask.ndim != 2 or mask.dtype != np.uint8:
        raise ValueError('is a PNG that does not decode; copy it again')
    # A decoder that does not stretch the values leaves them below what 4 bits hold.
    stretched = scale > 1 and int(mask.max(initial=0)) > 15
    return np.asarray(mask // np.uint8(scale) if stretched else mask, np.uint8)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Walk over the chunks that are whole: OpenCV makes something of others, without a word."""
    place = len(_SIGNATURE)
    while place + 12 <= len(data):
        length, name = struct.unpack_from('>I4s', data, place)
        end = place + 12 + length
        if end > len(data):
            return
        (checksum,) = struct.unpack_from('>I', data, end - 4)
        if zlib.crc32(data[place + 4 : end - 4]) != checksum:
            return
        yield name, data[place + 8 : end - 4]
        place = end
        if name == b'IEND':
            return


def no_classes(mask: NDArray[np.uint8], *, undecided: bool) -> list[int]:
    """
    Find the values of a mask that are no class.

    :param mask: (H, W) uint8.
    :param undecided: whether NO_DECISION may be among them, as in what a model says.
    :return: the values, ascending.
    """
    counts = np.bincount(mask.ravel(), minlength=256)
    if undecided:
        counts[NO_DECISION] = 0
    return (np.flatnonzero(counts[CLASS_COUNT:]) + CLASS_COUNT).tolist()
