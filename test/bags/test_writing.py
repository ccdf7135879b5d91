# SPDX-License-Identifier: Apache-2.0
"""Bags are written atomically, and other readers can read them."""

import numpy as np
import pytest
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from rosbags.highlevel import AnyReader

from surgseg_ros.bags.reading import Bag, BagError
from surgseg_ros.bags.writing import START_TIME_NS, BagWriter, write_image_bag
from surgseg_ros.messages.images import image_to_msg, rgb_from_msg
from surgseg_ros.messages.serialization import IMAGE, TYPES, header

HEADER = 'std_msgs/msg/Header'
LABEL_INFO = 'vision_msgs/msg/LabelInfo'


def _frames(count):
    generator = np.random.default_rng(3)
    for index in range(count):
        image = generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        yield START_TIME_NS + index * 10**8, image, image[..., 0] if index % 2 else None


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_written_frames_are_read_back_with_their_stamps(tmp_path, storage):
    write_image_bag(tmp_path / 'deep' / 'bag', _frames(4), storage=storage)
    with AnyReader([tmp_path / 'deep' / 'bag']) as reader:
        found = [
            (connection.topic, stamp, reader.deserialize(cdr, connection.msgtype))
            for connection, stamp, cdr in reader.messages()
        ]
    images = [item for item in found if item[0] == '/camera/image_raw']
    masks = [item for item in found if item[0] == '/camera/ground_truth']
    assert (len(images), len(masks)) == (4, 2)
    for (_, received_ns, message), (stamp_ns, image, _) in zip(images, _frames(4), strict=True):
        stamp = message.header.stamp
        assert received_ns == stamp_ns == stamp.sec * 10**9 + stamp.nanosec
        assert message.header.frame_id == 'endoscope'
        np.testing.assert_array_equal(rgb_from_msg(message), image)
    truths = [mask for _, _, mask in _frames(4) if mask is not None]
    for (_, _, message), mask in zip(masks, truths, strict=True):
        assert message.encoding == 'mono8'
        np.testing.assert_array_equal(message.data.reshape(mask.shape), mask)


def test_another_library_reads_the_file_with_the_definitions_in_it(tmp_path):
    write_image_bag(tmp_path / 'one.mcap', _frames(2))
    assert (tmp_path / 'one.mcap').is_file()
    with (tmp_path / 'one.mcap').open('rb') as file:
        reader = make_reader(file, True, decoder_factories=[DecoderFactory()])
        found = reader.iter_decoded_messages(['/camera/image_raw'])
        images = [message for _, _, _, message in found]
    for message, (_, image, _) in zip(images, _frames(2), strict=True):
        assert bytes(message.data) == image.tobytes()


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_definitions_hashes_and_qos_are_in_the_bag(tmp_path, storage):
    info = TYPES.types[LABEL_INFO](header=header(1), class_map=[], threshold=0.0)
    with BagWriter(tmp_path / 'bag', storage) as bag:
        bag.write('/label_info', LABEL_INFO, info, 1)
        bag.write('/header', HEADER, header(2), 2)
    with AnyReader([tmp_path / 'bag']) as reader:
        digests = {connection.topic: connection.digest for connection in reader.connections}
        assert 'class_map' in reader.topics['/label_info'].msgdef.data
    assert digests == {
        '/label_info': TYPES.hash_rihs01(LABEL_INFO),
        '/header': TYPES.hash_rihs01(HEADER),
    }
    with Bag(tmp_path / 'bag') as bag:
        assert bag.is_latched('/label_info')
        assert not bag.is_latched('/header')


def test_serialized_messages_are_written_unchanged(tmp_path):
    cdr = bytes(TYPES.serialize_cdr(header(7, 'eye'), HEADER)) + b'\xff tail that no reader wants'
    with BagWriter(tmp_path / 'bag') as bag:
        bag.write('/header', HEADER, cdr, 7)
    with Bag(tmp_path / 'bag') as bag:
        assert list(bag.messages()) == [('/header', 7, cdr)]


def test_compressed_masks_are_small_and_readable_by_another_library(tmp_path):
    mask = np.zeros((480, 640), np.uint8)
    mask[100:200, 50:300] = 3
    for name, packed in (('plain', False), ('packed', True)):
        with BagWriter(tmp_path / f'{name}.mcap', packed=packed) as bag:
            for stamp_ns in range(1, 11):
                bag.write('/mask', IMAGE, image_to_msg(mask, header(stamp_ns)), stamp_ns)
    size, plain = ((tmp_path / f'{name}.mcap').stat().st_size for name in ('packed', 'plain'))
    assert size < plain / 50
    with (tmp_path / 'packed.mcap').open('rb') as file:
        reader = make_reader(file, True, decoder_factories=[DecoderFactory()])
        found = [message for *_, message in reader.iter_decoded_messages(['/mask'])]
    assert [message.header.stamp.nanosec for message in found] == list(range(1, 11))
    assert all(bytes(message.data) == mask.tobytes() for message in found)


def test_nothing_is_visible_before_the_end(tmp_path):
    with BagWriter(tmp_path / 'bag') as bag:
        bag.write('/header', HEADER, header(1), 1)
        assert not (tmp_path / 'bag').exists()
    assert [path.name for path in tmp_path.iterdir()] == ['bag']


@pytest.mark.parametrize('error', [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_a_failure_leaves_nothing(tmp_path, storage, error):
    def frames():
        yield from _frames(2)
        raise error

    with pytest.raises(error):
        write_image_bag(tmp_path / 'bag', frames(), storage=storage)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('name', ['bag', 'bag.mcap'])
def test_an_existing_path_is_not_overwritten(tmp_path, name):
    (tmp_path / name).write_text('mine')
    with pytest.raises(BagError, match=f'{name}.*exists already'), BagWriter(tmp_path / name):
        pass
    assert (tmp_path / name).read_text() == 'mine'


def test_a_path_that_was_created_meanwhile_is_not_overwritten(tmp_path):
    def frames():
        yield from _frames(2)
        (tmp_path / 'bag').mkdir()

    with pytest.raises(BagError, match='exists already'):
        write_image_bag(tmp_path / 'bag', frames())
    assert [path.name for path in tmp_path.rglob('*')] == ['bag']


def test_errors_name_invalid_arguments(tmp_path):
    with pytest.raises(BagError, match=r"'tape'.*mcap"):
        BagWriter(tmp_path / 'bag', 'tape')
    with pytest.raises(BagError, match="'my_msgs/msg/Own'"), BagWriter(tmp_path / 'bag') as bag:
        bag.write('/own', 'my_msgs/msg/Own', b'', 1)
    with pytest.raises(BagError, match='-1 ns'), BagWriter(tmp_path / 'bag') as bag:
        bag.write('/header', HEADER, header(1), -1)
