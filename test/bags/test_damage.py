# SPDX-License-Identifier: Apache-2.0
"""The readable part of a damaged bag is read, and then losses are reported."""

import shutil

import pytest
import yaml
from rosbags.rosbag2 import CompressionMode
from unusual_bags import (
    ENDINGS,
    expected,
    read,
    write_headers,
    write_metadata,
    write_packed,
    write_split,
)

from surgseg_ros.bags import sources
from surgseg_ros.bags.reading import Bag, BagError
from surgseg_ros.bags.records import MAGIC, unpack, zstd

BY_TWO = pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])


@BY_TWO
def test_reports_a_missing_file(tmp_path, storage):
    bag = write_split(tmp_path / 'bag', [[1, 2], [3, 4, 5], [6]], storage)
    (bag / f'bag_1{ENDINGS[storage]}').unlink()
    text = r"'bag_1\..*' with 3 messages.*is missing or empty; 3 messages of '/one' are missing"
    assert read(bag, text) == expected([1, 2, 6])


@BY_TWO
@pytest.mark.parametrize(
    ('with_metadata', 'message'), [(True, 'missing or empty; 1 messages'), (False, 'is empty')]
)
def test_reports_an_empty_file(tmp_path, storage, with_metadata, message):
    bag = write_split(tmp_path / 'bag', [[1, 2], [3]], storage)
    (bag / f'bag_1{ENDINGS[storage]}').write_bytes(b'')
    if not with_metadata:
        (bag / 'metadata.yaml').unlink()
    assert read(bag, rf"'bag_1\..*{message}") == expected([1, 2])


def test_reports_a_gap_in_the_numbers_of_files(tmp_path):
    bag = write_split(tmp_path / 'bag', [[1], [2], [3], [4]])
    for name in ('metadata.yaml', 'bag_1.mcap', 'bag_2.mcap'):
        (bag / name).unlink()
    assert read(bag, "2 files are missing between 'bag_0' and 'bag_3'") == expected([1, 4])


@BY_TWO
def test_a_file_that_is_not_a_bag_loses_only_its_own_messages(tmp_path, storage):
    bag = write_split(tmp_path / 'bag', [[1, 2], [3]], storage)
    (bag / f'bag_0{ENDINGS[storage]}').write_bytes(b'nothing that was ever recorded')
    assert read(bag, r'bag_0\..* cannot be read.*2 messages') == expected([3])


@BY_TWO
def test_losses_of_other_topics_are_ignored(tmp_path, storage):
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
def test_a_renamed_file_is_not_a_loss(tmp_path, storage):
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
    names = [f'bag_{offset}{ENDINGS[storage]}' for offset in (0, 0, 1)]
    write_metadata(bag, storage, {names[0]: 2, names[2]: 1}, relative_file_paths=names)
    with Bag(bag) as opened:
        assert len(list(opened.messages())) == 3


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('{', 'not YAML'),
        ('', 'not in the format of rosbag2'),
        ('rosbag2_bagfile_information: 3', 'not in the format of rosbag2'),
        ('rosbag2_bagfile_information: {version: 9}', "lacks 'relative_file_paths'"),
        ('rosbag2_bagfile_information: {version: 10}', 'its version is 10'),
    ],
)
def test_metadata_without_information(tmp_path, text, message):
    bag = write_split(tmp_path / 'bag', [[1, 2], [3]])
    (bag / 'metadata.yaml').write_text(text)
    assert read(bag, message) == expected([1, 2, 3])


@BY_TWO
def test_reports_a_truncated_compressed_file(tmp_path, storage):
    bag = write_packed(tmp_path / 'bag', range(60), storage, CompressionMode.FILE, size=50_000)
    (packed,) = bag.glob('*.zstd')
    packed.write_bytes(packed.read_bytes()[: packed.stat().st_size // 2])
    found = read(bag, rf'{packed.name}.*is damaged.*messages of .* are missing')
    assert found == expected(range(len(found)), 50_000)
    assert len(found) > 20


def test_error_names_a_message_that_is_not_zstd(tmp_path):
    bag = write_packed(tmp_path / 'bag', [1, 2], 'mcap', CompressionMode.MESSAGE)
    data = (bag / 'bag.mcap').read_bytes()
    offset = data.find(b'\x28\xb5\x2f\xfd')
    (bag / 'bag.mcap').write_bytes(data[: offset + 4] + b'\xff' * 12 + data[offset + 16 :])
    text = '1 messages cannot be decompressed: .*; 1 messages of .* are missing'
    assert read(bag, text) == expected([2])


def test_after_a_damaged_message_the_other_files_are_read(tmp_path):
    bags = [
        write_packed(tmp_path / name, [number], 'mcap', CompressionMode.MESSAGE)
        for name, number in (('first', 1), ('second', 2))
    ]
    data = (bags[0] / 'first.mcap').read_bytes()
    offset = data.find(MAGIC)
    broken = data[: offset + 4] + b'\xff' * 12 + data[offset + 16 :]
    both = tmp_path / 'both'
    both.mkdir()
    (both / 'a.mcap').write_bytes(broken)
    shutil.copy(bags[1] / 'second.mcap', both / 'b.mcap')
    assert read(both, 'cannot be decompressed.*1 messages of .* are missing') == expected([2])


def test_rejects_data_that_decompress_to_more_than_the_limit():
    bomb = zstd.compress(bytes(2**24))
    assert len(bomb) < 2**11
    assert len(unpack(bomb, 2**24)) == 2**24
    with pytest.raises(zstd.ZstdError, match='more than 16777215 bytes'):
        unpack(bomb, 2**24 - 1)
    with pytest.raises(zstd.ZstdError, match='cut off'):
        unpack(bomb[:-1])


def test_decompressing_a_file_leaves_disk_space_for_others(tmp_path, monkeypatch):
    bag = write_packed(tmp_path / 'bag', [1], 'mcap', CompressionMode.FILE)
    monkeypatch.setattr(sources, '_MIN_FREE_BYTES', 2**62)
    with pytest.raises(BagError, match=r'has no room.*set TMPDIR'), Bag(bag):
        pass
