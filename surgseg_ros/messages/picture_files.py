# SPDX-License-Identifier: Apache-2.0
"""JPEG and PNG files from outside, held against bounds before native code decodes them."""

import struct
from typing import Final

from surgseg_ros.messages.errors import ImageError

MOST_CHUNKS: Final = 100_000
"""In a PNG file; writers put 8 kB or more into each, and every one costs time."""

MOST_SCANS: Final = 100
MOST_SCANNED_PIXELS: Final = 1_000_000_000
"""Of a JPEG file, beyond its first scan; a progressive one has about 10, at 3 ns a pixel each."""

_PNG_START: Final = b'\x89PNG\r\n\x1a\n'
_PNG_PICTURE: Final = frozenset({b'IHDR', b'PLTE', b'IDAT', b'IEND'})
_PNG_MOVING: Final = frozenset({b'acTL', b'fcTL', b'fdAT'})

_JPEG_START: Final = b'\xff\xd8'
_JPEG_SCAN: Final = b'\xff\xda'
_JPEG_END: Final = b'\xff\xd9'
_JPEG_FRAMES: Final = {0xC0: 'baseline', 0xC1: 'extended', 0xC2: 'progressive'}
_JPEG_NOT_A_FRAME: Final = (0xC4, 0xC8, 0xCC)
_JPEG_ALONE: Final = frozenset({0x00, 0x01, *range(0xD0, 0xDA)})
"""Markers without a length, which have no place in front of the frame header."""


def check_file(data: bytes) -> tuple[bytes, int, int]:
    """
    See that a file is a JPEG or PNG that is all there and within bounds.

    What is no part of the picture (text, profiles, times) is not handed on: packed, it can be a
    thousand times as large as the file.

    :param data: the file's content.
    :return: what to decode, and the height and width in pixels that its header gives.
    :raises ImageError: if it is neither, cut off, or of a kind that no camera sends.
    """
    if data.startswith(_PNG_START):
        return _check_png(data)
    if data.startswith(_JPEG_START):
        return data, *_check_jpeg(data)
    raise _unreadable(data)


def _check_png(data: bytes) -> tuple[bytes, int, int]:
    """Walk over the chunks: a false length makes the decoder ask for gigabytes."""
    parts, place = [_PNG_START], len(_PNG_START)
    names: list[bytes] = []
    while len(names) < MOST_CHUNKS and b'IEND' not in names[-1:]:
        if place + 12 > len(data):
            raise _cut_off(data)
        length, name = struct.unpack_from('>I4s', data, place)
        end = place + 12 + length
        if end > len(data):
            raise _cut_off(data)
        if name in _PNG_PICTURE:
            parts.append(data[place:end])
        names.append(name)
        place = end
    if names[0] != b'IHDR' or names.count(b'IHDR') > 1 or len(parts[1]) != 25:
        raise _unreadable(data)
    if len(names) == MOST_CHUNKS:
        raise _refused(f'a PNG file of more than {MOST_CHUNKS} chunks')
    if moving := _PNG_MOVING.intersection(names):
        raise _refused(f'an animated PNG file, with {min(moving).decode()},')
    width, height = struct.unpack_from('>II', data, 16)
    whole = len(parts) == len(names) + 1
    return data if whole else b''.join(parts), height, width


def _check_jpeg(data: bytes) -> tuple[int, int]:
    """Find the size in the frame header; the decoder must not see another one than this."""
    place = 2
    while place + 9 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # fills
            place += 1
            continue
        length = int.from_bytes(data[place + 2 : place + 4], 'big')
        if marker in _JPEG_ALONE or length < 2:
            break
        if 0xC0 <= marker <= 0xCF and marker not in _JPEG_NOT_A_FRAME:
            return _check_jpeg_frame(data, place)
        place += 2 + length
    raise _unreadable(data)


def _check_jpeg_frame(data: bytes, place: int) -> tuple[int, int]:
    """Check what begins with a frame header; a thumbnail before it has scans and ends, too."""
    marker, bits, height, width = struct.unpack_from('>xBxxBHH', data, place)
    if marker not in _JPEG_FRAMES or bits != 8:
        raise _refused(f'a JPEG file of {bits} bits with the frame marker {marker:#x}')
    if data.rfind(_JPEG_END, place) < 0:
        raise _cut_off(data)
    scans = data.count(_JPEG_SCAN, place)
    if scans > MOST_SCANS or (scans - 1) * height * width > MOST_SCANNED_PIXELS:
        raise _refused(f'a JPEG file of {width}x{height} pixels in {scans} scans')
    return height, width


def _unreadable(data: bytes) -> ImageError:
    text = f'{len(data)} bytes that begin with {data[:8]!r} are no readable JPEG or PNG'
    return ImageError(f'{text}: set the image transport to one of these', 'decode')


def _cut_off(data: bytes) -> ImageError:
    text = f'{len(data)} bytes that begin with {data[:8]!r} lack the end of the picture'
    return ImageError(f'{text}: look for losses between the camera and here', 'decode')


def _refused(what: str) -> ImageError:
    text = f'{what} is not decoded: send baseline or progressive JPEG, or plain PNG'
    return ImageError(text, 'decode')
