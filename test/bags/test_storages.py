# SPDX-License-Identifier: Apache-2.0
"""Complete bags, in all the forms that recorders write."""

import cv2
import numpy as np
import pytest
import yaml
from mcap.writer import CompressionType
from rosbags.rosbag2 import CompressionMode, StoragePlugin, Writer
from unusual_bags import (
    ENDINGS,
    HEADER,
    QOS,
    cdr,
    write_foreign,
    write_headers,
    write_metadata,
    write_packed,
    write_split,
)

from surgseg_ros.bags.reading import Bag, BagError
from surgseg_ros.bags.writing import BagWriter, write_image_bag
from surgseg_ros.messages.images import image_to_msg, rgb_from_msg
from surgseg_ros.messages.serialization import IMAGE, TYPES, header, stamp_ns

BY_TWO = pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])


def read(path):
    """Read all headers of a bag: times of receipt, and content."""
    with Bag(path) as bag:
        assert not bag.damage
        found = [(time_ns, data) for _, time_ns, data in bag.messages(['/one'])]
        assert bag.topics['/one'].message_count == len(found)
    return found


def expected(numbers, size=0):
    return [(number, cdr(number, size)) for number in numbers]


@BY_TWO
@pytest.mark.parametrize('with_metadata', [True, False])
def test_a_split_bag_is_read_as_one(tmp_path, storage, with_metadata):
    write_split(tmp_path / 'bag', [[1, 2], [3, 4], [5]], storage)
    if not with_metadata:
        (tmp_path / 'bag/metadata.yaml').unlink()
    assert read(tmp_path / 'bag') == expected([1, 2, 3, 4, 5])


@BY_TWO
def test_overlapping_files_are_read_in_order_of_receipt(tmp_path, storage):
    write_split(tmp_path / 'bag', [[1, 5, 9], [2, 6], [3]], storage)
    assert read(tmp_path / 'bag') == expected([1, 2, 3, 5, 6, 9])


@BY_TWO
def test_folders_in_names_of_files_of_the_first_format_are_ignored(tmp_path, storage):
    write_split(tmp_path / 'bag', [[1], [2]], storage)
    names = [f'bag/bag_{index}{ENDINGS[storage]}' for index in (0, 1)]
    write_metadata(
        tmp_path / 'bag', storage, {}, version=2, relative_file_paths=names, files=[],
        topics_with_message_count=[],
    )  # fmt: skip
    assert read(tmp_path / 'bag') == expected([1, 2])


METADATA = {
    'nothing_but_files': dict.fromkeys((
        'version', 'storage_identifier', 'duration', 'starting_time', 'message_count',
        'topics_with_message_count', 'compression_format', 'compression_mode', 'files',
        'custom_data', 'ros_distro',
    )),
    'nothing_but_topics': {'relative_file_paths': None, 'files': None},
    'files_in_another_form': {'relative_file_paths': None},
    'a_later_version': {'version': 17, 'storage_identifier': 'new', 'more': {'a': 1}},
    'a_version_in_words': {'version': 'nine'},
    'custom_data': {'custom_data': {'operator': 'x', 'notes': [1, 2]}},
    'counts_of_nothing': {'message_count': 0, 'topics_with_message_count': [
        {'topic_metadata': {'name': '/one', 'type': HEADER}, 'message_count': 0},
    ]},
    'counts_that_are_none': {'message_count': 'many', 'topics_with_message_count': [
        {'topic_metadata': {'name': '/one'}, 'message_count': 'many'},
        {'topic_metadata': {'name': '/one'}}, {'topic_metadata': {}}, {}, None, 3,
    ]},
    'topics_as_a_mapping': {'topics_with_message_count': {'/one': 3}},
    'other_names_of_compression': {'compression_format': 'none', 'compression_mode': 'NONE'},
}  # fmt: skip
"""Variants of metadata.yaml that other tools write."""


