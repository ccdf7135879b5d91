# SPDX-License-Identifier: Apache-2.0
"""Reads the complete files of bags: MCAP with any of its optional parts, SQLite of any version."""

import heapq
import math
import sqlite3
import struct
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final
from urllib.parse import quote

from surgseg_ros.bags.definitions import (
    CHANNEL,
    SCHEMA,
    ChunkIndex,
    Connection,
    DamagedError,
    Definitions,
    Received,
    Statistics,
    UnreadableError,
    describe_foreign,
    offers_transient_local,
    read_chunk_index,
    read_statistics,
    ros_type_name,
)
from surgseg_ros.bags.records import (
    CHUNK,
    CHUNK_INDEX,
    MCAP_MAGIC,
    MESSAGE,
    STATISTICS,
    UNPACKERS,
    Found,
    RecordSpan,
    checksum_of,
    chunk_at,
    content_at,
    find_messages,
    messages_at,
    record_spans,
    records_at,
)
from surgseg_ros.core.processes import in_order

_FOOTER: Final = struct.Struct('<BQQQI8s')
"""Footer: opcode, length, start of summary and of its offsets, checksum; MCAP_MAGIC follows."""

_FOOTER_HEAD: Final = (2, 20)

_CHECKED_FOOTER_BYTES: Final = _FOOTER.size - 4 - len(MCAP_MAGIC)

_THREADS: Final = 2  # they read chunks after the first: of many files, all begin at once
_MAX_PREFETCHED_BYTES: Final = 2**26  # of a chunk, decompressed: several are in memory

_Bad = dict[int, str]  # by the position of the chunk, how it is damaged
_Waiting = list[tuple[int, int, int, int, Found]]


