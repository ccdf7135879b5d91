# SPDX-License-Identifier: Apache-2.0
"""
Reads SQLite files of bags, with the tables of any version of rosbag2.

It also reads the intact rows of files that are truncated or damaged.
"""

import sqlite3
import struct
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from surgseg_ros.bags.definitions import (
    Connection,
    Received,
    UnreadableError,
    describe_foreign,
    offers_transient_local,
    ros_type_name,
)

_NAMES: Final = ('name', 'type', 'serialization_format', 'type_description_hash')
"""Text columns of a topic; which of them exist depends on the version."""

SQLITE_MAGIC: Final = b'SQLite format 3\x00'

_MAX_LOST_ROWS: Final = 10_000
"""Reading ends after this many consecutive unreadable rows."""

_SQLITE_SIZES: Final = struct.Struct('>16xH6xII60xI')
"""Page size, change counter, number of pages, and the value of the counter for that number."""


class SqliteFile:
    """
    An intact SQLite file.

    :param path: path of the file.
    :param query: query of the SQLite URI with which it is opened.
    """

    def __init__(self, path: Path, query: str = 'immutable=1') -> None:
        """Store the path; nothing is opened yet."""
        self.path = path
        self.connections: list[Connection] = []
        self._query = query

    def open(self) -> None:
        """
        Find the connections.

        :raises UnreadableError: if it is not a file of a bag.
        :raises sqlite3.Error: if it is damaged.
        """
        self._database = connect(self.path, self._query)
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
        there = [_text(name, 'replace') for (name,) in self._database.execute(query)]
        if lacking := [name for name in ('topics', 'messages') if name not in there]:
            raise UnreadableError(
                f'it is a database without the tables {" and ".join(lacking)} of a bag, and has '
                f'{", ".join(sorted(there)) or "none"}: give a file of a bag'
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


def connect(path: Path, query: str) -> sqlite3.Connection:
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


class RecoveredSqlite:
    """
    A damaged SQLite file, whose readable rows are read in the order of recording.

    :param path: path of the file.
    """

    def __init__(self, path: Path) -> None:
        """Store the path; nothing is opened yet."""
        self.path = path
        self.connections: list[Connection] = []

    def open(self) -> None:
        """Find the topics, and count the rows that can be reached."""
        self._database = connect(self.path, 'immutable=1')
        try:
            # Otherwise SQLite would reject a file that is shorter than its header says.
            self._database.execute('PRAGMA writable_schema=ON')
            counts: Counter[int] = Counter()
            last = 0
            for row, topic in self._rows('topic_id'):
                last = row
                counts[topic] += 1
            self.connections = read_connections(self._database, counts, 'replace')
        except BaseException:
            self.close()
            raise
        lost = f'{max(0, last - counts.total())} before the last one that exists'
        if lacking := _lacking_bytes(self.path):
            lost += f', and those in {lacking} bytes that are missing at the end'
        self.lost = f'the rows in damaged pages are lost: {lost}'

    def messages(
        self, connections: Collection[Connection]
    ) -> Iterator[tuple[Connection, int, bytes]]:
        """Iterate over the rows."""
        by_id = {x.id: x for x in connections}
        for _, topic, time_ns, data in self._rows('topic_id, timestamp, data'):
            if topic in by_id:
                yield by_id[topic], time_ns, as_cdr(data)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _rows(self, columns: str) -> Iterator[tuple[Any, ...]]:
        """Iterate over the rows, each with its id first; skip those that cannot be read."""
        query = f'SELECT id, {columns} FROM messages WHERE id > ? ORDER BY id'
        last, lost = 0, 0
        while lost < _MAX_LOST_ROWS:
            try:
                with closing(self._database.execute(query, (last,))) as rows:
                    for row in rows:
                        last, lost = row[0], 0
                        yield row
                return
            except sqlite3.DatabaseError:
                last, lost = last + 1, lost + 1


def _lacking_bytes(path: Path) -> int:
    """Return how much shorter an SQLite file is than its header says."""
    with path.open('rb') as file:
        head = file.read(_SQLITE_SIZES.size)
        size = file.seek(0, 2)
    page_bytes, changes, pages, counted_at = _SQLITE_SIZES.unpack(head)
    page_bytes = 2**16 if page_bytes == 1 else page_bytes
    # A number of pages that was not updated at the last change is invalid.
    return max(0, page_bytes * pages - size) if changes == counted_at else 0
