# SPDX-License-Identifier: Apache-2.0
"""
Decodes JPEG files (ITU-T T.81) of messages, data sets and MJPEG videos, if they are complete.

Decoders made for display fill in missing parts: scans, chroma, or restart intervals in the wrong
order. So the segments are checked first; then the decoder runs in strict mode, in which it reports
errors in the coded data.
"""

import struct
from contextlib import suppress
from typing import Final, NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from surgseg_ros.core.processes import MAX_PIXELS

MAX_SCANS: Final = 100
MAX_SCANNED_PIXELS: Final = 1_000_000_000
"""
Maximum number of pixels in all scans after the first, together.

Progressive files have about 10 scans, and a scan takes 3 ns per pixel.
"""

START: Final = b'\xff\xd8'
_EOI: Final = 0xD9
_SOS: Final = 0xDA
_DRI: Final = 0xDD
_APP0: Final = 0xE0
_APP14: Final = 0xEE
_COM: Final = 0xFE
_PROGRESSIVE: Final = 0xC2
_FRAMES: Final = (0xC0, 0xC1, _PROGRESSIVE)
_OTHER_FRAMES: Final = (0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
_WITHOUT_LENGTH: Final = frozenset({0x00, 0x01, *range(0xD0, 0xD9)})

_DHT: Final = 0xC4
_DQT: Final = 0xDB
_ZEROS: Final = bytes(32)
_ONE_COEFFICIENT: Final = range(0x01, 0x0B)
"""Huffman symbols of a coefficient that directly follows another one (T.81, F.1.2.2)."""
_STANDARD_TABLES: Final = {0x10: 0x01, 0x11: 0x00}
"""
First symbols of the standard Huffman tables for AC coefficients (T.81, K.3), by table.

MJPEG files do not contain these tables; see `_Reader._first_symbol`.
"""

_COEFFICIENTS: Final = 64
_NEVER_SENT: Final = 255


class ImageFileError(ValueError):
    """
    A file that cannot be decoded to an image.

    :param text: what is wrong, without a remedy, which depends on the source of the file.
    :param kind: 'unreadable' as JPEG or PNG, 'cut off', 'damaged', or 'refused': not supported
        here, though other programs may read it.
    """

    def __init__(self, text: str, kind: str) -> None:
        """Store the kind with the text."""
        super().__init__(text)
        self.kind = kind


class UncommonSubsamplingError(ImageFileError):
    """A JPEG that the TurboJPEG API of libjpeg-turbo does not decode, damaged or not."""


class EncodedImage(NamedTuple):
    """
    A file that may be decoded.

    :param data: the first image, without metadata and data after its end.
    :param height: height in pixels, from its header.
    :param width: width in pixels, from its header.
    :param is_grey: whether it has only a grey channel.
    """

    data: bytes
    height: int
    width: int
    is_grey: bool

    def another_size(self) -> ImageFileError:
        """Return the error for a file that decodes to another size, or to nothing."""
        text = f'{len(self.data)} bytes do not decode to the {self.width}x{self.height}'
        return ImageFileError(f'{text} that their header declares', 'damaged')


class _Frame(NamedTuple):
    """Frame header; `sampling` maps a component's identifier to its (horizontal, vertical)."""

    marker: int
    height: int
    width: int
    sampling: dict[int, tuple[int, int]]


def check_jpeg(data: bytes) -> None:
    """
    Check a JPEG to its last code word, without decoding it at full size.

    The coded data of an uncommon chroma subsampling cannot be checked, and is not read.

    :param data: content of the file; anything may follow the end of the image.
    :raises ImageFileError: if a part is missing or damaged, or no camera sends files of this kind.
    """
    with suppress(UncommonSubsamplingError):
        # An eighth of the size needs every code word, and little else.
        decode_jpeg(read_segments(data), 'GRAY', shrink=8)


def decode_jpeg(file: EncodedImage, colors: str, *, shrink: int = 1) -> NDArray[np.uint8]:
    """
    Decode a JPEG with libjpeg-turbo; its warnings are errors.

    :param file: result of `read_segments`.
    :param colors: 'RGB' or 'GRAY'.
    :param shrink: 1 for the full image; 8 for a small one, which is a fast check for damage.
    :return: (H, W, 3) or (H, W, 1) uint8, each side divided by `shrink` and rounded up.
    :raises ImageFileError: if the coded data is damaged, or the image has too many pixels.
    """
    if file.height * file.width > MAX_PIXELS:
        text = f'a JPEG of {len(file.data)} bytes declares more than {MAX_PIXELS} pixels'
        raise ImageFileError(text, 'refused')
    side_px = 1 if shrink > 1 else 0  # at least; 0 keeps the size
    try:
        image = simplejpeg.decode_jpeg(
            file.data,
            colors,
            fastdct=shrink > 1,
            min_height=side_px,
            min_width=side_px,
            min_factor=shrink,
            strict=True,
        )
    except ValueError as error:
        if 'subsampling' in str(error):
            text = f'a JPEG file of an uncommon chroma subsampling ({error})'
            raise UncommonSubsamplingError(text, 'refused') from error
        text = f'{len(file.data)} bytes of a JPEG are damaged ({error})'
        raise ImageFileError(text, 'damaged') from error
    if image.shape[:2] != (-(-file.height // shrink), -(-file.width // shrink)):
        raise file.another_size()
    return np.asarray(image)


def read_segments(data: bytes) -> EncodedImage:
    """
    Check that the segments and scans of a JPEG are complete; nothing is decoded.

    :param data: content of the file; anything may follow the end of the image.
    :return: what to decode.
    :raises ImageFileError: if parts are missing or inconsistent, or no camera sends files of this
        kind.
    """
    return _Reader(data).read()


class _Reader:
    """
    Reads the segments and scans of one file up to the end of its image.

    :param data: content of the file.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._parts = [START]
        self._frame: _Frame | None = None
        self._restart_interval = 0
        self._scans = 0
        self._first_symbol = dict(_STANDARD_TABLES)
        """By class and number of a Huffman table: the symbol whose code consists of zeros."""
        self._precision: dict[int, NDArray[np.uint8]] = {}
        """By component and coefficient: the lowest bit that was sent."""
        # Within coded data 0xFF is followed by 0; two in a row are padding.
        array = np.frombuffer(data, np.uint8)
        codes = array[1:]
        self._offsets = np.flatnonzero((array[:-1] == 0xFF) & (codes != 0) & (codes != 0xFF))
        self._codes = codes[self._offsets]

    def read(self) -> EncodedImage:
        """Read the whole file; see `read_segments`."""
        offset = len(START)
        if not self._data.startswith(START):
            raise self._wrong('it does not start with a JPEG marker')
        while True:
            offset, marker = self._next_marker(offset)
            if marker == _EOI:
                break
            end = self._segment_end(offset)
            segment = self._data[offset:end]
            if marker in _FRAMES + _OTHER_FRAMES:
                self._read_frame(segment, marker)
            elif marker == _DRI and len(segment) == 6:
                self._restart_interval = int.from_bytes(segment[4:], 'big')
            elif marker == _DHT:
                self._read_tables(segment)
            elif marker == _DQT:
                self._check_quantization(segment)
            if marker == _SOS:
                offset = self._read_scan(segment, end)
                self._parts.append(self._data[end:offset])
            else:
                self._keep(segment, marker)
                offset = end
        return self._finish()

    def _next_marker(self, offset: int) -> tuple[int, int]:
        """Find the next marker, after any padding."""
        data = self._data
        while data[offset : offset + 2] == b'\xff\xff':
            offset += 1
        if offset + 2 > len(data):
            raise self._cut_off()
        if data[offset] != 0xFF or data[offset + 1] in _WITHOUT_LENGTH:
            raise self._wrong(
                f'{data[offset : offset + 2].hex()} is not a segment, at byte {offset}'
            )
        if data[offset + 1] == _EOI and self._frame is None:
            raise self._wrong('it ends before its image')
        return offset, data[offset + 1]

    def _segment_end(self, offset: int) -> int:
        length = int.from_bytes(self._data[offset + 2 : offset + 4], 'big')
        end = offset + 2 + length
        if end > len(self._data):
            raise self._cut_off()
        if length < 2:
            raise self._wrong(f'a segment of {length} bytes, at byte {offset}')
        return end

    def _keep(self, segment: bytes, marker: int) -> None:
        """Pass a segment to the decoder, unless it is metadata."""
        if marker == _COM or (_APP0 < marker <= 0xEF and marker != _APP14):
            return
        if marker == _APP0 and segment[4:9] == b'JFIF\0':
            # The decoder warns of other revisions, though the difference does not concern it.
            segment = segment[:9] + b'\1\1' + segment[11:]
        self._parts.append(segment)

    def _read_frame(self, segment: bytes, marker: int) -> None:
        if len(segment) < 10:
            raise self._wrong('its frame header is too short')
        bits, height, width, count = struct.unpack_from('>BHHB', segment, 4)
        if marker not in _FRAMES or bits != 8:
            text = f'a JPEG file of {bits} bits with the frame marker {marker:#x}'
            raise ImageFileError(text, 'refused')
        if self._frame is not None:
            raise self._wrong('it has two frame headers')
        described = segment[10 : 10 + 3 * count]
        sampling = {
            identifier: (factors >> 4, factors & 15)
            for identifier, factors in zip(described[::3], described[1::3], strict=False)
        }
        factors_fit = all(1 <= factor <= 4 for pair in sampling.values() for factor in pair)
        if not count or len(segment) != 10 + 3 * count or len(sampling) != count:
            raise self._wrong('its frame header contradicts itself')
        if not factors_fit or not height or not width:
            raise self._wrong(f'its frame header declares {width}x{height} pixels, {sampling}')
        self._frame = _Frame(marker, height, width, sampling)
        self._precision = {
            identifier: np.full(_COEFFICIENTS, _NEVER_SENT, np.uint8) for identifier in sampling
        }

    def _read_tables(self, segment: bytes) -> None:
        offset = 4
        while offset + 17 < len(segment):
            self._first_symbol[segment[offset]] = segment[offset + 17]
            offset += 17 + sum(segment[offset + 1 : offset + 17])

    def _check_quantization(self, segment: bytes) -> None:
        """Reject factors of 0 (T.81, B.2.4.1), which decoders silently turn into flat blocks."""
        offset = 4
        while offset < len(segment):
            size = 2 if segment[offset] >> 4 else 1
            table = segment[offset + 1 : offset + 1 + size * _COEFFICIENTS]
            if len(table) != size * _COEFFICIENTS:
                raise self._damaged('a quantization table is too short')
            if not np.frombuffer(table, f'>u{size}').all():
                raise self._damaged('a quantization table holds zeros')
            offset += 1 + len(table)

    def _read_scan(self, segment: bytes, start: int) -> int:
        """Read a scan's header and find where its coded data ends."""
        frame = self._frame
        count = segment[4] if len(segment) > 4 else 0
        if frame is None or not count or len(segment) != 8 + 2 * count:
            raise self._wrong('a scan without a frame header or of a wrong length')
        self._scans += 1
        pixels = (self._scans - 1) * frame.height * frame.width
        if self._scans > MAX_SCANS or pixels > MAX_SCANNED_PIXELS:
            text = f'a JPEG file of {frame.width}x{frame.height} pixels in {self._scans} scans'
            raise ImageFileError(text, 'refused')
        identifiers = segment[5 : 5 + 2 * count : 2]
        if not set(identifiers) <= set(frame.sampling):
            raise self._wrong('a scan of a component that its frame header does not name')
        # Other values have no meaning if a scan has all coefficients; some encoders write them.
        first, last, bits = segment[-3:] if frame.marker == _PROGRESSIVE else b'\0\x3f\0'
        self._parts.append(segment[:-3] + bytes((first, last, bits)))
        for identifier in identifiers:
            self._precision[identifier][first : last + 1] = bits & 15
        end = self._read_restarts(start, _blocks_in_scan(frame, identifiers))
        if frame.marker != _PROGRESSIVE:
            self._check_zeros(segment[6 : 6 + 2 * count : 2], start, end)
        return end

    def _check_zeros(self, selectors: bytes, start: int, end: int) -> None:
        """
        Detect a buffer that was never filled, which decoders would turn into a pattern.

        If a code of zeros means a coefficient, this many zeros are a block with the same value in
        all frequencies, which no image has. If it means the end of a block, as in tables for flat
        images, zeros are valid.
        """
        symbols = {self._first_symbol.get(0x10 | selector & 15, 0) for selector in selectors}
        if symbols.isdisjoint(_ONE_COEFFICIENT):
            return
        offset = self._data.find(_ZEROS, start, end)
        if offset >= 0:
            raise self._wrong(f'a part of its coded data is zeros, from byte {offset}')

    def _read_restarts(self, start: int, blocks: int) -> int:
        """Check the restart markers of a scan, which cycle from 0 to 7; return its end."""
        index = int(np.searchsorted(self._offsets, start))
        codes = self._codes[index:]
        others = np.flatnonzero((codes & 0xF8) != 0xD0)
        if not others.size:
            raise self._cut_off()
        count = int(others[0])
        interval = self._restart_interval
        expected = -(-blocks // interval) - 1 if interval else 0
        if count != expected:
            raise self._wrong(f'a scan has {count} restart markers instead of {expected}')
        if np.any((codes[:count] & 7) != np.arange(count) % 8):
            raise self._wrong('the restart markers of a scan are not in order')
        return int(self._offsets[index + count])

    def _finish(self) -> EncodedImage:
        frame = self._frame
        if frame is None:
            raise self._wrong('it has no image')
        if any(precision.any() for precision in self._precision.values()):
            raise self._wrong(f'the scans after the first {self._scans} are missing')
        data = b''.join((*self._parts, b'\xff\xd9'))
        return EncodedImage(data, frame.height, frame.width, len(frame.sampling) == 1)

    def _cut_off(self) -> ImageFileError:
        text = f'{len(self._data)} bytes that begin with {self._data[:8]!r} lack the end of the'
        return ImageFileError(f'{text} image', 'cut off')

    def _wrong(self, what: str) -> ImageFileError:
        """Return an error: unreadable before the frame header, damaged after it."""
        if self._frame is None:
            text = f'{len(self._data)} bytes that begin with {self._data[:8]!r} are not a readable'
            return ImageFileError(f'{text} JPEG ({what})', 'unreadable')
        return self._damaged(what)

    def _damaged(self, what: str) -> ImageFileError:
        return ImageFileError(f'{len(self._data)} bytes of a JPEG are damaged ({what})', 'damaged')


def _blocks_in_scan(frame: _Frame, identifiers: bytes) -> int:
    """Count the minimum coded units of a scan (T.81, A.2)."""
    across = max(factors[0] for factors in frame.sampling.values())
    down = max(factors[1] for factors in frame.sampling.values())
    if len(identifiers) > 1:
        return -(-frame.width // (8 * across)) * -(-frame.height // (8 * down))
    horizontal, vertical = frame.sampling[identifiers[0]]
    width, height = -(-frame.width * horizontal // across), -(-frame.height * vertical // down)
    return -(-width // 8) * -(-height // 8)
