# SPDX-License-Identifier: Apache-2.0
"""Messages are read as written, in order; damaged bags are reported, and read where possible."""

import shutil

import numpy as np
import pytest
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from surgseg_ros.bags.reading import Bag, BagError
from surgseg_ros.bags.writing import BagWriter, write_image_bag
from surgseg_ros.messages.serialization import TYPES, header, to_cdr

HEADER = 'std_msgs/msg/Header'
STAMPS = [5, 1, 3, 3, 9]


@pytest.fixture(params=['mcap', 'sqlite3'])
def bag_path(tmp_path, request):
    """Write two topics, whose messages are not in the order of their receipt."""
    with BagWriter(tmp_path / 'bag', request.param) as bag:
        for stamp in STAMPS:
            bag.write('/one', HEADER, header(stamp), stamp)
        bag.write('/two', HEADER, header(4), 4)
    return tmp_path / 'bag'


def _image_bag(path, count=6, storage='mcap'):
    """Write images large enough that each has its own chunk in the file."""
    generator = np.random.default_rng(1)
    images = generator.integers(0, 256, (count, 600, 640, 3), dtype=np.uint8)
    write_image_bag(
        path, ((n * 10, image, None) for n, image in enumerate(images)), storage=storage
    )
    return path


def _write_raw(path, messages, msgdef, rihs01='RIHS01_' + '0' * 64, compression=None):
    """Write with rosbags what `BagWriter` does not support."""
    writer = Writer(path, version=8, storage_plugin=StoragePlugin.MCAP)
    if compression:
        writer.set_compression(compression, CompressionFormat.ZSTD)
    with writer:
        for topic, type_name, cdr in messages:
            definition = {'msgdef': msgdef, 'rihs01': rihs01} if msgdef else {'typestore': TYPES}
            connection = writer.add_connection(topic, type_name, **definition)
            writer.write(connection, 1, cdr)


def test_topics_and_messages_in_order_of_receipt(bag_path):
    with Bag(bag_path) as bag:
        assert bag.topics == {'/one': (HEADER, 5), '/two': (HEADER, 1)}
        found = [(topic, stamp) for topic, stamp, _ in bag.messages()]
        assert [stamp for _, stamp in found] == [1, 3, 3, 4, 5, 9]
        assert found[3][0] == '/two'
        assert [stamp for _, stamp, _ in bag.messages(['/two'])] == [4]
        assert list(bag.messages(['/two'])) == [('/two', 4, to_cdr(header(4)))]


def test_read_gives_objects(bag_path):
    with Bag(bag_path) as bag:
        stamps = [message.stamp.nanosec for _, _, message in bag.read(['/one'])]
    assert stamps == sorted(STAMPS)


def test_reads_a_single_file_and_a_folder_without_metadata(bag_path):
    (bag_path / 'metadata.yaml').unlink()
    (file,) = bag_path.iterdir()
    for path in (bag_path, file):
        with Bag(path) as bag:
            assert len(list(bag.messages())) == 6


@pytest.mark.parametrize('metadata', [True, False])
def test_files_with_names_in_upper_case_are_found(bag_path, metadata):
    """Some file systems store names in upper case."""
    (file,) = (x for x in bag_path.iterdir() if x.suffix != '.yaml')
    file.rename(file.with_name(file.name.upper()))
    if not metadata:
        (bag_path / 'metadata.yaml').unlink()
    with Bag(bag_path) as bag:
        assert len(list(bag.messages())) == 6
        assert not bag.damage


def test_files_of_a_split_bag_are_read_in_order_of_time(tmp_path):
    (tmp_path / 'split').mkdir()
    for part, stamps in (('bag_10', [30, 40]), ('bag_9', [10, 20])):
        with BagWriter(tmp_path / 'split' / f'{part}.mcap') as bag:
            for stamp in stamps:
                bag.write('/one', HEADER, header(stamp), stamp)
    with Bag(tmp_path / 'split') as bag:
        assert [stamp for _, stamp, _ in bag.messages()] == [10, 20, 30, 40]


@pytest.mark.parametrize(
    'compression', [CompressionMode.FILE, CompressionMode.MESSAGE, CompressionMode.STORAGE]
)
def test_reads_compressed_bags(tmp_path, compression):
    cdr = to_cdr(header(1))
    _write_raw(tmp_path / 'bag', [('/one', HEADER, cdr)], None, compression=compression)
    with Bag(tmp_path / 'bag') as bag:
        assert list(bag.messages()) == [('/one', 1, cdr)]


def test_error_for_an_absent_topic_lists_the_existing_ones(bag_path):
    with Bag(bag_path) as bag:
        with pytest.raises(BagError, match=r"'/left'.*/one \(std_msgs/msg/Header\), /two"):
            bag.messages(['/one', '/left'])
        with pytest.raises(BagError, match="'/left'"):
            bag.read(['/left'])


def test_unknown_types_of_other_topics_are_ignored(tmp_path):
    messages = [
        ('/own', 'my_msgs/msg/Own', b'\x00\x01\x00\x00\x07'),
        ('/one', HEADER, to_cdr(header(1))),
    ]
    _write_raw(tmp_path / 'bag', messages, 'uint8 x\n', rihs01=TYPES.hash_rihs01(HEADER))
    with Bag(tmp_path / 'bag') as bag:
        assert [message.stamp.nanosec for _, _, message in bag.read(['/one'])] == [1]
        assert len(list(bag.messages())) == 2
        with pytest.raises(BagError, match=r"'my_msgs/msg/Own'.*'/own'"):
            bag.read(['/own'])