@BY_TWO
@pytest.mark.parametrize('more', METADATA.values(), ids=METADATA)
def test_metadata_of_other_tools_are_not_damage(tmp_path, storage, more):
    write_split(tmp_path / 'bag', [[1, 2], [3]], storage)
    names = {f'bag_0{ENDINGS[storage]}': 2, f'bag_1{ENDINGS[storage]}': 1}
    write_metadata(tmp_path / 'bag', storage, names, **more)
    assert read(tmp_path / 'bag') == expected([1, 2, 3])
    metadata = yaml.safe_load((tmp_path / 'bag/metadata.yaml').read_text())
    reported = metadata['rosbag2_bagfile_information']
    left = {key: value for key, value in reported.items() if value is not None}
    text = yaml.safe_dump({'rosbag2_bagfile_information': left})
    (tmp_path / 'bag/metadata.yaml').write_text(text)
    assert read(tmp_path / 'bag') == expected([1, 2, 3])


@pytest.mark.parametrize('version', range(1, 10))
@pytest.mark.parametrize('qos', [x for x in QOS.values() if not isinstance(x, bytes)])
def test_qos_in_metadata_is_ignored(tmp_path, version, qos):
    write_split(tmp_path / 'bag', [[1, 2]])
    topic = {'name': '/one', 'type': HEADER, 'offered_qos_profiles': qos}
    entries = [{'topic_metadata': topic, 'message_count': 2}]
    more = {'version': version, 'topics_with_message_count': entries}
    write_metadata(tmp_path / 'bag', 'mcap', {'bag_0.mcap': 2}, **more)
    assert read(tmp_path / 'bag') == expected([1, 2])


def test_files_in_subfolders_of_the_bag_are_read(tmp_path):
    bag = write_split(tmp_path / 'bag', [[1, 2], [3]])
    for index in (0, 1):
        (bag / f'part{index}').mkdir()
        (bag / f'bag_{index}.mcap').rename(bag / f'part{index}/x.mcap')
    write_metadata(bag, 'mcap', {'part0/x.mcap': 2, 'part1/x.mcap': 1})
    assert read(bag) == expected([1, 2, 3])
    (bag / 'part0/x.mcap').unlink()
    with pytest.raises(BagError, match=r"'part0/x\.mcap' with 2 messages"), Bag(bag) as opened:
        list(opened.messages())


@pytest.mark.parametrize('name', ['x.db3', 'x.mcap'])
@BY_TWO
def test_the_storage_is_determined_from_the_first_bytes(tmp_path, storage, name):
    (file,) = write_headers(tmp_path / 'bag', [1, 2], storage).glob(f'*{ENDINGS[storage]}')
    file.rename(tmp_path / name)
    assert read(tmp_path / name) == expected([1, 2])
    (tmp_path / name).write_bytes(b'#ROSBAG V2.0\n')
    with pytest.raises(BagError, match='rosbags-convert'), Bag(tmp_path / name):
        pass


@BY_TWO
@pytest.mark.parametrize('mode', [CompressionMode.FILE, CompressionMode.MESSAGE])
@pytest.mark.parametrize('version', [8, 9])
@pytest.mark.parametrize('with_metadata', [True, False])
def test_reads_zstd_by_file_and_by_message(tmp_path, storage, mode, version, with_metadata):
    bag = write_packed(tmp_path / 'bag', [1, 2, 3], storage, mode, version=version)
    metadata = bag / 'metadata.yaml'
    content = yaml.safe_load(metadata.read_text())
    content['rosbag2_bagfile_information']['compression_mode'] = mode.name  # as rosbag2 writes it
    metadata.write_text(yaml.safe_dump(content))
    if not with_metadata:
        metadata.unlink()
    assert read(bag) == expected([1, 2, 3])


def test_reads_a_single_compressed_file_and_one_not_yet_compressed(tmp_path):
    bag = write_packed(tmp_path / 'bag', [1, 2], 'sqlite3', CompressionMode.FILE)
    (packed,) = bag.glob('*.zstd')
    assert read(packed) == expected([1, 2])
    (bag / 'metadata.yaml').unlink()
    write_headers(bag / 'bag.db3', [1, 2], 'sqlite3')
    packed.write_bytes(packed.read_bytes()[:20])
    assert read(bag) == expected([1, 2])


@pytest.mark.parametrize('compression', CompressionType)
@pytest.mark.parametrize('message_index', [True, False])
def test_reads_compressed_chunks_of_mcap(tmp_path, compression, message_index):
    more = {'size': 50_000, 'message_index': message_index}
    write_foreign(tmp_path / 'bag.mcap', range(40), compression, **more)
    assert read(tmp_path / 'bag.mcap') == expected(range(40), 50_000)


