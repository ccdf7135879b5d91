# SPDX-License-Identifier: Apache-2.0
"""
Decodes images and class masks in JPEG and PNG files, if they are complete and within limits.

Decoders return an image for almost any data, and may allocate gigabytes for a file of a hundred
bytes. So files are checked before native code reads them.
"""

import struct
import zlib
from collections.abc import Iterator
from itertools import islice, takewhile
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core import jpeg
from surgseg_ros.core.jpeg import EncodedImage, ImageFileError, UncommonSubsamplingError
from surgseg_ros.core.labels import CLASS_COUNT, NO_DECISION
from surgseg_ros.core.processes import MAX_PIXELS, TOO_LARGE, refusal

__all__ = [
    'MASK_FORMAT',
    'MAX_CHUNKS',
    'DecodedImage',
    'EncodedImage',
    'ImageFileError',
    'check_file',
    'decode_grey',
    'decode_mask',
    'decode_rgb',
    'encode_png',
    'is_image_file',
    'no_classes',
]

MAX_CHUNKS: Final = 100_000
"""Maximum number of chunks in a PNG file; each costs time, and writers put 8 kB or more in one."""

MASK_FORMAT: Final = 'a mask is an 8-bit grey PNG with the class index as grey value'

_PNG_START: Final = b'\x89PNG\r\n\x1a\n'
_PNG_HEAD: Final = 33
"""Length of the PNG signature and the IHDR chunk in bytes."""
_PNG_IMAGE: Final = frozenset({b'IHDR', b'PLTE', b'IDAT', b'IEND'})
_PNG_ANIMATION: Final = frozenset({b'acTL', b'fcTL', b'fdAT'})
_COLOUR_TYPES: Final = {
    0: 'grey',
    2: 'colour',
    3: 'palette',
    4: 'grey with transparency',
    6: 'colour with transparency',
}
_SCALES: Final = {8: 1, 4: 17, 2: 85}
"""Factor by which decoders scale grey values, so that the largest is 255, by bits per pixel."""

_OTHER_KINDS: Final = {
    b'\xff\xd8': 'JPEG data, which change the classes at edges',
    b'GIF8': 'a GIF',
    b'BM': 'a BMP',
    b'II*\0': 'a TIFF',
    b'MM\0*': 'a TIFF',
    b'RIFF': 'WebP data',
}


class DecodedImage(NamedTuple):
    """
    The image in a file.

    :param rgb: (H, W, 3) uint8 RGB.
    :param is_checked: False for a JPEG with an uncommon chroma subsampling, whose coded data
        cannot be checked for damage.
    """

    rgb: NDArray[np.uint8]
    is_checked: bool


def is_image_file(data: bytes) -> bool:
    """
    Return whether data is JPEG or PNG, by its first bytes.

    :param data: content of the file.
    :return: True for JPEG and PNG.
    """
    return data.startswith((_PNG_START, jpeg.START))


def check_file(data: bytes) -> EncodedImage:
    """
    Check that a file is a complete JPEG or PNG and within limits; nothing is decoded.

    Metadata (text, profiles, times) is removed: compressed metadata can unpack to a thousand
    times the size of the file.

    :param data: content of the file.
    :return: what to decode, and its size.
    :raises ImageFileError: if it is neither, is incomplete, or is a kind that no camera sends.
    """
    if data.startswith(_PNG_START):
        return _check_png(data)
    if not data.startswith(jpeg.START):
        raise ImageFileError(f'{_beginning(data)} are not a readable JPEG or PNG', 'unreadable')
    return jpeg.read_segments(data)


def decode_rgb(file: EncodedImage) -> DecodedImage:
    """
    Decode an image; an orientation tag in the file is ignored.

    :param file: result of `check_file`.
    :return: the image, without transparency; of 16-bit samples only the high byte.
    :raises ImageFileError: if its data is damaged.
    """
    is_checked = True
    if file.data.startswith(jpeg.START):
        try:
            return DecodedImage(jpeg.decode_jpeg(file, 'RGB'), is_checked)
        except UncommonSubsamplingError:
            is_checked = False
    bgr = _decode_by_opencv(file, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if bgr.shape != (file.height, file.width, 3):
        raise file.another_size()
    return DecodedImage(np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8), is_checked)


def decode_grey(file: EncodedImage) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """
    Decode the samples of a grey file unchanged: those of a mask, or of a Bayer mosaic.

    :param file: result of `check_file`, with `is_grey`.
    :return: (H, W) uint8, or uint16 from a 16-bit PNG.
    :raises ImageFileError: if its data is damaged, or it has transparency.
    """
    if file.data.startswith(jpeg.START):
        return jpeg.decode_jpeg(file, 'GRAY')[..., 0]
    samples = _decode_by_opencv(file, cv2.IMREAD_UNCHANGED)
    if samples.shape != (file.height, file.width):
        raise file.another_size()
    return samples


def _decode_by_opencv(file: EncodedImage, flags: int) -> NDArray[np.uint8]:
    """Decode with OpenCV, after checking checksums: its libpng would print a warning on stderr."""
    if file.height * file.width > MAX_PIXELS:
        raise ImageFileError(TOO_LARGE, 'refused')
    if file.data.startswith(_PNG_START) and _sound_chunks(file.data)[-1:] != [b'IEND']:
        raise ImageFileError(f'{_beginning(file.data)} have a wrong checksum', 'damaged')
    try:
        image = cv2.imdecode(np.frombuffer(file.data, np.uint8), flags)
    except cv2.error as error:
        raise ImageFileError(refusal(error), 'refused') from error
    if image is None:
        raise file.another_size()
    return np.asarray(image)


