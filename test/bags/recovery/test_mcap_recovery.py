# SPDX-License-Identifier: Apache-2.0
"""Complete chunks and messages of truncated or damaged MCAP files are read."""

import pytest
from mcap.writer import CompressionType
from rosbags.rosbag2 import CompressionMode
from unusual_bags import HEADER, cdr, expected, read, write_foreign, write_packed

from surgseg_ros.bags import records
from surgseg_ros.bags.reading import Bag, BagError
from surgseg_ros.bags.recovery import mcap_recovery
from surgseg_ros.bags.writing import BagWriter


@pytest.mark.parametrize('compression', CompressionType)
@pytest.mark.parametrize('chunked', [True, False])
def test_complete_messages_of_a_truncated_chunk_are_recovered(tmp_path, compression, chunked):
    more = {'size': 50_000, 'chunked': chunked}
    file = write_foreign(tmp_path / 'bag.mcap', range(20), compression, **more)
    whole_bytes = file.stat().st_size
    counts = []
    for share in (0.3, 0.6, 0.9):  # all within the only chunk
        cut = tmp_path / f'{share}.mcap'
        cut.write_bytes(file.read_bytes()[: int(share * whole_bytes)])
        found = read(cut, 'the end is missing.*mcap recover')
        assert found == expected(range(len(found)), 50_000)
        counts.append(len(found))
    assert 0 < counts[0] < counts[1] < counts[2] < 20
    assert counts[1] >= 9  # data are compressed in blocks of several messages


@pytest.mark.parametrize('compression', CompressionType)
@pytest.mark.parametrize('chunked', [True, False])
def test_zeros_in_place_of_the_end_give_no_message(tmp_path, compression, chunked):
    more = {'size': 50_000, 'chunked': chunked}
    file = write_foreign(tmp_path / 'bag.mcap', range(30), compression, **more)
    data = file.read_bytes()[: int(0.9 * file.stat().st_size)]
    file.write_bytes(data[:-60_000] + bytes(60_000))
    found = read(file, 'the end is missing')
    assert found == expected(range(len(found)), 50_000)
    assert 22 <= len(found) <= 25


@pytest.mark.parametrize('compression', CompressionType)
@pytest.mark.parametrize(
    ('cut_bytes', 'message_index', 'message'),
    [
        (300_000, True, 'the end is missing.*: 1 of 2 chunks with 21 messages'),
        (0, True, "1 of 3 chunks .*; 21 messages of '/one' are missing"),
        (0, False, "1 of 3 chunks .*; 21 messages of '/one' are missing"),
    ],
)
def test_reading_continues_after_a_damaged_chunk(
    tmp_path, compression, cut_bytes, message_index, message
):
    more = {'size': 50_000, 'message_index': message_index}
    file = write_foreign(tmp_path / 'bag.mcap', range(60), compression, **more)
    data = bytearray(file.read_bytes())
    offset = len(data) // 5  # in the first chunk, after the only definition of the topic
    data[offset : offset + 100] = bytes(reversed(data[offset : offset + 100]))
    file.write_bytes(data[: len(data) - cut_bytes])
    found = read(file, message)
    assert found == expected(range(21, 21 + len(found)), 50_000)
    assert len(found) >= (20 if cut_bytes else 39)


def test_a_chunk_without_records_and_without_checksum(tmp_path):
    bag = write_packed(tmp_path / 'bag', range(60), 'mcap', CompressionMode.NONE, size=50_000)
    data = bytearray((bag / 'bag.mcap').read_bytes())
    data[1_500_000:1_560_000] = bytes(60_000)  # the end of one image, and all of the next one
    (bag / 'bag.mcap').write_bytes(data)
    text = "1 of 3 chunks .*; 21 messages of '/one' are missing"
    assert read(bag, text) == expected([*range(21), *range(42, 60)], 50_000)


def test_without_the_chunk_that_defines_the_topic(tmp_path):
    file = write_foreign(tmp_path / 'bag.mcap', range(60), size=50_000)
    data = file.read_bytes()[:-300_000]
    name_at = data.index(b'/one')
    file.write_bytes(data[: name_at - 9] + b'\xff' * 9 + data[name_at:])
    with pytest.raises(BagError, match=r'topics being unknown: \d+ messages'), Bag(file):
        pass


@pytest.mark.parametrize('packed', [True, False])
def test_a_flipped_bit_gives_no_wrong_image(tmp_path, packed):
    with BagWriter(tmp_path / 'bag.mcap', packed=packed) as bag:
        for number in range(30):
            bag.write('/one', HEADER, cdr(number, 50_000), number)
    data = bytearray((tmp_path / 'bag.mcap').read_bytes())
    data[300_000] ^= 1
    (tmp_path / 'bag.mcap').write_bytes(data)
    text = "1 of 2 chunks .*; 21 messages of '/one' are missing"
    assert read(tmp_path / 'bag.mcap', text) == expected(range(21, 30), 50_000)


@pytest.mark.parametrize('cut_bytes', [1, 8, 37, 38, 200])
def test_a_lost_footer_loses_no_message(tmp_path, cut_bytes):
    file = write_foreign(tmp_path / 'bag.mcap', range(20), size=50_000)
    file.write_bytes(file.read_bytes()[:-cut_bytes])
    assert read(file, 'the end is missing') == expected(range(20), 50_000)


@pytest.mark.parametrize('compression', [CompressionType.ZSTD, CompressionType.LZ4])
def test_rejects_a_chunk_that_decompresses_to_too_much(tmp_path, monkeypatch, compression):
    file = write_foreign(tmp_path / 'bag.mcap', range(20), compression, size=50_000)
    for module in (records, mcap_recovery):
        monkeypatch.setattr(module, 'MAX_BYTES', 100_000)
    assert read(file, r'left out as damaged: 1 of 1 chunks.*20 messages of .* are missing') == []
