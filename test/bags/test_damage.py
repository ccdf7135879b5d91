# SPDX-License-Identifier: Apache-2.0
"""Of a damaged bag the whole part is read, and then it is said what is lost."""

import shutil
import sqlite3
from contextlib import closing

import pytest
import yaml
from mcap.writer import CompressionType
from odd_bags import (
    ENDINGS,
    HEADER,
    cdr,
    write_foreign,
    write_headers,
    write_metadata,
    write_packed,
    write_split,
)
from rosbags.rosbag2 import CompressionMode

from surgseg_ros.bags import sources, storages
from surgseg_ros.bags.reading import Bag, BagError
from surgseg_ros.bags.writing import BagWriter
from surgseg_ros.bags.zstandard import MAGIC, unpack, zstd

BY_TWO = pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])


def read(path, match):
    """Read what there is, and see that the loss is told both before and after."""
    found = []
    with Bag(path) as bag:
        known = '; '.join(bag.damage)
        with pytest.raises(BagError, match=match) as caught:
            found.extend((time_ns, data) for _, time_ns, data in bag.messages(['/one']))
    assert known in str(caught.value)
    assert str(caught.value).endswith('What can be read of it was read')
    return found


def expected(numbers, size=0):
    return [(number, cdr(number, size)) for number in numbers]


@BY_TWO
def test_a_file_that_is_missing(tmp_path, storage):
    bag = write_split(tmp_path / 'bag', [[1, 2], [3, 4, 5], [6]], storage)
    (bag / f'bag_1{ENDINGS[storage]}').unlink()
    said = r"'bag_1\..*' with 3 messages.*is missing or empty; 3 messages of '/one' are missing"
    assert read(bag, said) == expected([1, 2, 6])


@BY_TWO
@pytest.mark.parametrize(
    ('with_metadata', 'said'), [(True, 'missing or empty; 1 messages'), (False, 'is empty')]
)
def test_a_file_that_is_empty(tmp_path, storage, with_metadata, said):
    bag = write_split(tmp_path / 'bag', [[1, 2], [3]], storage)
    (bag / f'bag_1{ENDINGS[storage]}').write_bytes(b'')
    if not with_metadata:
        (bag / 'metadata.yaml').unlink()
    assert read(bag, rf"'bag_1\..*{said}") == expected([1, 2])


def test_a_gap_in_the_numbers_of_files(tmp_path):
    bag = write_split(tmp_path / 'bag', [[1], [2], [3], [4]])
    for name in ('metadata.yaml', 'bag_1.mcap', 'bag_2.mcap'):
        (bag / name).unlink()
    assert read(bag, "missing between 'bag_0' and 'bag_3': 2") == expected([1, 4])


@BY_TWO
def test_a_file_that_is_no_bag_costs_its_own_messages_alone(tmp_path, storage):
    bag = write_split(tmp_path / 'bag', [[1, 2], [3]], storage)
    (bag / f'bag_0{ENDINGS[storage]}').write_bytes(b'nothing that was ever recorded')
    assert read(bag, r'bag_0\..* cannot be read.*2 messages') == expected([3])


@BY_TWO
def test_what_other_topics_lost_does_no_harm(tmp_path, storage):
    bag = write_split(tmp_path / 'bag', [[1, 2]], storage)
    metadata = yaml.safe_load((bag / 'metadata.yaml').read_text())
    (topic,) = metadata['rosbag2_bagfile_information']['topics_with_message_count']
    other = {'topic_metadata': {**topic['topic_metadata'], 'name': '/two'}, 'message_count': 3}
    metadata['rosbag2_bagfile_information']['topics_with_message_count'].append(other)
    (bag / 'metadata.yaml').write_text(yaml.safe_dump(metadata))
    with Bag(bag) as opened:
        assert opened.damage == ["3 messages of '/two' are missing"]
        assert len(list(opened.messages(['/one']))) == 2
        with pytest.raises(BagError, match=r"topic '/two' is not in bag.*; 3 messages of '/two'"):
            opened.messages(['/two'])