def _check_png(data: bytes) -> EncodedImage:
    """Check the chunks: a wrong length makes the decoder allocate gigabytes."""
    chunks = list(islice(_chunks(data), MAX_CHUNKS))
    names = [name for name, _, _ in chunks]
    if names[-1:] != [b'IEND'] and len(names) < MAX_CHUNKS:
        raise ImageFileError(f'{_beginning(data)} lack the end of the image', 'cut off')
    if names[0] != b'IHDR' or names.count(b'IHDR') > 1 or chunks[0][2] != _PNG_HEAD:
        raise ImageFileError(f'{_beginning(data)} are not a readable PNG', 'unreadable')
    if len(names) == MAX_CHUNKS:
        raise ImageFileError(f'a PNG file of more than {MAX_CHUNKS} chunks', 'refused')
    if animation := _PNG_ANIMATION.intersection(names):
        text = f'an animated PNG file, with {min(animation).decode()}'
        raise ImageFileError(text, 'refused')
    width, height, _, color = struct.unpack_from('>IIBB', data, 16)
    kept = [data[start:end] for name, start, end in chunks if name in _PNG_IMAGE]
    whole = data if len(kept) == len(chunks) else b''.join([_PNG_START, *kept])
    return EncodedImage(whole, height, width, color in (0, 4))


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start and end of the chunks of a PNG file, up to the first incomplete one."""
    offset = len(_PNG_START)
    while offset + 12 <= len(data):
        length, name = struct.unpack_from('>I4s', data, offset)
        end = offset + 12 + length
        if end > len(data):
            return
        yield name, offset, end
        if name == b'IEND':
            return
        offset = end


def _beginning(data: bytes) -> str:
    return f'{len(data)} bytes that begin with {data[:8]!r}'


def decode_mask(data: bytes) -> NDArray[np.uint8]:
    """
    Decode a PNG file of class indices.

    Grey values of 8, 4 and 2 bits are class indices. A file of 1 bit usually means 'no' and
    'yes', and is not a class mask.

    :param data: content of the file.
    :return: (H, W) uint8, the values of the file.
    :raises ValueError: if it is another kind of file, or damaged; the message starts with a verb.
    """
    if not data.startswith(_PNG_START):
        kinds = (kind for start, kind in _OTHER_KINDS.items() if data.startswith(start))
        raise ValueError(f'is {next(kinds, "not a PNG")}; {MASK_FORMAT}')
    names = _sound_chunks(data)
    if names[:1] != [b'IHDR'] or names[-1:] != [b'IEND'] or len(data) < _PNG_HEAD:
        raise ValueError('is a PNG that is cut off or damaged; copy it again')
    depth, kind = data[24], data[25]
    if kind != 0 or depth not in _SCALES or b'tRNS' in names:
        kind_name = _COLOUR_TYPES.get(kind, 'unknown')
        transparent = ' with a transparent colour' if b'tRNS' in names else ''
        article = 'an' if depth == 8 else 'a'
        raise ValueError(f'is {article} {depth}-bit {kind_name} PNG{transparent}; {MASK_FORMAT}')
    return _decode_indices(data, _SCALES[depth])


def _sound_chunks(data: bytes) -> list[bytes]:
    """List the chunks up to the first wrong checksum, which OpenCV would silently ignore."""
    sound = takewhile(lambda chunk: _is_sound(data[chunk[1] : chunk[2]]), _chunks(data))
    return [name for name, _, _ in sound]


def _is_sound(chunk: bytes) -> bool:
    return zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], 'big')


def _decode_indices(data: bytes, scale: int) -> NDArray[np.uint8]:
    width, height = struct.unpack_from('>II', data, 16)
    if width * height > MAX_PIXELS:
        raise ValueError(TOO_LARGE)
    try:
        mask = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ValueError(refusal(error)) from error
    if mask is None or mask.ndim != 2 or mask.dtype != np.uint8:
        raise ValueError('is a PNG that does not decode; copy it again')
    # A decoder that does not scale the values leaves them within 4 bits.
    stretched = scale > 1 and int(mask.max(initial=0)) > 15
    return np.asarray(mask // np.uint8(scale) if stretched else mask, np.uint8)


def no_classes(mask: NDArray[np.uint8], *, undecided: bool) -> list[int]:
    """
    Return the values of a mask that are not class indices.

    :param mask: (H, W) uint8.
    :param undecided: whether NO_DECISION is allowed, as in the output of a model.
    :return: the values, ascending.
    """
    counts = np.bincount(mask.ravel(), minlength=256)
    if undecided:
        counts[NO_DECISION] = 0
    return (np.flatnonzero(counts[CLASS_COUNT:]) + CLASS_COUNT).tolist()


def encode_png(image: NDArray[np.uint8], compression: int = 1) -> NDArray[np.uint8]:
    """
    Encode an image or a mask.

    By default, OpenCV 5 tries all filters in each row, which takes three times as long. A mask
    needs none: its runs of equal pixels are short to write, and take half of the time and space.

    :param image: (H, W, 3) uint8 RGB, or (H, W) uint8.
    :param compression: level of zlib, 0 to 9.
    :return: (N,) uint8, the file.
    """
    planes = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    settings = [cv2.IMWRITE_PNG_COMPRESSION, compression]
    if image.ndim == 2:
        settings += [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
    names = 'IMWRITE_PNG_FILTER', f'IMWRITE_PNG_FILTER_{"UP" if image.ndim == 3 else "NONE"}'
    if all(hasattr(cv2, name) for name in names):  # not in early versions
        settings += [getattr(cv2, name) for name in names]
    _, encoded = cv2.imencode('.png', planes, settings)
    return np.asarray(encoded, np.uint8).reshape(-1)
