# SPDX-License-Identifier: Apache-2.0
"""Chunks of MCAP files: which are read ahead, and which record by record."""

import os
import random
import re
import threading
from contextlib import closing

import pytest
from mcap.reader import make_reader
from mcap.records import ChunkIndex
from mcap.writer import CompressionType
from test_mcap_file import NO_INDEX, OPTIONS, read_whole, write
from unusual_bags import HEADER, cdr, definition, expected, read

from surgseg_ros.bags import records, storages
from surgseg_ros.bags.reading import Bag, BagError


def count_chunks(monkeypatch):
    """Record the threads in which chunks are checked."""
    names, original = [], records.records_of_chunk

    def check(content):
        names.append(threading.current_thread().name)
        return original(content)

    monkeypatch.setattr(records, 'records_of_chunk', check)
    return names


def test_few_chunks_are_read_ahead(tmp_path, monkeypatch):
    path, names = write(tmp_path / 'x.mcap', range(9), chunk_size=1), count_chunks(monkeypatch)
    with Bag(path) as bag, closing(bag.messages()) as messages:
        assert next(messages)[1] == 0
        assert names == [threading.main_thread().name]  # bags of many files begin them all
        assert next(messages)[1] == 1
        messages.close()  # ends the threads
        assert len(names) == 4
        assert threading.main_thread().name not in names[1:]


def threads_of_large_chunks(path, monkeypatch, compression):
    """Return the threads in which two large chunks are checked, while two messages are read."""
    names = count_chunks(monkeypatch)
    write(path, range(9), chunk_size=1, compression=compression)
    monkeypatch.setattr(storages, '_MAX_PREFETCHED_BYTES', 10)
    with Bag(path) as bag, closing(bag.messages()) as messages:
        assert [next(messages)[1], next(messages)[1]] == [0, 1]
        return list(names)


@pytest.mark.parametrize('compression', CompressionType)
def test_large_chunks_are_not_read_ahead(tmp_path, monkeypatch, compression):
    names = threads_of_large_chunks(tmp_path / 'x.mcap', monkeypatch, compression)
    assert names == [threading.main_thread().name] * 2


@pytest.mark.parametrize('compression', CompressionType)
def test_the_index_may_state_wrong_sizes_of_chunks(tmp_path, monkeypatch, compression):
    """Otherwise, a small file could let several chunks of 1 GiB be decompressed at once."""
    stated = ChunkIndex.write

    def understate(index, builder):
        index.uncompressed_size = 1
        stated(index, builder)

    monkeypatch.setattr(ChunkIndex, 'write', understate)
    names = threads_of_large_chunks(tmp_path / 'x.mcap', monkeypatch, compression)
    with (tmp_path / 'x.mcap').open('rb') as file:
        chunks = make_reader(file).get_summary().chunk_indexes
    assert {chunk.uncompressed_size for chunk in chunks} == {1}
    assert names == [threading.main_thread().name] * 2


def read_by_record(monkeypatch):
    """Take all uncompressed chunks for large ones; return the sizes of what is read at once."""
    sizes, original = [], records.content_at

    def content_at(file, span):
        sizes.append(span.end - span.start)
        return original(file, span)

    monkeypatch.setattr(records, '_WHOLE_BYTES', 0)
    monkeypatch.setattr(records, '_MAX_WHOLE_BYTES', 0)
    monkeypatch.setattr(records, 'content_at', content_at)
    monkeypatch.setattr(storages, 'content_at', content_at)
    return sizes


@pytest.mark.parametrize('options', OPTIONS.values(), ids=OPTIONS)
def test_large_uncompressed_chunks_are_read_record_by_record(tmp_path, monkeypatch, options):
    sizes = read_by_record(monkeypatch)
    path, topics = tmp_path / 'x.mcap', ('/one', '/two', '/three')
    options = {'chunk_size': 10**6, 'compression': CompressionType.NONE, **options}
    write(path, range(20), topics=topics, **options)
    assert read_whole(path) == [(topics[n % 3], n, cdr(n)) for n in range(20)]
    longest = max(len(cdr(19)), len(definition(HEADER)))
    assert max(sizes) < 2 * longest < path.stat().st_size / 3


