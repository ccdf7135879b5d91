# SPDX-License-Identifier: Apache-2.0
"""
Finds missing fragments of the video in a fragmented MP4 file.

FFmpeg skips fragments that it cannot read, and continues after removed ones, without an error. But
fragments are numbered, and most writers also store the time at which the first frame of each is
decoded: the end of the previous fragment. Neither is sufficient alone: a recorder may pause, and
may number each track separately, or in larger steps. So a fragment is considered lost only if both
a number and the time are wrong, or if the time is not stored.

Boxes are those of ISO/IEC 14496-12; only their headers, `moov` and each `moof` are read.
"""

import re
import struct
from collections.abc import Iterator
from typing import BinaryIO, Final, NamedTuple

import numpy as np

_LARGEST: Final = 2**26
"""Maximum size of a box that is read completely; those of hours of video are smaller."""

_NAME: Final = re.compile(rb'[A-Za-z0-9 ]{4}')
_UNREADABLE: Final = (ValueError, IndexError, struct.error)


class Fragments(NamedTuple):
    """
    Missing parts of a fragmented file.

    :param lost_before: positions of fragments before which fragments of the video are missing.
    :param is_cut: whether the file is damaged or incomplete after the last fragment.
    """

    lost_before: tuple[int, ...]
    is_cut: bool


class _Box(NamedTuple):
    """A box of the file: its name, and the positions of its start, its content and its end."""

    name: bytes
    offset: int
    body: int
    end: int


class _Part(NamedTuple):
    """The samples of one track in a fragment; times in units of that track."""

    track: int
    start: int | None
    length: int
    frames: int
    size: int


class _Defaults(NamedTuple):
    """Default duration and size of samples, for fragments that do not contain them."""

    duration: int
    size: int


def find_lost_fragments(file: BinaryIO, track: int) -> Fragments | None:
    """
    Compare the fragments of an MP4 file with each other, and with its index if there is one.

    :param file: the file.
    :param track: number of the video track.
    :return: the missing parts; None if the file is not fragmented.
    """
    boxes = list(_boxes_of(file))
    moov = next((_content(file, box) for box in boxes if box.name == b'moov'), b'')
    is_fragmented = any(box.name == b'moof' for box in boxes) or b'mvex' in moov
    return _Walk(file, track, moov).follow(boxes) if is_fragmented else None


class _Walk:
    """Reads the fragments in the order of the file."""

    def __init__(self, file: BinaryIO, track: int, moov: bytes) -> None:
        self._file, self._track = file, track
        self._size = file.seek(0, 2)
        self._defaults, self._end = _read_moov(moov, track)
        self._number = 0
        self._frame = 0.0  # mean duration of a frame in the previous part; 0 without one
        self._unreferenced = 0  # bytes of data without a sample
        self._is_damaged = self._is_misnumbered = self._skips_numbers = False
        self._starts: list[int] = []
        self._lost_before: list[int] = []
        self._index: tuple[int, int, int] | None = None

    def follow(self, boxes: list[_Box]) -> Fragments:
        """Read the boxes, and check how they refer to each other."""
        declared = 0
        for box in boxes:
            self._is_damaged |= box.end > self._size or not _NAME.fullmatch(box.name)
            if box.name == b'moof':
                self._read_fragment(box)
            elif box.name == b'mdat' and self._starts:
                self._unreferenced += box.end - box.body
            elif box.name == b'mfra':
                self._index = _index_of(_content(self._file, box), self._track)
            elif box.name == b'sidx':
                declared = max(declared, box.end + _bytes_behind(_content(self._file, box)))
        is_cut = (
            self._is_damaged
            or self._unreferenced > 0
            or (self._is_misnumbered and not self._skips_numbers)
            or (declared > self._size and not self._lost_before)
            or self._index_continues()
        )
        return Fragments(tuple(self._lost_before), is_cut)

    def _read_fragment(self, box: _Box) -> None:
        self._is_damaged |= self._unreferenced != 0
        self._unreferenced = 0
        self._starts.append(box.offset)
        try:
            number, parts = _read_moof(_content(self._file, box), self._defaults)
        except _UNREADABLE:
            self._is_damaged = True
            return
        is_first = len(self._starts) == 1
        self._is_misnumbered |= number > 1 if is_first else number != self._number + 1
        self._number = number
        self._unreferenced = -sum(part.size for part in parts)
        for part in parts:
            if part.track == self._track and part.frames:
                self._join(part, box.offset)

    def _join(self, part: _Part, offset: int) -> None:
        """Compare a part of the video with the previous one."""
        frame = part.length / part.frames
        near = min(frame, self._frame or frame) / 10
        known = part.start is not None and self._end is not None
        follows = known and abs((part.start or 0) - (self._end or 0)) <= near
        if (self._is_damaged or self._is_misnumbered) and not follows:
            self._lost_before.append(offset)
        self._skips_numbers |= self._is_misnumbered
        self._is_damaged = self._is_misnumbered = False
        self._frame = frame
        start = self._end if part.start is None else part.start
        self._end = None if start is None else start + part.length

    def _index_continues(self) -> bool:
        """Return whether the index at the end of the file lists a later fragment of the video."""
        if self._index is None or not self._starts or self._end is None:
            return False
        first, last, time = self._index
        return first in self._starts and last > self._starts[-1] and time >= self._end


def _boxes_of(file: BinaryIO) -> Iterator[_Box]:
    """Find the top-level boxes; one without a size has an empty name, and is the last."""
    size = file.seek(0, 2)
    offset = 0
    while offset < size:
        file.seek(offset)
        head = file.read(16)
        length, body = int.from_bytes(head[:4], 'big'), offset + 8
        if length == 1:
            length, body = int.from_bytes(head[8:16], 'big'), offset + 16
        end = size if length == 0 else offset + length
        if end < body:
            yield _Box(b'', offset, body, size)
            return
        yield _Box(head[4:8], offset, body, end)
        offset = end