@BY_TWO
def test_nothing_is_lost_where_a_file_was_renamed(tmp_path, storage):
    bag = write_headers(tmp_path / 'bag', [1, 2], storage)
    (bag / f'bag{ENDINGS[storage]}').rename(bag / f'operation{ENDINGS[storage]}')
    with Bag(bag) as opened:
        assert not opened.damage
        assert len(list(opened.messages())) == 2


@BY_TWO
@pytest.mark.parametrize('with_metadata', [True, False])
def test_a_copy_of_a_file_is_read_once(tmp_path, storage, with_metadata):
    bag = write_split(tmp_path / 'bag', [[1, 2], [3]], storage)
    ending = ENDINGS[storage]
    shutil.copy(bag / f'bag_0{ending}', bag / f'bag_0 (1){ending}')
    if with_metadata:
        counts = {f'bag_0{ending}': 2, f'bag_0 (1){ending}': 2, f'bag_1{ending}': 1}
        write_metadata(bag, storage, counts)
    else:
        (bag / 'metadata.yaml').unlink()
    assert read(bag, r"'bag_0.*' is a copy of 'bag_0") == expected([1, 2, 3])


@BY_TWO
def test_a_file_that_is_listed_twice_is_read_once(tmp_path, storage):
    bag = write_split(tmp_path / 'bag', [[1, 2], [3]], storage)
    names = [f'bag_{place}{ENDINGS[storage]}' for place in (0, 0, 1)]
    write_metadata(bag, storage, {names[0]: 2, names[2]: 1}, relative_file_paths=names)
    with Bag(bag) as opened:
        assert len(list(opened.messages())) == 3


@pytest.mark.parametrize(
    ('text', 'said'),
    [
        ('{', 'no YAML'),
        ('', 'not as rosbag2 writes it'),
        ('rosbag2_bagfile_information: 3', 'not as rosbag2 writes it'),
        ('rosbag2_bagfile_information: {version: 9}', "lacks 'relative_file_paths'"),
        ('rosbag2_bagfile_information: {version: 10}', 'version 10'),
    ],
)
def test_metadata_that_say_nothing(tmp_path, text, said):
    bag = write_split(tmp_path / 'bag', [[1, 2], [3]])
    (bag / 'metadata.yaml').write_text(text)
    assert read(bag, said) == expected([1, 2, 3])


@pytest.mark.parametrize('compression', CompressionType)
@pytest.mark.parametrize('chunked', [True, False])
def test_whole_messages_of_a_chunk_that_is_cut_off_are_saved(tmp_path, compression, chunked):
    more = {'size': 50_000, 'chunked': chunked}
    file = write_foreign(tmp_path / 'bag.mcap', range(20), compression, **more)
    whole_bytes = file.stat().st_size
    counts = []
    for share in (0.3, 0.6, 0.9):  # all within the one chunk that there is
        cut = tmp_path / f'{share}.mcap'
        cut.write_bytes(file.read_bytes()[: int(share * whole_bytes)])
        found = read(cut, 'the end is missing.*mcap recover')
        assert found == expected(range(len(found)), 50_000)
        counts.append(len(found))
    assert 0 < counts[0] < counts[1] < counts[2] < 20
    assert counts[1] >= 9  # packed data comes in blocks, which hold several messages


@pytest.mark.parametrize('compression', CompressionType)
@pytest.mark.parametrize('chunked', [True, False])
def test_zeros_in_place_of_an_end_become_no_message(tmp_path, compression, chunked):
    more = {'size': 50_000, 'chunked': chunked}
    file = write_foreign(tmp_path / 'bag.mcap', range(30), compression, **more)
    data = file.read_bytes()[: int(0.9 * file.stat().st_size)]
    file.write_bytes(data[:-60_000] + bytes(60_000))
    found = read(file, 'the end is missing')
    assert found == expected(range(len(found)), 50_000)
    assert 22 <= len(found) <= 25


