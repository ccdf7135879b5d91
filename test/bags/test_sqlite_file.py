# SPDX-License-Identifier: Apache-2.0
"""SQLite bags of all versions are read, whatever is in columns that are not needed."""

import sqlite3
from contextlib import closing

import pytest
from unusual_bags import HEADER, QOS, cdr, expected

from surgseg_ros.bags.reading import Bag, BagError
from surgseg_ros.messages.serialization import TYPES

MESSAGES = (
    'CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL, '
    'timestamp INTEGER NOT NULL, data BLOB NOT NULL)'
)
COLUMNS = {
    'dashing': ('id', 'name', 'type', 'serialization_format'),
    'foxy': ('id', 'name', 'type', 'serialization_format', 'offered_qos_profiles'),
    'iron': (
        *('id', 'name', 'type', 'serialization_format', 'offered_qos_profiles'),
        'type_description_hash',
    ),
    'of_the_future': (
        *('future', 'id', 'type', 'name', 'offered_qos_profiles', 'serialization_format'),
        'type_description_hash',
    ),
}
"""Columns of the table of topics in versions of rosbag2."""


def write(path, numbers, columns=COLUMNS['iron'], **values):
    """Write headers with SQLite directly, with the given columns of topics."""
    given = {
        'id': 1, 'name': '/one', 'type': HEADER, 'serialization_format': 'cdr',
        'offered_qos_profiles': '', 'type_description_hash': TYPES.hash_rihs01(HEADER),
        'future': 'any', **values,
    }  # fmt: skip
    with closing(sqlite3.connect(path)) as database:
        database.execute(f'CREATE TABLE topics({", ".join(columns)})')
        marks = ', '.join('?' * len(columns))
        row = [given[name] for name in columns]
        database.execute(f'INSERT INTO topics VALUES({marks})', row)
        database.execute(MESSAGES)
        rows = [(number, cdr(number)) for number in numbers]
        database.executemany(
            'INSERT INTO messages(topic_id, timestamp, data) VALUES(1, ?, ?)', rows
        )
        database.commit()
    return path


def read_whole(path):
    with Bag(path) as bag:
        assert not bag.damage
        assert bag.topics['/one'].type_name == HEADER
        assert len(list(bag.read())) == bag.topics['/one'].message_count
        return [(time_ns, data) for _, time_ns, data in bag.messages()]


@pytest.mark.parametrize('qos', QOS.values(), ids=QOS)
def test_qos_texts_change_nothing_else(tmp_path, qos):
    path = write(tmp_path / 'x.db3', range(3), offered_qos_profiles=qos)
    assert read_whole(path) == expected(range(3))


@pytest.mark.parametrize(
    ('qos', 'is_latched'),
    [('as_foxy_records', True), ('as_rolling_records', True), ('one_mapping', False)],
)
def test_qos_texts_decide_what_is_latched(tmp_path, qos, is_latched):
    path = write(tmp_path / 'x.db3', range(3), offered_qos_profiles=QOS[qos])
    with Bag(path) as bag:
        assert bag.is_latched('/one') is is_latched


@pytest.mark.parametrize('columns', COLUMNS.values(), ids=COLUMNS)
def test_reads_tables_of_every_version(tmp_path, columns):
    path = write(tmp_path / 'x.db3', range(3), columns)
    assert read_whole(path) == expected(range(3))


@pytest.mark.parametrize(
    'statement',
    [
        'CREATE TABLE schema(schema_version INTEGER PRIMARY KEY, ros_distro TEXT)',
        'CREATE TABLE schema(anything)',
        'CREATE TABLE message_definitions(id INTEGER PRIMARY KEY, topic_type TEXT)',
        'CREATE TABLE metadata(id INTEGER PRIMARY KEY, metadata_version INTEGER, metadata TEXT)',
        'INSERT INTO topics(id, name, type) VALUES(2, NULL, NULL)',
        "INSERT INTO topics(id, name, type) VALUES(2, '/two', 'own_msgs/msg/Own')",
    ],
)
def test_other_tables_and_rows_are_ignored(tmp_path, statement):
    path = write(tmp_path / 'x.db3', range(3))
    with closing(sqlite3.connect(path)) as database:
        database.execute(statement)
        database.commit()
    with Bag(path) as bag:
        assert not bag.damage
        found = [(time_ns, data) for _, time_ns, data in bag.messages(['/one'])]
    assert found == expected(range(3))


@pytest.mark.parametrize('name', ['serialization_format', 'type_description_hash'])
@pytest.mark.parametrize('value', ['', None])
def test_missing_columns_have_default_values(tmp_path, name, value):
    path = write(tmp_path / 'x.db3', range(3), **{name: value})
    assert read_whole(path) == expected(range(3))


def test_reads_by_time_without_an_index(tmp_path):
    path = write(tmp_path / 'x.db3', [5, 1, 3, 1, 0])
    assert read_whole(path) == expected([0, 1, 1, 3, 5])


def test_rows_that_are_not_bytes_are_not_messages(tmp_path):
    path = write(tmp_path / 'x.db3', range(3))
    with closing(sqlite3.connect(path)) as database:
        database.execute('UPDATE messages SET data = 10000000000 WHERE id = 2')
        database.commit()
    with Bag(path) as bag:
        assert [data for _, _, data in bag.messages()] == [cdr(0), b'', cdr(2)]
        with pytest.raises(BagError, match=r'a message of topic .* is not a std_msgs/'):
            list(bag.read())


def test_messages_of_other_encodings_are_reported_as_such(tmp_path):
    path = write(tmp_path / 'x.db3', range(3), serialization_format='cbor')
    with pytest.raises(BagError, match='holds messages in CBOR') as caught, Bag(path):
        pass
    assert 'damage' not in str(caught.value)


@pytest.mark.parametrize('statement', ['CREATE TABLE patients(name)', 'PRAGMA user_version = 3'])
def test_a_database_that_is_not_a_bag_is_reported_as_such(tmp_path, statement):
    with closing(sqlite3.connect(tmp_path / 'x.db3')) as database:
        database.execute(statement)
        database.commit()
    text = r'without the tables topics and messages of a bag, and has (patients|none)'
    with pytest.raises(BagError, match=text) as caught, Bag(tmp_path / 'x.db3'):
        pass
    assert 'recover' not in str(caught.value)