def _content(file: BinaryIO, box: _Box) -> bytes:
    """Read a box; empty if it is too large."""
    file.seek(box.body)
    return file.read(box.end - box.body) if box.end - box.body <= _LARGEST else b''


def _inner(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """
    Find the boxes in a box.

    :raises ValueError: if they do not fill the box.
    """
    offset = 0
    while offset < len(data):
        length, name = struct.unpack_from('>I4s', data, offset)
        head = 8
        if length == 1:
            (length,), head = struct.unpack_from('>Q', data, offset + 8), 16
        if length < head or offset + length > len(data):
            raise ValueError(f'a box of {length} bytes')
        yield name, data[offset + head : offset + length]
        offset += length


def _only(data: bytes, *path: bytes) -> bytes:
    """Return the content of a nested box, of which each level must contain exactly one."""
    for wanted in path:
        (data,) = [content for name, content in _inner(data) if name == wanted]
    return data


def _read_moov(data: bytes, track: int) -> tuple[dict[int, _Defaults], int | None]:
    """Read the defaults of each track, and the time at which its first fragment begins."""
    defaults: dict[int, _Defaults] = {}
    end = None
    try:
        for name, content in _inner(data):
            if name == b'mvex':
                for inner, fields in _inner(content):
                    if inner == b'trex':
                        number, _, *given = struct.unpack_from('>4I', fields, 4)
                        defaults[number] = _Defaults(*given)
            elif name == b'trak':
                head = _only(content, b'tkhd')
                if struct.unpack_from('>I', head, 20 if head[0] else 12) == (track,):
                    runs = np.frombuffer(_only(content, b'mdia', b'minf', b'stbl', b'stts'), '>u4')
                    end = int(runs[2::2].astype(np.uint64) @ runs[3::2].astype(np.uint64))
    except _UNREADABLE:
        return defaults, None
    return defaults, end


def _read_moof(data: bytes, defaults: dict[int, _Defaults]) -> tuple[int, list[_Part]]:
    """
    Read the header of a fragment.

    :return: its number, and its parts of all tracks.
    :raises ValueError: if it is damaged.
    """
    (number,) = struct.unpack_from('>I', _only(data, b'mfhd'), 4)
    return number, [
        _read_traf(content, defaults) for name, content in _inner(data) if name == b'traf'
    ]


def _read_traf(data: bytes, defaults: dict[int, _Defaults]) -> _Part:
    head = _only(data, b'tfhd')
    flags, track = struct.unpack_from('>II', head)
    offset = 8 + 8 * (flags & 1) + 4 * (flags >> 1 & 1)
    given = list(defaults.get(track, _Defaults(0, 0)))
    for number, bit in enumerate((0x8, 0x10)):
        if flags & bit:
            (given[number],) = struct.unpack_from('>I', head, offset)
            offset += 4
    start, length, count, size = None, 0, 0, 0
    for name, content in _inner(data):
        if name == b'tfdt':
            (start,) = struct.unpack_from('>Q' if content[0] else '>I', content, 4)
        elif name == b'trun':
            more = _read_trun(content, _Defaults(*given))
            length, count, size = length + more[0], count + more[1], size + more[2]
    return _Part(track, start, length, count, size)


def _read_trun(data: bytes, defaults: _Defaults) -> tuple[int, int, int]:
    """Sum up the durations of samples, their number and sizes."""
    flags, count = struct.unpack_from('>II', data)
    columns = [bit for bit in (0x100, 0x200, 0x400, 0x800) if flags & bit]
    offset = 8 + 4 * (flags & 1) + 4 * (flags >> 2 & 1)
    end = offset + 4 * len(columns) * count
    if end > len(data):
        raise ValueError(f'{count} samples in {len(data)} bytes')
    sums: dict[int, int] = {}
    if end > offset:
        table = np.frombuffer(data[offset:end], '>u4').reshape(count, len(columns))
        sums = dict(zip(columns, table.sum(axis=0, dtype=np.uint64).tolist()))
    length, size = count * defaults.duration, count * defaults.size
    return sums.get(0x100, length), count, sums.get(0x200, size)


def _index_of(data: bytes, track: int) -> tuple[int, int, int] | None:
    """Read the positions of the first and the last fragment, and the time of the latter."""
    try:
        for name, content in _inner(data):
            number = struct.unpack_from('>I', content, 4)[0] if name == b'tfra' else None
            if number != track:
                continue
            sizes, count = struct.unpack_from('>II', content, 8)
            one = '>QQ' if content[0] else '>II'
            step = struct.calcsize(one) + 3 + (sizes & 3) + (sizes >> 2 & 3) + (sizes >> 4 & 3)
            (_, first), (time, last) = (
                struct.unpack_from(one, content, 16 + step * entry) for entry in (0, count - 1)
            )
            return first, last, time
    except _UNREADABLE:
        pass
    return None


def _bytes_behind(data: bytes) -> int:
    """Return the number of bytes after a segment index that it describes."""
    try:
        offset = 20 if data[0] == 0 else 28
        (first,) = struct.unpack_from(
            '>I' if data[0] == 0 else '>Q', data, offset - (4, 8)[data[0] > 0]
        )
        (count,) = struct.unpack_from('>H', data, offset + 2)
        sizes = struct.unpack_from('>' + 'I8x' * count, data, offset + 4)
    except _UNREADABLE:
        return 0
    return int(first + sum(size & 0x7FFFFFFF for size in sizes))