@pytest.mark.parametrize('compression', CompressionType)
@pytest.mark.parametrize(
    ('cut_bytes', 'message_index', 'said'),
    [
        (300_000, True, 'the end is missing.*: 1 of 2 chunks with 21 messages'),
        (0, True, "1 of 3 chunks .*; 21 messages of '/one' are missing"),
        (0, False, "1 of 3 chunks .*; 21 messages of '/one' are missing"),
    ],
)
def test_past_a_damaged_chunk(tmp_path, compression, cut_bytes, message_index, said):
    more = {'size': 50_000, 'message_index': message_index}
    file = write_foreign(tmp_path / 'bag.mcap', range(60), compression, **more)
    data = bytearray(file.read_bytes())
    place = len(data) // 5  # in the first chunk, behind what it alone says of the topic
    data[place : place + 100] = bytes(reversed(data[place : place + 100]))
    file.write_bytes(data[: len(data) - cut_bytes])
    found = read(file, said)
    assert found == expected(range(21, 21 + len(found)), 50_000)
    assert len(found) >= (20 if cut_bytes else 39)


def test_a_chunk_that_holds_no_records_and_has_no_checksum(tmp_path):
    bag = write_packed(tmp_path / 'bag', range(60), 'mcap', CompressionMode.NONE, size=50_000)
    data = bytearray((bag / 'bag.mcap').read_bytes())
    data[1_500_000:1_560_000] = bytes(60_000)  # the end of one picture, and all of the next one
    (bag / 'bag.mcap').write_bytes(data)
    said = "1 of 3 chunks .*; 21 messages of '/one' are missing"
    assert read(bag, said) == expected([*range(21), *range(42, 60)], 50_000)


def test_without_the_chunk_that_names_the_topic(tmp_path):
    file = write_foreign(tmp_path / 'bag.mcap', range(60), size=50_000)
    data = file.read_bytes()[:-300_000]
    name_at = data.index(b'/one')
    file.write_bytes(data[: name_at - 9] + b'\xff' * 9 + data[name_at:])
    with pytest.raises(BagError, match=r'names are lost: \d+ messages'), Bag(file):
        pass


@pytest.mark.parametrize('packed', [True, False])
def test_a_bit_that_fell_over_makes_no_other_picture(tmp_path, packed):
    with BagWriter(tmp_path / 'bag.mcap', packed=packed) as bag:
        for number in range(30):
            bag.write('/one', HEADER, cdr(number, 50_000), number)
    data = bytearray((tmp_path / 'bag.mcap').read_bytes())
    data[300_000] ^= 1
    (tmp_path / 'bag.mcap').write_bytes(data)
    said = "1 of 2 chunks .*; 21 messages of '/one' are missing"
    assert read(tmp_path / 'bag.mcap', said) == expected(range(21, 30), 50_000)


@pytest.mark.parametrize('cut_bytes', [1, 8, 37, 38, 200])
def test_of_a_lost_footer_no_message_suffers(tmp_path, cut_bytes):
    file = write_foreign(tmp_path / 'bag.mcap', range(20), size=50_000)
    file.write_bytes(file.read_bytes()[:-cut_bytes])
    assert read(file, 'the end is missing') == expected(range(20), 50_000)


@pytest.mark.parametrize('share', [0.3, 0.5, 0.9])
def test_of_a_cut_sqlite_file_the_whole_rows_are_read(tmp_path, share):
    bag = write_headers(tmp_path / 'bag', range(40), 'sqlite3', size=50_000)
    file = bag / 'bag.db3'
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    found = read(bag, r"in [1-9]\d* bytes that are missing.*messages of '/one' are missing")
    assert found == expected(range(len(found)), 50_000)
    assert abs(len(found) - share * 40) < 2.5


def test_of_sqlite_rows_in_damaged_pages_alone_are_lost(tmp_path):
    bag = write_headers(tmp_path / 'bag', range(400), 'sqlite3', size=300)
    data = bytearray((bag / 'bag.db3').read_bytes())
    place = data.find(cdr(200, 300)) // 4096 * 4096
    data[place : place + 4096] = b'\xff' * 4096
    del data[-4096:]  # without which SQLite reads on, up to the damage
    (bag / 'bag.db3').write_bytes(data)
    found = [number for number, _ in read(bag, r'damaged pages are lost: 14 before the last')]
    lost = sorted(set(range(found[-1])) - set(found))
    assert len(lost) == 14
    assert 200 in lost
    assert found[-1] >= 380