class McapFile:
    """
    A complete MCAP file.

    Its summary may be absent, or lack channels, schemas, counts or the chunk index; these are then
    read from the data section as needed. Without a message index, as with rosbag2's preset
    `fastwrite`, messages are in the order of the file, as rosbag2 plays them.

    :param path: path of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.connections: list[Connection] = []
        self._stream: BinaryIO | None = None
        self._data_start = self._data_end = len(MCAP_MAGIC)
        self._chunks: list[ChunkIndex] = []
        self._is_indexed = False

    def open(self) -> None:
        """
        Find the connections.

        :raises UnreadableError: if the compression of its chunks is not supported.
        :raises ValueError: if it is damaged.
        """
        self._stream = self.path.open('rb')
        try:
            definitions = Definitions()
            statistics = self._read_summary(definitions)
            counts = self._count(definitions, statistics)
            self._define(definitions, counts)
            self._is_indexed = self._has_all_in_index(counts)
            self.connections = definitions.connections(counts)
        except BaseException:
            self.close()
            raise

    def messages(self, connections: Collection[Connection]) -> Iterator[Received]:
        """Iterate over the messages, by the index or else in file order; skip damaged chunks."""
        read = self._by_index if self._is_indexed else self._in_file_order
        bad: _Bad = {}
        yield from read({x.id: x for x in connections}, bad)
        if bad:
            of = f' of {len(self._chunks)}' if self._chunks else ''
            raise DamagedError(
                f'of {self.path.name!r} left out as damaged: {len(bad)}{of} chunks '
                f'({next(iter(bad.values()))})'
            )

    def close(self) -> None:
        """Close the file."""
        if self._stream is not None:
            self._stream.close()
        self._stream = None

    def _file(self) -> BinaryIO:
        if self._stream is None:
            raise ValueError(f'{str(self.path)!r} is closed')
        return self._stream

    def _data(self) -> Iterator[RecordSpan]:
        return record_spans(self._file(), self._data_start, self._data_end)

    def _read_summary(self, definitions: Definitions) -> Statistics | None:
        """Find start and end of the messages, and read the summary after them."""
        file = self._file()
        if file.read(len(MCAP_MAGIC)) != MCAP_MAGIC:
            raise ValueError('it does not start with the magic bytes of MCAP')
        footer_at = file.seek(-_FOOTER.size, 2)
        *head, summary_at, _, checksum, magic = _FOOTER.unpack(file.read(_FOOTER.size))
        if tuple(head) != _FOOTER_HEAD or magic != MCAP_MAGIC:
            raise ValueError('it does not end with the magic bytes of MCAP')
        self._data_end = summary_at or footer_at
        if not self._data_start <= self._data_end <= footer_at:
            raise ValueError('the footer is damaged')
        # The summary determines the topics, and so the messages that could be missed.
        end = footer_at + _CHECKED_FOOTER_BYTES
        if checksum and checksum != checksum_of(file, self._data_end, end):
            raise ValueError('the checksum of the summary is wrong')
        statistics, end = None, self._data_end
        for span in record_spans(file, self._data_end, footer_at):
            end = span.end
            if span.opcode not in (SCHEMA, CHANNEL, CHUNK_INDEX, STATISTICS):
                continue
            file.seek(span.start)
            content = memoryview(file.read(span.end - span.start))
            definitions.note(span.opcode, content)
            if span.opcode == CHUNK_INDEX:
                self._note_chunk(read_chunk_index(content))
            elif span.opcode == STATISTICS:
                statistics = read_statistics(content)
        if end != footer_at:
            raise ValueError(f'the summary is damaged at byte {end}')
        return statistics

    def _note_chunk(self, chunk: ChunkIndex) -> None:
        if chunk.compression not in UNPACKERS:
            raise UnreadableError(
                f'its chunks are compressed with {chunk.compression!r}, which is not supported: '
                'compress them again with `mcap compress --compression zstd`'
            )
        self._chunks.append(chunk)

    def _count(self, definitions: Definitions, statistics: Statistics | None) -> Mapping[int, int]:
        """Count the messages by channel, from the summary if it has counts, or one by one."""
        if statistics and sum(statistics.counts.values()) == statistics.messages:
            return statistics.counts
        counts: Counter[int] = Counter()
        end = self._data_start
        for span in self._data():
            end = span.end
            if span.opcode == MESSAGE:
                self._file().seek(span.start)
                counts[int.from_bytes(self._file().read(2), 'little')] += 1
                continue
            for opcode, content in records_at(self._file(), span):
                definitions.note(opcode, content)
                if opcode == MESSAGE:
                    counts[int.from_bytes(content[:2], 'little')] += 1
        if end != self._data_end:
            raise ValueError(f'there is no record at byte {end}')
        return counts

    def _has_all_in_index(self, counts: Mapping[int, int]) -> bool:
        """Return whether the index covers all messages: some chunks may not have one."""
        indexed: Counter[int] = Counter()
        for chunk in self._chunks:
            indexed.update(chunk.counts)
        return bool(self._chunks) and indexed == Counter(counts)

    def _define(self, definitions: Definitions, counts: Mapping[int, int]) -> None:
        """Search the data section for definitions that are not in the summary."""
        needed = {key for key, count in counts.items() if count}
        if not definitions.lacks(needed):
            return
        for span in self._data():
            if span.opcode in (SCHEMA, CHANNEL, CHUNK):
                for opcode, content in records_at(self._file(), span):
                    definitions.note(opcode, content)
                if not definitions.lacks(needed):
                    return
        raise ValueError(f'channels without a definition: {len(definitions.lacks(needed))}')

    def _by_index(self, wanted: Mapping[int, Connection], bad: _Bad) -> Iterator[Received]:
        """Iterate over the messages by time; their chunks, which may overlap, by start time."""
        chunks = [x for x in self._chunks if not x.counts.keys().isdisjoint(wanted)]
        chunks.sort(key=lambda chunk: chunk.start_time_ns)
        calls = (partial(self._messages_of, x, wanted, _MAX_PREFETCHED_BYTES) for x in chunks[1:])
        waiting: _Waiting = []
        with closing(in_order(calls, _THREADS)) as contents:
            for order, chunk in enumerate(chunks):
                yield from self._read(waiting, chunk.start_time_ns, bad)
                found = next(contents) if order else None
                if found is None:
                    found = self._messages_of(chunk, wanted)
                if isinstance(found, str):
                    bad[chunk.start] = found
                    continue
                for number, message in enumerate(found or ()):  # messages are never compared
                    heapq.heappush(waiting, (message[1], chunk.start, order, number, message))
        yield from self._read(waiting, math.inf, bad)

    def _messages_of(
        self, chunk: ChunkIndex, wanted: Mapping[int, Connection], limit: float = math.inf
    ) -> list[Found] | str | None:
        """Find a chunk's messages, or how it is damaged; None if it takes more memory."""
        try:
            span, size = chunk_at(self._file(), chunk.start, self._data_end)
            return None if size > limit else find_messages(self._file(), span, wanted)
        except DamagedError as error:
            return str(error)

    def _read(self, waiting: _Waiting, end_ns: float, bad: _Bad) -> Iterator[Received]:
        while waiting and waiting[0][0] < end_ns:
            _, chunk, _, _, (connection, time_ns, data) = heapq.heappop(waiting)
            try:
                cdr = content_at(self._file(), data) if isinstance(data, RecordSpan) else data
                yield connection, time_ns, cdr
            except DamagedError as error:
                bad[chunk] = str(error)

    def _in_file_order(self, wanted: Mapping[int, Connection], bad: _Bad) -> Iterator[Received]:
        end = self._data_start
        for span in self._data():
            end = span.end
            try:
                yield from messages_at(self._file(), span, wanted)
            except DamagedError as error:
                bad[span.start] = str(error)
        if end != self._data_end:
            raise ValueError('; '.join([f'there is no record at byte {end}', *bad.values()][:2]))


