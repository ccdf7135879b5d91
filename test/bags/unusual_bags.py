# SPDX-License-Identifier: Apache-2.0
"""Bags as written by other programs, or left by crashes."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import yaml
from mcap.writer import CompressionType, IndexType, Writer
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin
from rosbags.rosbag2 import Writer as Rosbags

from surgseg_ros.bags.reading import Bag, BagError
from surgseg_ros.bags.writing import BagWriter
from surgseg_ros.messages.serialization import TYPES, header, to_cdr

HEADER = 'std_msgs/msg/Header'
ENDINGS = {'mcap': '.mcap', 'sqlite3': '.db3'}

PROFILE = (
    'history: {0}\n  depth: 5\n  reliability: {1}\n  durability: {1}\n  deadline:\n    sec: 0\n'
    '    nsec: 0\n  lifespan:\n    sec: 0\n    nsec: 0\n  liveliness: {1}\n'
    '  liveliness_lease_duration:\n    sec: 0\n    nsec: 0\n'
    '  avoid_ros_namespace_conventions: false'
)
QOS = {
    'as_foxy_records': f'- {PROFILE.format(1, 1)}',
    'as_rolling_records': f'- {PROFILE.format("keep_last", "transient_local")}',
    'empty': '',
    'one_mapping': 'history: keep_last\ndepth: 5\nreliability: reliable\ndurability: volatile',
    'number': '0',
    'null': 'null',
    'json': '[{"depth": 5}]',
    'no_yaml': '{{',
    'unknown_word': '- history: sometimes\n  depth: 1\n  durability: volatile',
    'missing_keys': '- depth: 5',
    'of_another_kind': '- depth: five\n  deadline: never\n  durability: [1]',
    'bytes': b'\xff\x00',
    'integer': 7,
    'none': None,
}
"""QoS profiles of publishers, as recorders and other programs write them."""


def cdr(number: int, size: int = 0) -> bytes:
    """Serialize a header with a number, which keeps at least `size` bytes when compressed."""
    letters = np.random.default_rng(number).integers(97, 123, size, dtype=np.uint8)
    return to_cdr(header(number, letters.tobytes().decode()))


def write_headers(path: Path, numbers, storage: str = 'mcap', size: int = 0) -> Path:
    """Write headers that were received at the nanoseconds of their numbers."""
    with BagWriter(path, storage) as bag:
        for number in numbers:
            bag.write('/one', HEADER, cdr(number, size), number)
    return path


def write_split(folder: Path, parts, storage: str = 'mcap', size: int = 0) -> Path:
    """Write a bag of several files with metadata.yaml, as `ros2 bag record` splits one."""
    ending = ENDINGS[storage]
    folder.mkdir(parents=True)
    names = [f'{folder.name}_{index}{ending}' for index in range(len(parts))]
    for name, numbers in zip(names, parts, strict=True):
        write_headers(folder / name, numbers, storage, size)
    write_metadata(folder, storage, dict(zip(names, map(len, parts), strict=True)))
    return folder


def write_metadata(folder: Path, storage: str, counts: dict[str, int], **more: object) -> None:
    """Write a metadata.yaml about headers in files."""
    topic = {
        'name': '/one',
        'type': HEADER,
        'serialization_format': 'cdr',
        'offered_qos_profiles': [],
        'type_description_hash': TYPES.hash_rihs01(HEADER),
    }
    start, length = {'nanoseconds_since_epoch': 0}, {'nanoseconds': 1}
    total = sum(counts.values())
    information = {
        'version': 9,
        'storage_identifier': storage,
        'duration': length,
        'starting_time': start,
        'message_count': total,
        'topics_with_message_count': [{'topic_metadata': topic, 'message_count': total}],
        'compression_format': '',
        'compression_mode': '',
        'relative_file_paths': list(counts),
        'files': [
            {'path': name, 'starting_time': start, 'duration': length, 'message_count': count}
            for name, count in counts.items()
        ],
        'custom_data': None,
        'ros_distro': 'jazzy',
        **more,
    }
    text = yaml.safe_dump({'rosbag2_bagfile_information': information})
    (folder / 'metadata.yaml').write_text(text)


def write_packed(
    path: Path, numbers, storage: str, mode: CompressionMode, size: int = 0, version: int = 8
) -> Path:
    """Write headers with the writer of rosbags, compressed by file, by message or by chunk."""
    writer = Rosbags(path, version=version, storage_plugin=StoragePlugin[storage.upper()])
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection('/one', HEADER, typestore=TYPES)
        for number in numbers:
            writer.write(connection, number, cdr(number, size))
    return path


def write_foreign(
    path: Path,
    numbers,
    compression: CompressionType = CompressionType.NONE,
    *,
    size: int = 0,
    chunked: bool = True,
    message_index: bool = True,
) -> Path:
    """Write headers with the MCAP library, with many messages per chunk or without chunks."""
    index = IndexType.ALL if message_index else IndexType.ALL & ~IndexType.MESSAGE
    writer = Writer(str(path), 2**20, compression, index_types=index, use_chunking=chunked)
    writer.start(profile='ros2')
    schema = writer.register_schema(HEADER, 'ros2msg', definition(HEADER).encode())
    channel = writer.register_channel('/one', 'cdr', schema)
    for number in numbers:
        writer.add_message(channel, number, cdr(number, size), number)
    writer.finish()
    return path


def definition(type_name: str) -> str:
    """Return the message definition of a type and its nested types."""
    return TYPES.generate_msgdef(type_name, ros_version=2)[0]


def read(path: Path, match: str) -> list[tuple[int, bytes]]:
    """Read all readable messages, and check that the loss is reported before and after."""
    found = []
    with Bag(path) as bag:
        known = '; '.join(bag.damage)
        with pytest.raises(BagError, match=match) as caught:
            found.extend((time_ns, data) for _, time_ns, data in bag.messages(['/one']))
    assert known in str(caught.value)
    assert str(caught.value).endswith('Everything else was read')
    return found


def expected(numbers: Iterable[int], size: int = 0) -> list[tuple[int, bytes]]:
    return [(number, cdr(number, size)) for number in numbers]
