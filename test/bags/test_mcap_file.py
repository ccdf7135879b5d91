# SPDX-License-Identifier: Apache-2.0
"""MCAP files of any writer are read completely, or rejected with the reason."""

import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.reader import NonSeekingReader
from mcap.writer import CompressionType, IndexType, Writer
from unusual_bags import HEADER, QOS, cdr, definition, expected, read

from surgseg_ros.bags.definitions import CHANNEL, SCHEMA, Definitions
from surgseg_ros.bags.reading import Bag, BagError
from surgseg_ros.messages.serialization import TYPES

NO_INDEX = IndexType.NONE
NO_MESSAGE_INDEX = IndexType.ALL & ~IndexType.MESSAGE
NO_CHUNK_INDEX = IndexType.ALL & ~IndexType.CHUNK
BARE = {
    'index_types': NO_INDEX,
    'repeat_channels': False,
    'repeat_schemas': False,
    'use_statistics': False,
    'use_summary_offsets': False,
}
"""Options that write a file without summary."""

OPTIONS = {
    'everything': {},
    'no_repeated_channels': {'repeat_channels': False},
    'no_repeated_schemas': {'repeat_schemas': False},
    'no_repeated_definitions': {'repeat_channels': False, 'repeat_schemas': False},
    'no_statistics': {'use_statistics': False},
    'no_statistics_and_no_definitions': {
        'use_statistics': False,
        'repeat_channels': False,
        'repeat_schemas': False,
    },
    'no_chunk_index': {'index_types': NO_CHUNK_INDEX},
    'no_message_index': {'index_types': NO_MESSAGE_INDEX},
    'no_index': {'index_types': NO_INDEX},
    'no_message_index_and_no_statistics': {
        'index_types': NO_MESSAGE_INDEX,
        'use_statistics': False,
    },
    'no_summary_offsets': {'use_summary_offsets': False},
    'no_checksums': {'enable_crcs': False},
    'checksum_of_all_data': {'enable_data_crcs': True},
    'no_summary': BARE,
    'no_chunks': {'use_chunking': False},
    'no_chunks_and_no_repeated_definitions': {
        'use_chunking': False,
        'repeat_channels': False,
        'repeat_schemas': False,
    },
    'no_chunks_and_no_summary': {**BARE, 'use_chunking': False},
    'a_chunk_for_each_record': {'chunk_size': 1},
    'a_chunk_for_each_record_and_no_definitions': {
        'chunk_size': 1,
        'repeat_channels': False,
        'repeat_schemas': False,
    },
}


def write(
    path, numbers, *, profile='ros2', compression=CompressionType.ZSTD, topics=('/one',), **options
):
    """Write headers to alternating topics, with attachments and metadata between them."""
    writer = Writer(str(path), compression=compression, **{'chunk_size': 400, **options})
    writer.start(profile=profile, library='another writer')
    channels = {}
    for index, number in enumerate(numbers):
        topic = topics[index % len(topics)]
        if topic not in channels:  # so that later topics are defined in later chunks
            schema = writer.register_schema(HEADER, 'ros2msg', definition(HEADER).encode())
            channels[topic] = writer.register_channel(topic, 'cdr', schema)
        writer.add_message(channels[topic], number, cdr(number), number)
        if index == 1:
            writer.add_attachment(5, 6, 'notes.txt', 'text/plain', b'any')
            writer.add_metadata('session', {'operator': 'x'})
    writer.finish()
    return path


def read_whole(path):
    """Read a bag, and check that no damage is reported."""
    with Bag(path) as bag:
        assert not bag.damage
        found = list(bag.messages())
        counts = {name: topic.message_count for name, topic in bag.topics.items()}
        assert all(topic.type_name == HEADER for topic in bag.topics.values())
        assert len(list(bag.read())) == len(found) == sum(counts.values())
    return found


