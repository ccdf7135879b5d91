# SPDX-License-Identifier: Apache-2.0
"""Reads of files that a crash or a full disk cut off the part that is whole."""

import sqlite3
import struct
from collections import Counter
from collections.abc import Collection, Generator, Iterator
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import quote

import lz4.frame  # type: ignore[import-untyped]
from rosbags.interfaces import (
    Connection,
    ConnectionExtRosbag2,
    MessageDefinition,
    MessageDefinitionFormat,
)

from surgseg_ros.bags.storages import McapFile
from surgseg_ros.bags.zstandard import MOST_BYTES, zstd

MCAP_MAGIC: Final = b'\x89MCAP0\r\n'
SQLITE_MAGIC: Final = b'SQLite format 3\x00'

_MOST_TAIL_BYTES: Final = 2**28
"""A longer chunk is none: its length is among what is damaged."""

_MOST_LOST_ROWS: Final = 10_000
"""So many rows in succession that can't be read are taken for the end."""

_CHUNK_HEAD: Final = struct.Struct('<BQQQQI')  # opcode, length, times, size, checksum
_CHUNK: Final = 6

_PREFIX_OF: Final[dict[str, Any]] = {
    '': lambda data: data,
    'zstd': lambda data: zstd.ZstdDecompressor().decompress(data, max_length=MOST_BYTES),
    'lz4': lambda data: lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=MOST_BYTES),
}
"""Unpacks what is there of a chunk, by the name of its compression."""


class CutMcap(McapFile):
    """An MCAP file without its end: the whole messages of it, in the order of the file."""

    def open(self) -> None:
        """Count what is there; the index at the end of the file, which says it, is lost."""
        file = self.path.open('rb')
        self.bio = self._file = file
        try:
            start = file.seek(len(MCAP_MAGIC))
            end = _end_of_whole_records(file)
            tail = _whole_part_of_chunk(file, end)
            self._parts = [(file, start, end), (BytesIO(tail), 0, len(tail))]
            counts: Counter[int] = Counter()
            saved = 0
            for _ in self._each_part():
                self.meta_scan()
                there = self.statistics.channel_message_counts if self.statistics else {}
                saved = sum(there.values())
                counts.update(there)
            self.note_hashes()
        except BaseException:
            self.close()
            raise
        self.connections = [x._replace(msgcount=counts[x.id]) for x in self.connections]
        rest = file.seek(0, 2) - end
        self.lost = f'the end is missing, and in its last {rest} bytes {saved} messages are whole'

    def messages(
        self,
        connections: Collection[Connection],
        start: int | None = None,
        stop: int | None = None,
    ) -> Generator[tuple[Connection, int, bytes], None, None]:
        """Go through the whole records."""
        for _ in self._each_part():
            yield from self.messages_scan(connections, start, stop)

    def close(self) -> None:
        """Close the file."""
        self.bio = self._file
        super().close()

    def _each_part(self) -> Iterator[None]:
        """Let the reader's own scans run over the file, and then over its last chunk."""
        for stream, start, end in self._parts:
            self.bio, self.data_start, self.data_end = stream, start, end
            yield


class CutSqlite:
    """
    A file of SQLite that is damaged: the rows that can be read, in the order of recording.

    :param path: of the file.
    """

    lost = 'the rows in damaged pages are lost'

    def __init__(self, path: Path) -> None:
        """Remember the path; nothing is opened yet."""
        self.path = path
        self.connections: list[Connection] = []

    def open(self) -> None:
        """Find the topics, and count the rows that can be reached."""
        uri = f'file:{quote(str(self.path.absolute()))}?immutable=1'
        self._database = sqlite3.connect(uri, uri=True)
        try:
            # Otherwise SQLite refuses a file that is shorter than its first page says.
            self._database.execute('PRAGMA writable_schema=ON')
            counts = Counter(topic for topic, _ in self._rows('topic_id, timestamp'))
            topics = self._database.execute('SELECT * FROM topics')
            names = [column[0] for column in topics.description]
            found = [dict(zip(names, row, strict=True)) for row in topics]
        except BaseException:
            self.close()
            raise
        self.connections = [
            Connection(
                id=x['id'],
                topic=x['name'],
                msgtype=x['type'],
                msgdef=MessageDefinition(MessageDefinitionFormat.NONE, ''),
                digest=x.get('type_description_hash', ''),
                msgcount=counts[x['id']],
                ext=ConnectionExtRosbag2(x['serialization_format'], []),
                owner=self,
            )
            for x in found
        ]

    def messages(
        self, connections: Collection[Connection]
    ) -> Iterator[tuple[Connection, int, bytes]]:
        """Go through the rows."""
        by_id = {x.id: x for x in connections}
        for topic, time_ns, data in self._rows('topic_id, timestamp, data'):
            if topic in by_id:
                yield by_id[topic], time_ns, data

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _rows(self, columns: str) -> Iterator[tuple[Any, ...]]:
        """Go through the rows, and past those that can't be read."""
        query = f'SELECT id, {columns} FROM messages WHERE id > ? ORDER BY id'
        last, lost = 0, 0
        while lost < _MOST_LOST_ROWS:
            try:
                with closing(self._database.execute(query, (last,))) as rows:
                    for row in rows:
                        last, lost = row[0], 0
                        yield row[1:]
                return
            except sqlite3.DatabaseError:
                last, lost = last + 1, lost + 1


def _end_of_whole_records(file: BinaryIO) -> int:
    """Walk over an MCAP file's records, each an opcode, 8 bytes of length and that many bytes."""
    start = file.tell()
    size = file.seek(0, 2)
    end = start
    while end + 9 <= size:
        file.seek(end)
        head = file.read(9)
        following = end + 9 + int.from_bytes(head[1:], 'little')
        # Opcode 0 is none: a file system that crashed leaves blocks of zeros.
        if head[0] == 0 or following > size:
            break
        end = following
    return end


def _whole_part_of_chunk(file: BinaryIO, start: int) -> bytes:
    """Unpack the whole records of a chunk that the end of the file cuts off, if there is one."""
    rest = file.seek(0, 2) - start
    if rest > _MOST_TAIL_BYTES:
        return b''
    file.seek(start)
    data = file.read(rest)
    name_at = _CHUNK_HEAD.size + 4
    if len(data) <= name_at or data[0] != _CHUNK:
        return b''
    name_end = name_at + int.from_bytes(data[_CHUNK_HEAD.size : name_at], 'little')
    try:
        unpack = _PREFIX_OF[data[name_at:name_end].decode()]
        records = unpack(data[name_end + 8 :])
    except Exception:  # of several libraries; then it is no chunk, or nothing of it is whole
        return b''
    return bytes(records[: _end_of_whole_records(BytesIO(records))])
