# SPDX-License-Identifier: Apache-2.0
"""Reads the intact part of MCAP files that a crash or a full disk has truncated or damaged."""

import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from io import BytesIO
from typing import Any, BinaryIO, Final

import lz4.frame  # type: ignore[import-untyped]

from surgseg_ros.bags.definitions import Connection, DamagedError, Definitions, Received
from surgseg_ros.bags.records import (
    CHUNK,
    MAX_BYTES,
    MCAP_MAGIC,
    MESSAGE,
    MESSAGE_INDEX,
    RecordSpan,
    messages_among,
    messages_at,
    packed_part,
    record_spans,
    records_at,
    records_within,
    zstd,
)
from surgseg_ros.bags.storages import McapFile

_BLOCK_BYTES: Final = 2**20

_MAX_TAIL_BYTES: Final = 2**28
"""Maximum length of a chunk; if the length is greater, the length itself is damaged."""

_MAX_OWN_ZEROS: Final = 8
"""If a file ends with more zeros than this, a crash left them in place of data."""

_INDEX_HEAD_BYTES: Final = 2 + 4
"""Bytes of a message index, in addition to 16 for each message."""

_PIECE_BYTES: Final = 2**12

_PIECEWISE: Final[Mapping[str, Callable[[], Any]]] = {
    'zstd': zstd.ZstdDecompressor,
    'lz4': lz4.frame.LZ4FrameDecompressor,
}
"""Objects that decompress a chunk piece by piece, by the name of its compression."""


class RecoveredMcap(McapFile):
    """A truncated MCAP file, of which intact messages are read in the order of the file."""

    def open(self) -> None:
        """Find connections and counts, without the index, which was at the end of the file."""
        self._stream = file = self.path.open('rb')
        self._bad: set[RecordSpan] = set()
        self._counts: Counter[int] = Counter()
        self._definitions = Definitions()
        try:
            self._data_start = self._data_end = len(MCAP_MAGIC)
            end = _end_without_zeros(file)
            chunks, lost = self._walk(file, end)
            self._tail = _intact_part_of_chunk(file, self._data_end, end)
            saved = self._note(records_within(self._tail))
            for span in self._bad:  # definitions occur once, in the first chunks
                part = _intact_part_of_chunk(file, span.start - 9, span.end)
                for opcode, content in records_within(part):
                    self._add_definition(opcode, content)
            self.connections = self._definitions.connections(self._counts)
            self.lost = self._loss(file, saved, chunks, lost)
        except BaseException:
            self.close()
            raise

    def messages(self, connections: Collection[Connection]) -> Iterator[Received]:
        """Iterate over the intact records."""
        wanted = {x.id: x for x in connections}
        for span in self._data():
            if span not in self._bad:
                yield from messages_at(self._file(), span, wanted)
        yield from messages_among(records_within(self._tail), wanted)

    def _walk(self, file: BinaryIO, end: int) -> tuple[int, int]:
        """Record the content of the file; count chunks, and the messages of damaged chunks."""
        chunks = lost = 0
        is_bad = False
        for span in record_spans(file, self._data_start, end):
            self._data_end = span.end
            if span.opcode == MESSAGE_INDEX:
                lost += max(0, span.end - span.start - _INDEX_HEAD_BYTES) // 16 if is_bad else 0
                continue
            chunks += span.opcode == CHUNK
            try:
                self._note(records_at(file, span))
                is_bad = False
            except DamagedError:
                self._bad.add(span)
                is_bad = True
        return chunks, lost

    def _note(self, records: Iterable[tuple[int, memoryview]]) -> int:
        """Add the definitions in records, and count the messages in them."""
        count = 0
        for opcode, content in records:
            if opcode == MESSAGE:
                self._counts[int.from_bytes(content[:2], 'little')] += 1
                count += 1
            else:
                self._add_definition(opcode, content)
        return count

    def _add_definition(self, opcode: int, content: memoryview) -> None:
        """Add a definition; ignore it if it is malformed."""
        with contextlib.suppress(ValueError):
            self._definitions.note(opcode, content)

    def _loss(self, file: BinaryIO, saved: int, chunks: int, lost: int) -> str:
        rest = file.seek(0, 2) - self._data_end
        file.seek(self._data_end)
        has_end = rest == len(MCAP_MAGIC) and file.read() == MCAP_MAGIC
        parts = []
        if not has_end:
            what = (
                f'{saved} can be read, which no checksum covers' if saved else 'none can be read'
            )
            parts.append(
                f'the end is missing, and of the messages in its last {rest} bytes {what}'
            )
        bad = Counter(span.opcode for span in self._bad)
        if bad[CHUNK]:
            of = f' with {lost} messages' if lost else ''
            parts.append(f'left out as damaged: {bad[CHUNK]} of {chunks} chunks{of}')
        if bad[MESSAGE]:
            parts.append(f'left out as damaged: {bad[MESSAGE]} messages')
        named = {x.id for x in self.connections}
        if unnamed := sum(n for key, n in self._counts.items() if key not in named):
            parts.append(f'left out, their topics being unknown: {unnamed} messages')
        return '; '.join(parts) or 'the index is damaged'


def _end_without_zeros(file: BinaryIO) -> int:
    """Find the end of the data, since a crash may leave zeros after it."""
    size = end = file.seek(0, 2)
    while end:
        start = max(0, end - _BLOCK_BYTES)
        file.seek(start)
        if written := file.read(end - start).rstrip(b'\0'):
            return min(size, start + len(written) + _MAX_OWN_ZEROS)
        end = start
    return 0


def _intact_part_of_chunk(file: BinaryIO, start: int, end: int) -> bytes:
    """Decompress the beginning of a truncated or damaged chunk, if there is one."""
    if end - start > _MAX_TAIL_BYTES:
        return b''
    file.seek(start)
    data = file.read(end - start)
    if not data or data[0] != CHUNK:
        return b''
    try:
        name, packed = packed_part(memoryview(data)[9:])
    except ValueError:
        return b''
    return _unpack_beginning(name, packed)


def _unpack_beginning(compression: str, packed: memoryview) -> bytes:
    """
    Decompress the beginning of a truncated or damaged chunk.

    :param compression: the name of the compression.
    :param packed: the compressed data, as far as they exist.
    :return: the data before the first damaged piece; empty if the compression is unknown.
    """
    if not compression:
        return bytes(packed)
    if compression not in _PIECEWISE:
        return b''
    unpacker, found = _PIECEWISE[compression](), BytesIO()
    for start in range(0, len(packed), _PIECE_BYTES):
        left = MAX_BYTES - found.tell()
        try:
            found.write(unpacker.decompress(packed[start : start + _PIECE_BYTES], max_length=left))
        except (zstd.ZstdError, EOFError, RuntimeError):  # RuntimeError is raised by lz4
            break
        if unpacker.eof or found.tell() >= MAX_BYTES:
            break
    return found.getvalue()
