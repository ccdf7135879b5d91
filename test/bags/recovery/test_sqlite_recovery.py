# SPDX-License-Identifier: Apache-2.0
"""Complete rows of truncated or damaged SQLite files are read."""

import shutil
import sqlite3
from contextlib import closing

import pytest
from unusual_bags import cdr, expected, read, write_headers

from surgseg_ros.bags.reading import Bag


@pytest.mark.parametrize('share', [0.3, 0.5, 0.9])
def test_complete_rows_of_a_truncated_sqlite_file_are_read(tmp_path, share):
    bag = write_headers(tmp_path / 'bag', range(40), 'sqlite3', size=50_000)
    file = bag / 'bag.db3'
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    found = read(bag, r"in [1-9]\d* bytes that are missing.*messages of '/one' are missing")
    assert found == expected(range(len(found)), 50_000)
    assert abs(len(found) - share * 40) < 2.5


def test_only_rows_in_damaged_pages_are_lost(tmp_path):
    bag = write_headers(tmp_path / 'bag', range(400), 'sqlite3', size=300)
    data = bytearray((bag / 'bag.db3').read_bytes())
    offset = data.find(cdr(200, 300)) // 4096 * 4096
    data[offset : offset + 4096] = b'\xff' * 4096
    del data[-4096:]  # without it SQLite reads up to the damage
    (bag / 'bag.db3').write_bytes(data)
    found = [number for number, _ in read(bag, r'damaged pages are lost: 14 before the last')]
    lost = sorted(set(range(found[-1])) - set(found))
    assert len(lost) == 14
    assert 200 in lost
    assert found[-1] >= 380


def test_the_position_where_sqlite_stops_is_reported(tmp_path):
    bag = write_headers(tmp_path / 'bag', range(4), 'sqlite3', size=50_000)
    data = bytearray((bag / 'bag.db3').read_bytes())
    offset = data.index(cdr(2, 50_000)[20_000:20_100]) // 4096 * 4096  # in the row
    data[offset : offset + 4096] = b'\xff' * 4096
    (bag / 'bag.db3').write_bytes(data)
    found = read(bag, 'a file cannot be read further')
    assert found == expected([0, 1], 50_000)


@pytest.fixture
def killed(tmp_path):
    """Write a bag as a killed recorder leaves it: some messages are only in the WAL of SQLite."""
    bag = write_headers(tmp_path / 'bag', [1, 2], 'sqlite3')
    (tmp_path / 'killed').mkdir()
    with closing(sqlite3.connect(bag / 'bag.db3')) as database:
        database.execute('PRAGMA journal_mode=WAL')
        database.execute('INSERT INTO messages VALUES (9, 1, 3, ?)', (cdr(3),))
        database.commit()
        for name in ('bag.db3', 'bag.db3-wal'):
            shutil.copy(bag / name, tmp_path / 'killed' / name)
    return tmp_path / 'killed'


@pytest.mark.parametrize('with_index', [True, False])
def test_the_write_ahead_log_of_sqlite_is_read(killed, with_index):
    if not with_index:
        (
            killed / 'bag.db3-shm'
        ).mkdir()  # blocks the file that SQLite needs, as in a read-only folder
    with Bag(killed) as bag:
        assert not bag.damage
        found = [(time_ns, data) for _, time_ns, data in bag.messages()]
    assert found == expected([1, 2, 3])
