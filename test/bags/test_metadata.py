# SPDX-License-Identifier: Apache-2.0
"""
Metadata and files have every field that rosbag2 of ROS 2 Jazzy reads.

The fields, their forms and the versions since which they are required are those of rosbag2's
decoder: rosbag2_storage/yaml.hpp and qos.cpp for metadata.yaml, mcap_storage.cpp and
sqlite_storage.cpp for what it requires of the files, on the branch jazzy.
"""

import sqlite3

import numpy as np
import pytest
import yaml
from mcap.reader import make_reader

from surgseg_ros.bags.writing import BagWriter, write_image_bag
from surgseg_ros.messages.serialization import TYPES, header

START_NS, STEP_NS, COUNT = 10**18, 10**8, 4
LABEL_INFO = 'vision_msgs/msg/LabelInfo'
FOREVER = {'sec': 9223372036, 'nsec': 854775807}
"""RMW_DURATION_INFINITE: 2^63 - 1 nanoseconds."""

NAMES = {'mcap': 'bag.mcap', 'sqlite3': 'bag.db3'}


@pytest.fixture(params=['mcap', 'sqlite3'])
def storage(request):
    return request.param


@pytest.fixture
def bag(tmp_path, storage):
    """Write a bag of images, and masks of every second one."""
    image = np.zeros((6, 8, 3), np.uint8)
    frames = (
        (START_NS + n * STEP_NS, image, image[..., 0] if n % 2 else None) for n in range(COUNT)
    )
    write_image_bag(tmp_path / 'bag', frames, storage=storage)
    return tmp_path / 'bag'


@pytest.fixture
def information(bag):
    content = yaml.safe_load((bag / 'metadata.yaml').read_text())
    assert list(content) == ['rosbag2_bagfile_information']
    return content['rosbag2_bagfile_information']


def test_fields_of_the_bag(information, storage):
    times = {
        'duration': {'nanoseconds': (COUNT - 1) * STEP_NS},
        'starting_time': {'nanoseconds_since_epoch': START_NS},
        'message_count': COUNT + COUNT // 2,
    }
    topics = information.pop('topics_with_message_count')
    assert [entry['message_count'] for entry in topics] == [COUNT, COUNT // 2]
    assert isinstance(information.pop('ros_distro'), str)
    assert information == {
        'version': 8,  # Jazzy writes 9 and reads all earlier ones; Iron and Humble do not read 9
        'storage_identifier': storage,
        **times,
        'compression_format': '',
        'compression_mode': '',
        'relative_file_paths': [NAMES[storage]],
        'files': [{'path': NAMES[storage], **times}],
        'custom_data': None,  # as yaml-cpp writes a map without entries
    }


def test_fields_of_the_topics(information):
    for entry, name in zip(
        information['topics_with_message_count'],
        ('/camera/image_raw', '/camera/ground_truth'),
        strict=True,
    ):
        assert set(entry) == {'topic_metadata', 'message_count'}
        topic = entry['topic_metadata']
        profiles = topic.pop('offered_qos_profiles')
        assert topic == {
            'name': name,
            'type': 'sensor_msgs/msg/Image',
            'serialization_format': 'cdr',
            'type_description_hash': 'RIHS01_'
            'd31d41a9a4c4bc8eae9be757b0beed306564f7526c88ea6a4588fb9582527d47',
        }
        assert isinstance(profiles, str)  # up to version 8 YAML in a string, from 9 on a list
        assert yaml.safe_load(profiles) == [
            {
                'history': 1,  # keep last
                'depth': 5,
                'reliability': 1,  # reliable
                'durability': 2,  # volatile
                'deadline': FOREVER,
                'lifespan': FOREVER,
                'liveliness': 1,  # automatic
                'liveliness_lease_duration': FOREVER,
                'avoid_ros_namespace_conventions': False,
            }
        ]


def test_latched_topics_are_offered_as_transient_local(tmp_path, storage):
    message = TYPES.types[LABEL_INFO](header=header(1), class_map=[], threshold=0.0)
    with BagWriter(tmp_path / 'bag', storage) as bag:
        bag.write('/label_info', LABEL_INFO, message, 1)
    content = yaml.safe_load((tmp_path / 'bag/metadata.yaml').read_text())
    (entry,) = content['rosbag2_bagfile_information']['topics_with_message_count']
    (profile,) = yaml.safe_load(entry['topic_metadata']['offered_qos_profiles'])
    assert (profile['durability'], profile['depth']) == (1, 1)  # transient local


def test_a_single_mcap_file_has_the_same_information(tmp_path):
    write_image_bag(tmp_path / 'bag', [(START_NS, np.zeros((6, 8, 3), np.uint8), None)])
    expected = yaml.safe_load((tmp_path / 'bag/metadata.yaml').read_text())
    with (tmp_path / 'bag/bag.mcap').open('rb') as file:
        reader = make_reader(file)
        assert reader.get_header().profile == 'ros2'
        summary = reader.get_summary()
        (record,) = reader.iter_metadata()
    (channel,) = summary.channels.values()
    (schema,) = summary.schemas.values()
    assert (schema.name, schema.encoding) == ('sensor_msgs/msg/Image', 'ros2msg')
    assert b'uint32 step' in schema.data
    assert (channel.topic, channel.message_encoding) == ('/camera/image_raw', 'cdr')
    (entry,) = expected['rosbag2_bagfile_information']['topics_with_message_count']
    topic = entry['topic_metadata']
    assert channel.metadata['topic_type_hash'] == topic['type_description_hash']
    offered = yaml.safe_load(topic['offered_qos_profiles'])
    assert yaml.safe_load(channel.metadata['offered_qos_profiles']) == offered
    assert record.name == 'rosbag2'
    text = yaml.safe_load(record.metadata['serialized_metadata'])
    assert text == expected['rosbag2_bagfile_information']
    assert summary.statistics.channel_message_counts == {channel.id: 1}
    assert summary.chunk_indexes  # `ros2 bag play` needs them to read by time


def test_tables_of_sqlite_are_those_of_rosbag2(tmp_path):
    write_image_bag(
        tmp_path / 'bag', [(START_NS, np.zeros((6, 8, 3), np.uint8), None)], storage='sqlite3'
    )
    expected = yaml.safe_load((tmp_path / 'bag/metadata.yaml').read_text())
    with sqlite3.connect(tmp_path / 'bag/bag.db3') as database:
        version, distribution = database.execute('SELECT * FROM schema').fetchone()
        columns = [
            row[1]
            for table in ('topics', 'messages', 'message_definitions', 'metadata')
            for row in database.execute(f'PRAGMA table_info({table})')
        ]
        definition = database.execute('SELECT * FROM message_definitions').fetchone()
        text = database.execute('SELECT metadata_version, metadata FROM metadata').fetchone()
        stamps = database.execute('SELECT timestamp FROM messages').fetchall()
    database.close()
    assert (version, isinstance(distribution, str)) == (4, True)
    assert columns == [
        'id', 'name', 'type', 'serialization_format', 'offered_qos_profiles',
        'type_description_hash',
        'id', 'topic_id', 'timestamp', 'data',
        'id', 'topic_type', 'encoding', 'encoded_message_definition', 'type_description_hash',
        'id', 'metadata_version', 'metadata',
    ]  # fmt: skip
    assert definition[1:3] == ('sensor_msgs/msg/Image', 'ros2msg')
    assert definition[4] == TYPES.hash_rihs01('sensor_msgs/msg/Image')
    assert text[0] == 8
    assert yaml.safe_load(text[1]) == expected['rosbag2_bagfile_information']
    assert stamps == [(START_NS,)]
