# SPDX-License-Identifier: Apache-2.0
"""Reads the intact rows of SQLite files of bags that are truncated or damaged."""

import sqlite3
import struct
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from surgseg_ros.bags.definitions import Connection
from surgseg_ros.bags.storages import as_cdr, open_database, read_connections

_MAX_LOST_ROWS: Final = 10_000
"""Reading ends after this many consecutive unreadable rows."""

_SQLITE_SIZES: Final = struct.Struct('>16xH6xII60xI')
"""Page size, change counter, number of pages, and the value of the counter for that number."""


class RecoveredSqlite:
    """
    A damaged SQLite file, whose readable rows are read in the order of recording.

    :param path: path of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.connections: list[Connection] = []

    def open(self) -> None:
        """Find the topics, and count the rows that can be reached."""
        self._database = open_database(self.path, 'immutable=1')
        try:
            # Otherwise SQLite would reject a file that is shorter than stated in its header.
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
    """Return how much shorter an SQLite file is than stated in its header."""
    with path.open('rb') as file:
        head = file.read(_SQLITE_SIZES.size)
        size = file.seek(0, 2)
    page_bytes, changes, pages, counted_at = _SQLITE_SIZES.unpack(head)
    page_bytes = 2**16 if page_bytes == 1 else page_bytes
    # A number of pages that was not updated at the last change is invalid.
    return max(0, page_bytes * pages - size) if changes == counted_at else 0
