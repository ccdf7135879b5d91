# SPDX-License-Identifier: Apache-2.0
"""Masks as PNG files: read as indices, or refused for what they are."""

import struct
import zlib

import cv2
import numpy as np
import pytest

from surgseg_ros.core.mask_files import decode_mask, no_classes

GREY, COLOUR, PALETTE, WITH_ALPHA = 0, 2, 3, 6


def chunk(name, data):
    return struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))


def write_png(indices, depth=8, kind=GREY, more=b'', interlaced=0):
    """Write what OpenCV cannot: any depth and colour type, of one sample a pixel."""
    height, width = indices.shape
    bits = np.unpackbits(indices[..., None], axis=2)[..., 8 - depth :].reshape(height, -1)
    rows = b''.join(b'\0' + row.tobytes() for row in np.packbits(bits, axis=1))
    head = struct.pack('>IIBBBBB', width, height, depth, kind, 0, 0, interlaced)
    parts = chunk(b'IHDR', head) + more + chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b'')
    return b'\x89PNG\r\n\x1a\n' + parts


def encode(suffix, image):
    return cv2.imencode(suffix, image)[1].tobytes()


MASK = np.random.default_rng(0).integers(0, 10, (24, 40)).astype(np.uint8)
LEAST = MASK % 4
PALETTE_CHUNK = chunk(b'PLTE', bytes(30))


@pytest.mark.parametrize(
    ('data', 'mask'),
    [
        (encode('.png', MASK), MASK),
        (write_png(MASK), MASK),
        (write_png(MASK, 4), MASK),
        (write_png(LEAST, 4), LEAST),
        (write_png(LEAST, 2), LEAST),
        (write_png(MASK % 2, 2), MASK % 2),
        (write_png(MASK * 0, 4), MASK * 0),
        (write_png(MASK, more=chunk(b'tEXt', b'Comment\0of a tool')), MASK),
        (encode('.png', MASK | 240), MASK | 240),
    ],
)
def test_grey_is_read_as_indices(data, mask):
    np.testing.assert_array_equal(decode_mask(data), mask)


def test_an_interlaced_file_is_read():
    one = np.full((1, 1), 7, np.uint8)  # of one pass alone
    np.testing.assert_array_equal(decode_mask(write_png(one, interlaced=1)), one)


@pytest.mark.parametrize(
    ('data', 'said'),
    [
        (write_png(MASK % 2, 1), 'is a 1-bit grey PNG'),
        (write_png(MASK, 8, PALETTE, PALETTE_CHUNK), 'is an 8-bit palette PNG'),
        (write_png(MASK, 4, PALETTE, PALETTE_CHUNK), 'is a 4-bit palette PNG'),
        (write_png(MASK % 2, 1, PALETTE, PALETTE_CHUNK), 'is a 1-bit palette PNG'),
        (write_png(MASK, more=chunk(b'tRNS', b'\0\0')), 'with a transparent colour'),
        (encode('.png', MASK.astype(np.uint16)), 'is a 16-bit grey PNG'),
        (encode('.png', np.dstack([MASK] * 3)), 'is an 8-bit colour PNG'),
        (encode('.png', np.dstack([MASK] * 4)), 'is an 8-bit colour with transparency PNG'),
        (encode('.jpg', MASK), 'is JPEG data, which make other classes'),
        (encode('.bmp', MASK), 'is a BMP'),
        (encode('.tiff', MASK), 'is a TIFF'),
        (b'', 'is no PNG'),
        (b'\x89PNG\r\n\x1a\n', 'cut off or damaged'),
        (write_png(MASK)[:-12], 'cut off or damaged'),
        (write_png(MASK)[:-40], 'cut off or damaged'),
    ],
)
def test_what_is_no_mask_is_told(data, said):
    with pytest.raises(ValueError, match=said):
        decode_mask(data)


def test_every_changed_byte_of_the_picture_is_told():
    data = write_png(MASK)
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 4
        with pytest.raises(ValueError, match=r'is '):
            decode_mask(bytes(changed))


def test_values_of_no_class_are_found():
    mask = np.uint8([[0, 9, 10, 25], [255, 254, 3, 10]])
    assert no_classes(mask, undecided=True) == [10, 25, 254]
    assert no_classes(mask, undecided=False) == [10, 25, 254, 255]
