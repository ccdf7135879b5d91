# SPDX-License-Identifier: Apache-2.0
"""An endless sequence of malformed messages, the same for the same seed."""

import random
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Final

from surgseg_ros.messages.images import MAX_SIDE_PX
from surgseg_ros.messages.serialization import from_cdr, to_cdr
from tools.fuzz.checks import TYPES
from tools.fuzz.seeds import ENCODINGS, seeds

LARGEST: Final = 2**32 - 1
_NUMBERS: Final = (0, 1, 2, 3, 5, 127, 128, 255, 256, 65_535, 65_536, 2**31 - 1, 2**31, LARGEST)
_SIDES: Final = (0, 1, 7, 13, 10**5, MAX_SIDE_PX, MAX_SIDE_PX + 1, 2**31, LARGEST)
_PNG: Final = b'\x89PNG\r\n\x1a\n'

Change = Callable[[random.Random, bytearray], None]


def malformed(kind: str, seed: int) -> Iterator[bytes]:
    """
    Corrupt valid messages, at one to four positions each.

    :param kind: `image` or `compressed`.
    :param seed: seed of the random choice.
    :return: an endless sequence of CDR; some can still be converted to an image.
    """
    rng = random.Random(seed)
    good = list(seeds(kind).values())
    changes = (*BYTES, *FIELDS[kind])
    while True:
        cdr = bytearray(rng.choice(good))
        for _ in range(rng.choice((1, 1, 2, 4))):
            rng.choice(changes)(rng, cdr)
        yield bytes(cdr)


def _flip(rng: random.Random, cdr: bytearray) -> None:
    if cdr:
        cdr[rng.randrange(len(cdr))] ^= 1 << rng.randrange(8)


def _number(rng: random.Random, cdr: bytearray) -> None:
    """Write a problematic number at a position where a number may be."""
    if len(cdr) >= 8:
        offset = rng.randrange(0, min(len(cdr), 100) - 3, 4)
        order = rng.choice('<>')
        cdr[offset : offset + 4] = struct.pack(f'{order}I', rng.choice(_NUMBERS))


def _cut(rng: random.Random, cdr: bytearray) -> None:
    del cdr[rng.randrange(len(cdr) + 1) :]


def _remove(rng: random.Random, cdr: bytearray) -> None:
    begin = rng.randrange(len(cdr) + 1)
    del cdr[begin : begin + rng.randrange(1, 9)]


def _insert(rng: random.Random, cdr: bytearray) -> None:
    offset = rng.randrange(len(cdr) + 1)
    cdr[offset:offset] = rng.randbytes(rng.randrange(1, 9))


def _double(rng: random.Random, cdr: bytearray) -> None:
    begin = rng.randrange(len(cdr) + 1)
    cdr[begin:begin] = cdr[begin : begin + rng.randrange(1, 200)]


def _junk(rng: random.Random, cdr: bytearray) -> None:
    cdr[4:] = rng.randbytes(rng.randrange(400))


def _representation(rng: random.Random, cdr: bytearray) -> None:
    """Set another representation: the other byte order, a parameter list, XCDR 2."""
    cdr[:2] = bytes([rng.choice((0, 0, 0, 1, 255)), rng.randrange(12)])


BYTES: Final[tuple[Change, ...]] = (
    _flip,
    _number,
    _cut,
    _remove,
    _insert,
    _double,
    _junk,
    _representation,
)


def _field(name: str, choose: Callable[[random.Random], object]) -> Change:
    """Create a change that sets a field to another value, if the message still has fields."""

    def change(rng: random.Random, cdr: bytearray) -> None:
        kind = 'compressed' if name == 'format' else 'image'
        try:
            message = from_cdr(bytes(cdr), TYPES[kind])
        except Exception:  # an earlier change has destroyed the message
            return
        setattr(message, name, choose(rng))
        cdr[:] = to_cdr(message)

    return change


def _text(rng: random.Random) -> str:
    odd = ('', 'rgb9', 'mono', 'x' * 9000, 'ÿ', 'rgb8\0', '8UC3', 'nv42', 'png; compressedDepth')
    return rng.choice((*odd, *ENCODINGS))


def _not_utf8(rng: random.Random, cdr: bytearray) -> None:
    begin = cdr.find(b'/endoscope left')
    if begin >= 0:
        cdr[begin : begin + 15] = bytes(rng.randrange(128, 256) for _ in range(15))


def _png_chunk(rng: random.Random, cdr: bytearray) -> None:
    """Change a chunk of a PNG file and correct its checksum, so that the decoder reads it."""
    start = cdr.find(_PNG)
    chunks = list(_chunks(cdr, start + 8)) if start >= 0 else []
    if not chunks:
        return
    offset, size = rng.choice(chunks)
    if size:
        for _ in range(rng.choice((1, 2, 8))):
            cdr[offset + 8 + rng.randrange(size)] = rng.choice((0, 1, 8, 16, 127, 255))
    if rng.random() < 0.1:
        cdr[offset + 4 : offset + 8] = rng.choice((b'IDAT', b'PLTE', b'tRNS', b'acTL', b'fdAT'))
    checksum = zlib.crc32(cdr[offset + 4 : offset + 8 + size])
    cdr[offset + 8 + size : offset + 12 + size] = struct.pack('>I', checksum)


def _chunks(cdr: bytearray, offset: int) -> Iterator[tuple[int, int]]:
    while offset + 12 <= len(cdr):
        (size,) = struct.unpack_from('>I', cdr, offset)
        if offset + 12 + size > len(cdr):
            return
        yield offset, size
        offset += 12 + size


def _jpeg_segment(rng: random.Random, cdr: bytearray) -> None:
    """Change the bytes right after a marker of a JPEG file."""
    markers = [i for i in range(len(cdr) - 12) if cdr[i] == 0xFF and cdr[i + 1] >= 0xC0]
    if markers:
        offset = rng.choice(markers) + rng.randrange(1, 12)
        cdr[offset] = rng.choice((0, 1, 2, 16, 127, 128, 255, rng.randrange(256)))


FIELDS: Final[dict[str, tuple[Change, ...]]] = {
    'image': (
        _field('height', lambda rng: rng.choice(_SIDES)),
        _field('width', lambda rng: rng.choice(_SIDES)),
        _field('step', lambda rng: rng.choice((*_SIDES, 31, 79))),
        _field('encoding', _text),
        _field('is_bigendian', lambda rng: rng.randrange(256)),
        _not_utf8,
    ),
    'compressed': (
        _field('format', _text),
        *(_png_chunk, _jpeg_segment) * 4,
        _not_utf8,
    ),
}
"""Changes that depend on the layout of a kind of message."""
