# SPDX-License-Identifier: Apache-2.0
"""Reads SQLite files of bags, with the tables of any version of rosbag2."""

import sqlite3
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Final
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