_NAMES: Final = ('name', 'type', 'serialization_format', 'type_description_hash')
"""Text columns of a topic; which of them exist depends on the version."""

SQLITE_MAGIC: Final = b'SQLite format 3\x00'


class SqliteFile:
    """
    An intact SQLite file.

    :param path: path of the file.
    :param query: query of the SQLite URI with which it is opened.
    """

    def __init__(self, path: Path, query: str = 'immutable=1') -> None:
        self.path = path
        self.connections: list[Connection] = []
        self._query = query

    def open(self) -> None:
        """
        Find the connections.

        :raises UnreadableError: if it is not a file of a bag.
        :raises sqlite3.Error: if it is damaged.
        """
        self._database = open_database(self.path, self._query)
        try:
            self._check_tables()
            count = 'SELECT topic_id, COUNT(*) FROM messages GROUP BY topic_id'
            self.connections = read_connections(
                self._database, dict(self._database.execute(count))
            )
        except BaseException:
            self.close()
            raise

    def messages(self, connections: Collection[Connection]) -> Iterator[Received]:
        """Iterate over the messages by time; at equal times, in the order of recording."""
        by_id = {x.id: x for x in connections}
        marks = ', '.join('?' * len(by_id))
        # Without their data: without an index, SQLite would sort copies of the data.
        order = (
            f'SELECT rowid, topic_id, timestamp FROM messages WHERE topic_id IN ({marks}) '
            'ORDER BY timestamp, rowid'
        )
        one = 'SELECT data FROM messages WHERE rowid = ?'
        for row, topic, time_ns in self._database.execute(order, tuple(by_id)):
            ((data,),) = self._database.execute(one, (row,))
            yield by_id[topic], time_ns, as_cdr(data)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _check_tables(self) -> None:
        query = "SELECT name FROM sqlite_master WHERE type IN ('table', 'view')"
        tables = [_text(name, 'replace') for (name,) in self._database.execute(query)]
        if lacking := [name for name in ('topics', 'messages') if name not in tables]:
            raise UnreadableError(
                f'it is a database without the tables {" and ".join(lacking)} of a bag, and has '
                f'{", ".join(sorted(tables)) or "none"}: give a file of a bag'
            )


def with_log(path: Path) -> SqliteFile:
    """
    Read an SQLite file together with its write-ahead log, which `immutable=1` ignores.

    rosbag2's preset `resilient` leaves a log if the recorder is killed. SQLite may create a file
    `-shm` beside it.

    :param path: path of the file.
    :return: its reader.
    """
    return SqliteFile(path, 'mode=ro')


def as_cdr(data: object) -> bytes:
    """
    Convert a message from its column.

    :param data: the value, which may have another type if other programs wrote it.
    :return: the bytes; empty if it cannot be a message, which is reported when it is deserialized.
    """
    return data if isinstance(data, bytes) else b''


def open_database(path: Path, query: str) -> sqlite3.Connection:
    """
    Open a database.

    :param path: path of the file.
    :param query: query of the SQLite URI.
    :return: the database, which returns text as bytes, since it may not be UTF-8.
    """
    # `#`, `?` and `%` have a special meaning in a URI.
    uri = f'file:{quote(str(path.absolute()))}?{query}'
    database = sqlite3.connect(uri, uri=True, check_same_thread=False)
    database.text_factory = bytes
    return database


def read_connections(
    database: sqlite3.Connection, counts: Mapping[int, int], errors: str = 'strict'
) -> list[Connection]:
    """
    Read the topics.

    :param database: the bag's database, of any version: later versions have more columns.
    :param counts: number of messages by topic id.
    :param errors: how to handle names that are not UTF-8, as in `bytes.decode`.
    :return: the topics.
    :raises ValueError: if a name is not UTF-8.
    """
    topics = database.execute('SELECT * FROM topics')
    columns = [column[0] for column in topics.description]
    found = []
    for row in topics:
        # The profiles may have any value, since nothing else depends on them.
        is_latched = offers_transient_local(dict(zip(columns, row)).get('offered_qos_profiles'))
        texts = {name: _text(value, errors) for name, value in zip(columns, row) if name in _NAMES}
        key = row[columns.index('id')]
        found.append(
            Connection(
                key,
                texts['name'],
                ros_type_name(texts['type']),
                counts.get(key, 0),
                texts.get('type_description_hash', ''),
                is_latched,
                describe_foreign(texts.get('serialization_format', ''), '', texts['type']),
            )
        )
    return found


def _text(value: object, errors: str) -> str:
    """Read a text column, whose values may have any type: SQLite does not enforce types."""
    if isinstance(value, bytes):
        return value.decode('utf-8', errors)
    return '' if value is None else str(value)
