# SPDX-License-Identifier: Apache-2.0
"""Reads the intact part of MCAP files that a crash or a full disk has truncated."""

import contextlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from typing import BinaryIO, Final

from surgseg_ros.bags.connections import Connection, DamagedError, Received
from surgseg_ros.bags.definitions import (
    Definitions,
)
from surgseg_ros.bags.mcap_file import McapFile
from surgseg_ros.bags.records import (
    CHUNK,
    MCAP_MAGIC,
    MESSAGE,
    MESSAGE_INDEX,
    Place,
    messages_among,
    messages_at,
    packed_part,
    places,
    records_at,
    records_within,
    unpack_beginning,
)

_BLOCK_BYTES: Final = 2**20

_MOST_TAIL_BYTES: Final = 2**28
"""Limit of a chunk's length: if it is greater, the length itself is damaged."""

_MOST_OWN_ZEROS: Final = 8
"""More zeros than this at a file's end are what a crash left in place of data."""

_INDEX_HEAD_BYTES: Final = 2 + 4
"""Bytes of a message index before the 16 of each message."""


class RecoveredMcap(McapFile):
    """A truncated MCAP file: its intact messages, in the order of the file."""

    def open(self) -> None:
        """Find connections and counts; the index at the end of the file is lost."""
        self._stream = file = self.path.open('rb')
        self._bad: set[Place] = set()
        self._counts: Counter[int] = Counter()
        self._definitions = Definitions()
        try:
            self._data_start = self._data_end = len(MCAP_MAGIC)
            end = _end_without_zeros(file)
            chunks, gone = self._walk(file, end)
            self._tail = _whole_part_of_chunk(file, self._data_end, end)
            saved = self._note(records_within(self._tail))
            for place in self._bad:  # definitions occur once, in the first chunks
                part = _whole_part_of_chunk(file, place.start - 9, place.end)
                for opcode, content in records_within(part):
                    self._learn(opcode, content)
            self.connections = self._definitions.connections(self._counts)
            self.lost = self._loss(file, saved, chunks, gone)
        except BaseException:
            self.close()
            raise

    def messages(self, connections: Collection[Connection]) -> Iterator[Received]:
        """Iterate over the intact records."""
        wanted = {x.id: x for x in connections}
        for place in self._data():
            if place not in self._bad:
                yield from messages_at(self._file(), place, wanted)
        yield from messages_among(records_within(self._tail), wanted)

    def _walk(self, file: BinaryIO, end: int) -> tuple[int, int]:
        """Record the content of the file; count its chunks, and the messages of damaged ones."""
        chunks = gone = 0
        is_bad = False
        for place in places(file, self._data_start, end):
            self._data_end = place.end
            if place.opcode == MESSAGE_INDEX:
                gone += max(0, place.end - place.start - _INDEX_HEAD_BYTES) // 16 if is_bad else 0
                continue
            chunks += place.opcode == CHUNK
            try:
                self._note(records_at(file, place))
                is_bad = False
            except DamagedError:
                self._bad.add(place)
                is_bad = True
        return chunks, gone

    def _note(self, records: Iterable[tuple[int, memoryview]]) -> int:
        """Add definitions from records, and count the messages among them."""
        count = 0
        for opcode, content in records:
            if opcode == MESSAGE:
                self._counts[int.from_bytes(content[:2], 'little')] += 1
                count += 1
            else:
                self._learn(opcode, content)
        return count

    def _learn(self, opcode: int, content: memoryview) -> None:
        """Add a definition; a broken one is ignored."""
        with contextlib.suppress(ValueError):
            self._definitions.note(opcode, content)

    def _loss(self, file: BinaryIO, saved: int, chunks: int, gone: int) -> str:
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
        bad = Counter(place.opcode for place in self._bad)
        if bad[CHUNK]:
            of = f' with {gone} messages' if gone else ''
            parts.append(f'left out as damaged: {bad[CHUNK]} of {chunks} chunks{of}')
        if bad[MESSAGE]:
            parts.append(f'left out as damaged: {bad[MESSAGE]} messages')
        named = {x.id for x in self.connections}
        if nameless := sum(n for key, n in self._counts.items() if key not in named):
            parts.append(f'left out as of topics whose names are lost: {nameless} messages')
        return '; '.join(parts) or 'the index is damaged'


def _end_without_zeros(file: BinaryIO) -> int:
    """Find the end of what was written: crashes may leave zeros after it."""
    size = end = file.seek(0, 2)
    while end:
        start = max(0, end - _BLOCK_BYTES)
        file.seek(start)
        if written := file.read(end - start).rstrip(b'\0'):
            return min(size, start + len(written) + _MOST_OWN_ZEROS)
        end = start
    return 0


def _whole_part_of_chunk(file: BinaryIO, start: int, end: int) -> bytes:
    """Decompress the beginning of a truncated or damaged chunk, if there is one."""
    if end - start > _MOST_TAIL_BYTES:
        return b''
    file.seek(start)
    data = file.read(end - start)
    if not data or data[0] != CHUNK:
        return b''
    try:
        name, packed = packed_part(memoryview(data)[9:])
    except ValueError:
        return b''
    return unpack_beginning(name, packed)