@pytest.mark.parametrize('options', OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize('compression', CompressionType)
def test_all_messages_are_read_whatever_the_writer_omits(tmp_path, options, compression):
    topics = ('/one', '/two', '/three')
    path = write(tmp_path / 'x.mcap', range(20), compression=compression, topics=topics, **options)
    assert read_whole(path) == [(topics[n % 3], n, cdr(n)) for n in range(20)]
    with Bag(path) as bag:
        assert [time_ns for _, time_ns, _ in bag.messages(['/three'])] == list(range(2, 20, 3))


@pytest.mark.parametrize('profile', ['', 'acme', 'ros1', 'ROS2'])
def test_the_profile_is_ignored(tmp_path, profile):
    path = write(tmp_path / 'x.mcap', range(9), profile=profile)
    assert [message[1:] for message in read_whole(path)] == expected(range(9))


TEXTS = {name: text for name, text in QOS.items() if isinstance(text, str)}


@pytest.mark.parametrize('qos', TEXTS.values(), ids=TEXTS)
def test_qos_texts_only_decide_what_is_latched(tmp_path, qos):
    writer = Writer(str(tmp_path / 'x.mcap'))
    writer.start('ros2')
    schema = writer.register_schema(HEADER, 'ros2msg', definition(HEADER).encode())
    more = {'offered_qos_profiles': qos, 'topic_type_hash': TYPES.hash_rihs01(HEADER)}
    writer.add_message(writer.register_channel('/one', 'cdr', schema, more), 1, cdr(1), 1)
    writer.finish()
    assert read_whole(tmp_path / 'x.mcap') == [('/one', 1, cdr(1))]
    with Bag(tmp_path / 'x.mcap') as bag:
        assert bag.is_latched('/one') is (
            qos in (QOS['as_foxy_records'], QOS['as_rolling_records'])
        )


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_reads_the_same_as_the_library_mcap(tmp_path_factory, data):
    """With any options, times and sizes; in order of time if indexed."""
    path = tmp_path_factory.mktemp('mcap') / 'x.mcap'
    numbers = data.draw(st.lists(st.integers(0, 60), min_size=1, max_size=40))
    flags = ('repeat_channels', 'repeat_schemas', 'use_statistics', 'use_summary_offsets')
    flags += ('use_chunking', 'enable_crcs', 'enable_data_crcs')
    options = {name: data.draw(st.booleans(), name) for name in flags}
    index = data.draw(st.sets(st.sampled_from([x for x in IndexType if x != IndexType.NONE])))
    options['index_types'] = IndexType.NONE
    for kind in index:
        options['index_types'] |= kind
    write(
        path,
        numbers,
        profile=data.draw(st.sampled_from(['ros2', '', 'x'])),
        compression=data.draw(st.sampled_from(CompressionType)),
        topics=data.draw(st.sampled_from([('/one',), ('/one', '/two'), ('/a', '/b', '/c')])),
        chunk_size=data.draw(st.sampled_from([1, 100, 400, 2**20])),
        **options,
    )
    ours = read_whole(path)
    with path.open('rb') as file:
        # In file order: its reader by time takes channels only from the summary.
        theirs = [
            (channel.topic, message.log_time, message.data)
            for _, channel, message in NonSeekingReader(file).iter_messages(log_time_order=False)
        ]
    assert sorted(ours) == sorted(theirs)
    is_indexed = IndexType.CHUNK in index and IndexType.MESSAGE in index
    if options['use_chunking'] and is_indexed:
        assert all(before[1] <= after[1] for before, after in pairwise(ours))
    else:
        assert ours == theirs


def test_statistics_without_counts_by_channel(tmp_path, monkeypatch):
    """The format allows them to be absent; the total does not show which topics have messages."""
    finish = Writer.finish

    def forget(writer):
        writer._Writer__statistics.channel_message_counts.clear()
        finish(writer)

    monkeypatch.setattr(Writer, 'finish', forget)
    path = write(tmp_path / 'x.mcap', range(9))
    assert [message[1:] for message in read_whole(path)] == expected(range(9))


@pytest.mark.parametrize('with_statistics', [True, False])
def test_messages_outside_chunks_are_read(tmp_path, with_statistics):
    """A file may have both; the index of chunks does not list messages outside them."""
    path = write(tmp_path / 'x.mcap', range(9), use_statistics=with_statistics)
    data = path.read_bytes()
    loose = b''.join(
        bytes([5]) + (22 + len(content)).to_bytes(8, 'little') + (1).to_bytes(2, 'little')
        + bytes(4) + number.to_bytes(8, 'little') * 2 + content
        for number, content in ((n, cdr(n)) for n in (20, 21))
    )  # fmt: skip
    # The end of the data section: opcode 15 and a checksum of 4 bytes. After it, all offsets
    # move; without them there is no summary.
    end = data.rindex(bytes([15]) + (4).to_bytes(8, 'little'))
    footer = bytes([2]) + (20).to_bytes(8, 'little') + bytes(20)
    path.write_bytes(data[:end] + loose + data[end : end + 13] + footer + data[-8:])
    assert [message[1:] for message in read_whole(path)] == expected([*range(9), 20, 21])


def test_definitions_may_be_in_any_order():
    """The format groups the records of a summary, but defines no order of the groups."""

    def string(text):
        return len(text).to_bytes(4, 'little') + text

    schema = (1).to_bytes(2, 'little') + string(b'pkg/msg/A') + string(b'ros2msg') + string(b'')
    channel = (7).to_bytes(2, 'little') + schema[:2] + string(b'/a') + string(b'cdr') + string(b'')
    definitions = Definitions()
    definitions.note(CHANNEL, memoryview(channel))
    assert definitions.lacks([7, 8]) == {7, 8}
    definitions.note(SCHEMA, memoryview(schema))
    assert definitions.lacks([7, 8]) == {8}
    (found,) = definitions.connections({7: 3})
    assert (found.topic, found.type_name, found.message_count) == ('/a', 'pkg/msg/A', 3)
    with pytest.raises(ValueError, match='shorter than its fields'):
        definitions.note(CHANNEL, memoryview(channel[:-1]))


def test_real_damage_is_still_reported(tmp_path):
    path = write(
        tmp_path / 'x.mcap', range(40), profile='', compression=CompressionType.NONE,
        repeat_channels=False, repeat_schemas=False,
    )  # fmt: skip
    data = bytearray(path.read_bytes())
    data[data.index(cdr(30)) + 8] ^= 1
    path.write_bytes(data)
    found = read(path, r'left out as damaged: 1 of \d+ chunks')
    assert (30, cdr(30)) not in found
    assert len(found) > 30


def test_a_damaged_summary_hides_no_topic(tmp_path):
    path = write(tmp_path / 'x.mcap', range(9))
    data = bytearray(path.read_bytes())
    data[data.rindex(b'cdr')] ^= 1  # a definition that the chunk repeats
    path.write_bytes(data)
    assert read(path, 'the index is damaged') == expected(range(9))


def write_other(path, encoding, schema, name, data=b'x', *, beside=False):
    """Write a topic of another encoding, alone or together with headers of ROS 2."""
    writer = Writer(str(path))
    writer.start()
    key = writer.register_schema(name, schema, b'') if name else 0
    other = writer.register_channel('/other', encoding, key)
    for number in range(3):
        writer.add_message(other, number, data, number)
    if beside:
        key = writer.register_schema(HEADER, 'ros2msg', definition(HEADER).encode())
        channel = writer.register_channel('/one', 'cdr', key)
        writer.add_message(channel, 5, cdr(5), 5)
    writer.finish()
    return path


OTHERS = {
    'ros1': ('ros1', 'ros1msg', 'std_msgs/Header', 'ROS 1 (convert with rosbags-convert'),
    'json': ('json', 'jsonschema', 'foxglove.RawImage', 'in JSON of type'),
    'json_without_schema': ('json', '', '', 'in JSON, which are not ROS messages'),
    'protobuf': ('protobuf', 'protobuf', 'foxglove.CompressedImage', 'in Protobuf of type'),
    'flatbuffer': ('flatbuffer', 'flatbuffer', 'foxglove.RawImage', 'in FlatBuffers of type'),
    'cbor': ('cbor', '', 'any', 'in CBOR of type'),
    'own': ('application/x', 'own', 'any', "in 'application/x' of type"),
    'no_encoding_but_protobuf': ('', 'protobuf', 'any', 'in Protobuf of type'),
    'no_schema': ('cdr', '', '', 'without a schema, whose type is unknown'),
}


@pytest.mark.parametrize(('encoding', 'schema', 'name', 'text'), OTHERS.values(), ids=OTHERS)
def test_messages_of_other_encodings_are_reported_as_such(tmp_path, encoding, schema, name, text):
    path = write_other(tmp_path / 'x.mcap', encoding, schema, name)
    with pytest.raises(BagError, match=re.escape(text)) as caught, Bag(path):
        pass
    assert not re.search('damage|lost|recover', str(caught.value))


@pytest.mark.parametrize(('encoding', 'schema', 'name', 'text'), OTHERS.values(), ids=OTHERS)
def test_beside_messages_of_ros_2_they_matter_only_if_requested(
    tmp_path, encoding, schema, name, text
):
    path = write_other(tmp_path / 'x.mcap', encoding, schema, name, beside=True)
    assert read_whole(path) == [('/one', 5, cdr(5))]
    with Bag(path) as bag:
        assert set(bag.topics) == {'/one'}
        with pytest.raises(BagError, match=f"topic '/other' of bag.* holds .*{re.escape(text)}"):
            bag.messages(['/other'])


@pytest.mark.parametrize(
    ('encoding', 'schema', 'name'),
    [
        ('cdr', 'ros2msg', HEADER),
        ('cdr', 'ros2idl', HEADER),
        ('CDR', 'ros2idl', HEADER),
        ('cdr', 'omgidl', 'std_msgs::msg::Header'),
        ('cdr', 'omgidl', 'std_msgs::msg::dds_::Header_'),
        ('cdr', 'ros2msg', 'std_msgs/Header'),
        ('cdr', '', HEADER),  # a type whose definition the recorder did not find
        ('', 'ros2msg', HEADER),
    ],
)
def test_cdr_is_read_however_its_type_is_described(tmp_path, encoding, schema, name):
    path = write_other(tmp_path / 'x.mcap', encoding, schema, name, cdr(7))
    assert read_whole(path) == [('/other', n, cdr(7)) for n in range(3)]


def test_error_names_the_compression_of_chunks(tmp_path):
    path = write(tmp_path / 'x.mcap', range(9), compression=CompressionType.LZ4, enable_crcs=False)
    data = path.read_bytes()
    name = (3).to_bytes(4, 'little') + b'lz4'
    path.write_bytes(data.replace(name, name.replace(b'lz4', b'bz2')))
    with (
        pytest.raises(BagError, match=r"compressed with 'bz2'.*mcap comp") as caught,
        Bag(path),
    ):
        pass
    assert 'damage' not in str(caught.value)