def test_where_sqlite_stops_it_is_said(tmp_path):
    bag = write_headers(tmp_path / 'bag', range(4), 'sqlite3', size=50_000)
    data = bytearray((bag / 'bag.db3').read_bytes())
    place = data.index(cdr(2, 50_000)[20_000:20_100]) // 4096 * 4096  # not where the row begins
    data[place : place + 4096] = b'\xff' * 4096
    (bag / 'bag.db3').write_bytes(data)
    found = read(bag, 'a file cannot be read on')
    assert found == expected([0, 1], 50_000)


@pytest.fixture
def killed(tmp_path):
    """Leave what a recorder that was killed does: SQLite, and messages in its log alone."""
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
def test_sqlites_log_of_changes_is_read(killed, with_index):
    if not with_index:
        (killed / 'bag.db3-shm').mkdir()  # where SQLite wants a file, as where one may not write
    with Bag(killed) as bag:
        assert not bag.damage
        found = [(time_ns, data) for _, time_ns, data in bag.messages()]
    assert found == expected([1, 2, 3])


@BY_TWO
def test_a_packed_file_that_is_cut_off(tmp_path, storage):
    bag = write_packed(tmp_path / 'bag', range(60), storage, CompressionMode.FILE, size=50_000)
    (packed,) = bag.glob('*.zstd')
    packed.write_bytes(packed.read_bytes()[: packed.stat().st_size // 2])
    found = read(bag, rf'{packed.name}.*is damaged.*messages of .* are missing')
    assert found == expected(range(len(found)), 50_000)
    assert len(found) > 20


def test_a_message_that_is_no_zstd_is_named(tmp_path):
    bag = write_packed(tmp_path / 'bag', [1, 2], 'mcap', CompressionMode.MESSAGE)
    data = (bag / 'bag.mcap').read_bytes()
    place = data.find(b'\x28\xb5\x2f\xfd')
    (bag / 'bag.mcap').write_bytes(data[: place + 4] + b'\xff' * 12 + data[place + 16 :])
    said = '1 messages cannot be unpacked: .*; 1 messages of .* are missing'
    assert read(bag, said) == expected([2])


def test_after_a_broken_message_the_other_files_are_read(tmp_path):
    bags = [
        write_packed(tmp_path / name, [number], 'mcap', CompressionMode.MESSAGE)
        for name, number in (('first', 1), ('second', 2))
    ]
    data = (bags[0] / 'first.mcap').read_bytes()
    place = data.find(MAGIC)
    broken = data[: place + 4] + b'\xff' * 12 + data[place + 16 :]
    both = tmp_path / 'both'
    both.mkdir()
    (both / 'a.mcap').write_bytes(broken)
    shutil.copy(bags[1] / 'second.mcap', both / 'b.mcap')
    assert read(both, 'cannot be unpacked.*1 messages of .* are missing') == expected([2])


def test_what_unpacks_to_more_than_anything_holds_is_refused():
    bomb = zstd.compress(bytes(2**24))
    assert len(bomb) < 2**11
    assert len(unpack(bomb, 2**24)) == 2**24
    with pytest.raises(zstd.ZstdError, match='more than 16777215 bytes'):
        unpack(bomb, 2**24 - 1)
    with pytest.raises(zstd.ZstdError, match='cut off'):
        unpack(bomb[:-1])


@pytest.mark.parametrize('compression', [CompressionType.ZSTD, CompressionType.LZ4])
def test_a_chunk_that_unpacks_to_too_much_is_not_read(tmp_path, monkeypatch, compression):
    file = write_foreign(tmp_path / 'bag.mcap', range(20), compression, size=50_000)
    monkeypatch.setattr(storages, 'MOST_BYTES', 100_000)
    assert read(file, r'left out as damaged: 1 of 1 chunks.*20 messages of .* are missing') == []


def test_a_packed_file_leaves_room_to_others(tmp_path, monkeypatch):
    bag = write_packed(tmp_path / 'bag', [1], 'mcap', CompressionMode.FILE)
    monkeypatch.setattr(sources, '_LEAST_FREE_BYTES', 2**62)
    with pytest.raises(BagError, match=r'has no room.*set TMPDIR'), Bag(bag):
        pass