def test_rejects_a_type_with_another_definition(tmp_path):
    _write_raw(tmp_path / 'bag', [('/one', HEADER, to_cdr(header(1)))], 'uint8 x\n')
    with Bag(tmp_path / 'bag') as bag, pytest.raises(BagError, match=r'RIHS01_0000.*RIHS01_'):
        bag.read()


def test_error_names_a_message_that_is_not_of_its_type(tmp_path):
    with BagWriter(tmp_path / 'bag') as bag:
        bag.write('/one', HEADER, b'\x00\x01\x00\x00\xff\xff', 1)
    with Bag(tmp_path / 'bag') as bag, pytest.raises(BagError, match="'/one' is not a std_msgs"):
        list(bag.read())


def test_error_names_a_path_that_is_not_a_bag(tmp_path):
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'empty.mcap').touch()
    (tmp_path / 'text.mcap').write_text('no bag at all')
    (tmp_path / 'text.db3').write_text('no bag at all' * 1000)
    (tmp_path / 'old.bag').write_text('#ROSBAG V2.0')
    (tmp_path / 'clip.mp4').write_text('film')
    (tmp_path / 'broken').mkdir()
    (tmp_path / 'broken' / 'metadata.yaml').write_text('{')
    for name, words in {
        'absent': 'does not exist',
        'folder': 'metadata.yaml',
        'empty.mcap': 'empty',
        'text.mcap': 'cannot be read',
        'text.db3': 'cannot be read',
        'old.bag': 'rosbags-convert',
        'clip.mp4': 'mp4',
        'broken': 'YAML',
    }.items():
        with pytest.raises(BagError, match=words) as caught, Bag(tmp_path / name):
            pass
        assert name in str(caught.value)


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_rejects_a_bag_without_messages(tmp_path, storage):
    with BagWriter(tmp_path / 'bag', storage):
        pass
    with pytest.raises(BagError, match='holds no message'), Bag(tmp_path / 'bag'):
        pass


@pytest.mark.parametrize('with_metadata', [True, False])
@pytest.mark.parametrize(('cut_bytes', 'whole'), [(1, 6), (100, 6), (700_000, 5), (3_000_000, 3)])
def test_the_readable_part_of_a_truncated_mcap_is_read_before_the_error(
    tmp_path, cut_bytes, whole, with_metadata
):
    file = _image_bag(tmp_path / 'bag') / 'bag.mcap'
    with Bag(tmp_path / 'bag') as bag:
        complete = list(bag.messages())
    file.write_bytes(file.read_bytes()[:-cut_bytes])
    if not with_metadata:
        (tmp_path / 'bag' / 'metadata.yaml').unlink()
    found = []
    with Bag(tmp_path / 'bag') as bag:
        assert bag.topics['/camera/image_raw'].message_count == whole
        with pytest.raises(BagError, match=r'bag\.mcap.*missing.*mcap recover'):
            found.extend(bag.messages())
    # list.extend keeps the items before the error.
    assert found == complete[:whole]


def test_zeros_after_a_crash_are_not_records(tmp_path):
    data = (_image_bag(tmp_path / 'bag') / 'bag.mcap').read_bytes()
    footer_and_magic_bytes = 37
    (tmp_path / 'cut.mcap').write_bytes(data[:-footer_and_magic_bytes] + bytes(4096))
    stamps = []
    with Bag(tmp_path / 'cut.mcap') as bag, pytest.raises(BagError, match='missing'):
        stamps.extend(stamp for _, stamp, _ in bag.messages())
    assert stamps == [0, 10, 20, 30, 40, 50]


def test_error_names_a_truncated_sqlite_file(tmp_path):
    file = _image_bag(tmp_path / 'bag', storage='sqlite3') / 'bag.db3'
    file.write_bytes(file.read_bytes()[:-2_000_000])
    with pytest.raises(BagError, match=r'bag\.db3.*recover'), Bag(tmp_path / 'bag') as bag:
        list(bag.messages())


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_damaged_bytes_give_messages_or_a_bag_error(tmp_path, storage):
    with BagWriter(tmp_path / 'bag', storage) as bag:
        for stamp in range(20):
            bag.write('/one', HEADER, header(stamp, 'eye'), stamp)
    (file,) = (path for path in (tmp_path / 'bag').iterdir() if path.suffix != '.yaml')
    whole = file.read_bytes()
    generator = np.random.default_rng(5)
    failures = 0
    for _ in range(100):
        data = np.frombuffer(whole, np.uint8).copy()
        data[generator.integers(0, len(data), 8)] = generator.integers(0, 256, 8)
        file.write_bytes(data.tobytes())
        try:
            with Bag(tmp_path / 'bag') as bag:
                list(bag.messages())
        except BagError:
            failures += 1
    assert failures > 10


def test_reports_messages_that_the_metadata_list_but_the_file_lacks(tmp_path):
    _image_bag(tmp_path / 'bag')
    _image_bag(tmp_path / 'less', count=4)
    shutil.copy(tmp_path / 'less' / 'less.mcap', tmp_path / 'bag' / 'bag.mcap')
    with Bag(tmp_path / 'bag') as bag, pytest.raises(BagError, match=r'2 messages of .*missing'):
        list(bag.messages())