def test_mcap_without_chunks_is_read_in_file_order(tmp_path):
    # The preset `fastwrite` of rosbag2 writes such a file.
    write_foreign(tmp_path / 'bag.mcap', [1, 4, 2, 3], chunked=False)
    assert read(tmp_path / 'bag.mcap') == expected([1, 4, 2, 3])


@BY_TWO
def test_times_of_receipt_that_go_backward_are_sorted(tmp_path, storage):
    write_headers(tmp_path / 'bag', [5, 6, 1, 2, 6, 0], storage)
    assert read(tmp_path / 'bag') == expected([0, 1, 2, 5, 6, 6])


@BY_TWO
@pytest.mark.parametrize(
    'stamps', [[7, 7, 7], [0, 0, 0], [9, 8, 7], [1, 2, 10**18], [2**31 * 10**9 - 1, 0, 5]]
)
def test_stamps_are_unchanged(tmp_path, storage, stamps):
    """Equal, zero, backward, with a gap, or maximal: only the time of receipt orders messages."""
    with BagWriter(tmp_path / 'bag', storage) as bag:
        for received, stamp in enumerate(stamps):
            bag.write('/one', HEADER, header(stamp), received)
    with Bag(tmp_path / 'bag') as bag:
        found = [message.stamp for _, _, message in bag.read(['/one'])]
    assert [stamp.sec * 10**9 + stamp.nanosec for stamp in found] == stamps


@BY_TWO
def test_reads_several_image_topics_and_compressed_images(tmp_path, storage):
    image = np.full((8, 16, 3), (200, 100, 50), np.uint8)
    frames = [(10, image, None), (20, image, None)]
    write_image_bag(
        tmp_path / 'bag', frames, image_topic='/left', storage=storage, picture_format='jpeg'
    )
    both = tmp_path / 'both'
    with BagWriter(both, storage) as bag, Bag(tmp_path / 'bag') as jpeg:
        for topic, time_ns, message in jpeg.read():
            bag.write(topic, message.__msgtype__, message, time_ns)
            bag.write('/right', IMAGE, image_to_msg(image, header(time_ns)), time_ns)
    with Bag(both) as bag:
        assert set(bag.topics) == {'/left', '/right'}
        left, right = ([x for _, _, x in bag.read([name])] for name in ('/left', '/right'))
    assert [stamp_ns(message.header) for message in left] == [10, 20]
    assert np.abs(rgb_from_msg(left[0]).astype(int) - image).max() < 10
    assert np.array_equal(rgb_from_msg(right[1]), image)
    assert cv2.imdecode(left[0].data, cv2.IMREAD_COLOR).shape == (8, 16, 3)


@BY_TWO
def test_hashes_of_types_are_read_from_the_file(tmp_path, storage):
    writer = Writer(tmp_path / 'bag', version=8, storage_plugin=StoragePlugin[storage.upper()])
    with writer:
        other = {'msgdef': 'uint8 x\n', 'rihs01': 'RIHS01_' + '0' * 64}
        writer.write(writer.add_connection('/one', HEADER, **other), 1, cdr(1))
    for path in (write_headers(tmp_path / 'own', [1], storage), tmp_path / 'bag'):
        (file,) = path.glob(f'*{ENDINGS[storage]}')
        file.rename(tmp_path / f'{path.name}{file.suffix}')
    with Bag(tmp_path / f'own{ENDINGS[storage]}') as bag:
        (connection,) = bag._connections()
        assert connection.digest == TYPES.hash_rihs01(HEADER)
        assert len(list(bag.read())) == 1
    if storage == 'sqlite3':  # rosbags writes no hash in MCAP
        with Bag(tmp_path / 'bag.db3') as bag, pytest.raises(BagError, match='RIHS01_000'):
            bag.read()


@BY_TWO
@pytest.mark.parametrize('name', ['case #3', 'what?', '100%41', 'ein Gürtel'])
def test_reads_files_whose_names_have_characters_of_uris(tmp_path, storage, name):
    write_headers(tmp_path / name / 'bag', [1, 2], storage)
    assert read(tmp_path / name / 'bag') == expected([1, 2])