@pytest.mark.parametrize(
    ('message_bytes', 'whole_bytes', 'is_whole'),
    [(200, 2**26, True), (2**17, 2**26, False), (200, 2**21, False)],
)
def test_large_uncompressed_chunks_of_small_messages_are_read_as_a_whole(
    tmp_path, monkeypatch, message_bytes, whole_bytes, is_whole
):
    path, content, names = tmp_path / 'x.mcap', cdr(0, message_bytes), count_chunks(monkeypatch)
    monkeypatch.setattr(records, '_MAX_WHOLE_BYTES', whole_bytes)
    monkeypatch.setattr('test_mcap_file.cdr', lambda number: content)
    numbers = range(3 * 2**20 // len(content))
    write(path, numbers, chunk_size=2**30, compression=CompressionType.NONE)
    with Bag(path) as bag:
        assert all(found == content for _, _, found in bag.messages())
    assert len(names) == is_whole


def messages_and_error(path):
    found = []
    try:
        with Bag(path) as bag:
            found.extend(bag.messages())
    except BagError as error:
        return found, re.sub(r'a chunk (has|decompresses to) .* instead of', 'size', str(error))
    return found, ''


@pytest.mark.parametrize('enable_crcs', [True, False])
@pytest.mark.parametrize('options', [{}, {'index_types': NO_INDEX}], ids=['index', 'no_index'])
def test_damage_has_the_same_consequences_if_chunks_are_read_by_record(
    tmp_path, monkeypatch, options, enable_crcs
):
    path = tmp_path / 'x.mcap'
    write(path, range(9), compression=CompressionType.NONE, enable_crcs=enable_crcs, **options)
    data = path.read_bytes()
    found = []
    for by_record in (False, True):
        if by_record:
            read_by_record(monkeypatch)
        rng, results = random.Random(0), []
        for _ in range(150):
            damaged = bytearray(data)
            damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            path.write_bytes(
                damaged[: rng.choice([len(data), len(data), rng.randrange(len(data))])]
            )
            results.append(messages_and_error(path))
        found.append(results)
    assert found[0] == found[1]


def test_an_error_of_the_disk_is_raised_after_the_messages_before_it(tmp_path, monkeypatch):
    path, original = tmp_path / 'x.mcap', records.content_at
    write(path, range(9), chunk_size=1, compression=CompressionType.NONE)

    def fail(file, span):
        content = original(file, span)
        if cdr(4) in content:
            raise OSError('Input/output error')
        return content

    monkeypatch.setattr(records, 'content_at', fail)
    assert read(path, 'cannot be read further: .*Input/output error') == expected(range(4))


def shortened(path, size, begun):
    """Read messages of a file that is cut off meanwhile; return their times and the error."""
    with Bag(path) as bag:
        messages = bag.messages()
        found = [next(messages)] if begun else []
        os.truncate(path, size)
        try:
            found.extend(messages)
        except BagError as error:
            assert found == [('/one', n, cdr(n)) for _, n, _ in found]
            return [n for _, n, _ in found], str(error)
    return found, ''


@pytest.mark.parametrize('enable_crcs', [True, False])
def test_a_file_that_becomes_shorter_yields_no_part_of_a_message(
    tmp_path, monkeypatch, enable_crcs
):
    read_by_record(monkeypatch)
    path, numbers = tmp_path / 'x.mcap', [9, 6, 7, 8, 3, 4, 5, 0, 1, 2]
    options = {'chunk_size': 3 * len(cdr(0)) + 90, 'enable_crcs': enable_crcs}
    write(path, numbers, compression=CompressionType.NONE, **options)
    found, error = shortened(path, path.read_bytes().index(cdr(2)) + 5, begun=True)
    assert found == [0, 1, *range(3, 10)]
    assert "1 of 4 chunks (the file has become shorter); 1 messages of '/one' are miss" in error


@pytest.mark.parametrize('at', [1, 3])
@pytest.mark.parametrize('part', [5, 20, 50, 70, 85])
def test_chunks_that_a_file_no_longer_has_are_damaged(tmp_path, monkeypatch, at, part):
    read_by_record(monkeypatch)
    path = tmp_path / 'x.mcap'
    write(path, [3, 2, 1, 0], chunk_size=1, compression=CompressionType.NONE, enable_crcs=False)
    with path.open('rb') as file:
        chunk = make_reader(file).get_summary().chunk_indexes[at].chunk_start_offset
    found, error = shortened(path, chunk + part, begun=False)
    assert found == [1, 2, 3][3 - at :]
    assert f'damaged: {4 - at} of 4 chunks (the file has become shorter)' in error
