# SPDX-License-Identifier: Apache-2.0
"""Reads records of MCAP files one by one, and decompresses chunks."""

import os
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import BinaryIO, Final, NamedTuple
from zlib import crc32

import lz4.frame  # type: ignore[import-untyped]

from surgseg_ros.bags.definitions import CHANNEL, SCHEMA, Connection, DamagedError, Received

__all__ = ['MAGIC', 'MAX_BYTES', 'unpack', 'zstd']

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


MAGIC: Final = b'\x28\xb5\x2f\xfd'
"""First bytes of data compressed with Zstandard. CDR differs: its first byte is 0."""

MAX_BYTES: Final = 2**30
"""Maximum size of decompressed data: the largest image takes 800 MB."""


def unpack(data: bytes | memoryview, maximum: int = MAX_BYTES) -> bytes:
    """
    Decompress a message or a chunk, with a limit: Zstandard can expand data a thousandfold.

    :param data: one Zstandard frame.
    :param maximum: maximum number of bytes.
    :return: the decompressed bytes.
    :raises zstd.ZstdError: if it is damaged or truncated, or exceeds the limit.
    """
    unpacker = zstd.ZstdDecompressor()
    unpacked: bytes = unpacker.decompress(data, max_length=maximum + 1)
    if len(unpacked) > maximum:
        raise zstd.ZstdError(f'it decompresses to more than {maximum} bytes')
    if not unpacker.eof:
        raise zstd.ZstdError('it is cut off')
    return unpacked


MCAP_MAGIC: Final = b'\x89MCAP0\r\n'
"""The first and the last bytes of an MCAP file."""

MESSAGE: Final = 5
CHUNK: Final = 6
MESSAGE_INDEX: Final = 7
CHUNK_INDEX: Final = 8
STATISTICS: Final = 11

MESSAGE_HEAD: Final = struct.Struct('<HIQQ')
"""Channel, sequence, time of receipt, time of sending."""

CHUNK_HEAD: Final = struct.Struct('<QQQI')
"""Start time, end time, uncompressed size, checksum; the name of the compression follows."""

_PLAIN_HEAD: Final = struct.Struct('<QQQIIQ')
"""The same of an uncompressed chunk, with the length of the name, 0, and that of its records."""

_NO_RECORD: Final = 'a chunk contains data that are not a record'

_SHORTER: Final = 'the file has become shorter'

_BLOCK_BYTES: Final = 2**20

_WHOLE_BYTES: Final = 2**20
"""Size up to which an uncompressed chunk is read as a whole."""

_MAX_WHOLE_BYTES: Final = 2**26
"""The same if its messages are small, since these take 0.4 times as long so."""

_SMALL_BYTES: Final = 2**16

_SAMPLE: Final = 16
"""Number of records by which the size of the others is estimated."""

_HEAD: Final = struct.Struct('<BQ')  # opcode, length


class RecordSpan(NamedTuple):
    """The position of a record's content in a file."""

    opcode: int
    start: int
    end: int


def record_spans(file: BinaryIO, start: int, end: int) -> Iterator[RecordSpan]:
    """
    Iterate over a file's records, each an opcode, 8 bytes of length and that many bytes.

    :param file: its position does not change.
    :param start: position of the first record.
    :param end: end of the file, or of the section.
    :return: the records up to the first incomplete one.
    :raises DamagedError: if the file has become shorter.
    """
    while start + _HEAD.size <= end:
        head = os.pread(file.fileno(), _HEAD.size, start)
        if len(head) < _HEAD.size:
            raise DamagedError(_SHORTER)
        opcode, length = _HEAD.unpack(head)
        following = start + _HEAD.size + length
        if opcode == 0 or following > end:  # 0 is not an opcode, but crashes leave zeros
            return
        yield RecordSpan(opcode, start + _HEAD.size, following)
        start = following


def records_within(data: bytes | memoryview) -> Iterator[tuple[int, memoryview]]:
    """
    Iterate over the records of a decompressed chunk.

    :param data: the chunk, or the beginning of it.
    :return: opcode and content of each record, up to the first incomplete one.
    """
    view, at = memoryview(data), 0
    while at + _HEAD.size <= len(view):
        opcode, length = _HEAD.unpack_from(view, at)
        following = at + _HEAD.size + length
        if opcode == 0 or following > len(view):
            return
        if _cannot_be_in_chunk(opcode, length):
            return
        yield opcode, view[at + _HEAD.size : following]
        at = following


def content_at(file: BinaryIO, span: RecordSpan) -> bytes:
    """
    Read the content of a record, in any thread.

    :param file: the file.
    :param span: the position.
    :return: the content.
    :raises DamagedError: if the file has become shorter.
    """
    parts, at = [], span.start
    while at < span.end and (part := os.pread(file.fileno(), span.end - at, at)):  # 2 GiB at most
        parts.append(part)
        at += len(part)
    if at < span.end:
        raise DamagedError(_SHORTER)
    return b''.join(parts)


def checksum_of(file: BinaryIO, start: int, end: int) -> int:
    """
    Compute the checksum of a part of a file, in any thread.

    :param file: the file.
    :param start: the first byte.
    :param end: the byte after the last one; the file may end before.
    :return: the CRC-32.
    """
    checksum, block = 0, memoryview(bytearray(min(end - start, _BLOCK_BYTES)))
    while start < end and (size := os.preadv(file.fileno(), [block[: end - start]], start)):
        checksum = crc32(block[:size], checksum)
        start += size
    return checksum


def records_at(file: BinaryIO, span: RecordSpan) -> Iterator[tuple[int, memoryview]]:
    """
    Read the records at a position in a file: those of a chunk, or one schema, channel or message.

    :param file: the file.
    :param span: the position.
    :return: opcode and content of each; none for records of other kinds.
    :raises DamagedError: before the first of them, if they are partly damaged; later if the file
        has become shorter.
    """
    if span.opcode == CHUNK:
        if records := _plain_records(file, span):
            for record in _spans_within(file, records):
                yield record.opcode, memoryview(content_at(file, record))
        else:
            yield from records_of_chunk(content_at(file, span))
    elif span.opcode in (SCHEMA, CHANNEL, MESSAGE):
        content = content_at(file, span)
        if span.opcode == MESSAGE and len(content) < MESSAGE_HEAD.size:
            raise DamagedError('a message is too short')
        yield span.opcode, memoryview(content)


def _plain_records(file: BinaryIO, span: RecordSpan) -> RecordSpan | None:
    """
    Check a large uncompressed chunk without reading it into memory.

    :return: the part of the chunk that has its records; None for other chunks.
    """
    head = _plain_head(file, span)
    if head is None or span.end - span.start <= _WHOLE_BYTES:
        return None
    _, _, size, checksum, _, length = head
    start = span.start + _PLAIN_HEAD.size
    records = RecordSpan(CHUNK, start, min(start + length, span.end))
    if span.end - span.start <= _MAX_WHOLE_BYTES and _are_small(file, records):
        return None
    if records.end - start != size:
        raise DamagedError(f'a chunk has {records.end - start} bytes instead of {size}')
    if checksum and checksum_of(file, start, records.end) != checksum:
        raise DamagedError('a chunk does not match its checksum')
    end = start
    for record in _spans_within(file, records):
        end = record.end
    if end != records.end:
        raise DamagedError(_NO_RECORD)
    return records


def _are_small(file: BinaryIO, records: RecordSpan) -> bool:
    """Return whether the first records of an uncompressed chunk are small on average."""
    first = list(islice(_spans_within(file, records), _SAMPLE))
    return not first or first[-1].end - records.start < len(first) * _SMALL_BYTES


def _plain_head(file: BinaryIO, span: RecordSpan) -> tuple[int, ...] | None:
    """Read the fields before the records of an uncompressed chunk; None if it is compressed."""
    head = content_at(file, span._replace(end=min(span.end, span.start + _PLAIN_HEAD.size)))
    fields = _PLAIN_HEAD.unpack(head) if len(head) == _PLAIN_HEAD.size else ()
    return fields if fields and not fields[4] else None


def _spans_within(file: BinaryIO, records: RecordSpan) -> Iterator[RecordSpan]:
    """Iterate over the records of an uncompressed chunk, as `records_within` does."""
    for record in record_spans(file, records.start, records.end):
        if _cannot_be_in_chunk(record.opcode, record.end - record.start):
            return
        yield record


def _cannot_be_in_chunk(opcode: int, length: int) -> bool:
    return opcode == CHUNK or (opcode == MESSAGE and length < MESSAGE_HEAD.size)


def messages_at(
    file: BinaryIO, span: RecordSpan, wanted: Mapping[int, Connection]
) -> Iterator[Received]:
    """
    Read the messages at a position in an MCAP file.

    :param file: the file.
    :param span: position of a chunk, or of one message; at others there are none.
    :param wanted: connections by the ids of their channels.
    :return: the messages in file order.
    :raises DamagedError: before the first of them, if they are partly damaged; later if the file
        has become shorter.
    """
    return messages_among(records_at(file, span), wanted)


Found = tuple[Connection, int, bytes | RecordSpan]
"""Connection, time of receipt in nanoseconds, and CDR, or its position in the file."""


def find_messages(
    file: BinaryIO, span: RecordSpan, wanted: Mapping[int, Connection]
) -> list[Found]:
    """
    Find the messages of a chunk, in any thread; those of an uncompressed one may not be read yet.

    :param file: the file.
    :param span: the position of the chunk.
    :param wanted: connections by the ids of their channels.
    :return: the messages in file order.
    :raises DamagedError: if the chunk is partly damaged, or the file has become shorter.
    """
    if not (records := _plain_records(file, span)):
        return list(messages_among(records_of_chunk(content_at(file, span)), wanted))
    found: list[Found] = []
    for record in _spans_within(file, records):
        if record.opcode == MESSAGE:
            start = record.start + MESSAGE_HEAD.size
            head = content_at(file, record._replace(end=start))
            channel, _, time_ns, _ = MESSAGE_HEAD.unpack(head)
            if channel in wanted:
                found.append((wanted[channel], time_ns, record._replace(start=start)))
    return found


def chunk_at(file: BinaryIO, start: int, end: int) -> tuple[RecordSpan, int]:
    """
    Find the chunk that begins at a position, in any thread.

    :param file: the file.
    :param start: the position.
    :param end: end of the data section.
    :return: the position of the chunk, and how many bytes it takes, decompressed or not; the
        summary may state another size.
    :raises DamagedError: if there is no complete chunk.
    """
    span = next(record_spans(file, start, end), None)
    if span is None or span.opcode != CHUNK or span.end - span.start < CHUNK_HEAD.size:
        raise DamagedError(f'there is no complete chunk at byte {start}')
    head = content_at(file, span._replace(end=span.start + CHUNK_HEAD.size))
    return span, max(CHUNK_HEAD.unpack(head)[2], span.end - span.start)


def messages_among(
    records: Iterable[tuple[int, memoryview]], wanted: Mapping[int, Connection]
) -> Iterator[Received]:
    """
    Select messages among records of MCAP.

    :param records: opcode and content of each.
    :param wanted: connections by the ids of their channels.
    :return: the messages in file order.
    """
    for opcode, content in records:
        if opcode == MESSAGE:
            channel, _, time_ns, _ = MESSAGE_HEAD.unpack_from(content)
            if channel in wanted:
                yield wanted[channel], time_ns, bytes(content[MESSAGE_HEAD.size :])


def packed_part(content: bytes | memoryview) -> tuple[str, memoryview]:
    """
    Find the compressed data of a chunk.

    :param content: content of the chunk's record, which may be truncated.
    :return: the name of the compression, and the compressed data.
    :raises ValueError: if there is no valid name.
    """
    view = memoryview(content)
    name_at = CHUNK_HEAD.size + 4
    name_end = name_at + int.from_bytes(view[CHUNK_HEAD.size : name_at], 'little')
    length = int.from_bytes(view[name_end : name_end + 8], 'little')
    return str(view[name_at:name_end], 'utf-8'), view[name_end + 8 : name_end + 8 + length]


def _unpack_lz4(packed: memoryview, maximum: int) -> bytes:
    """Decompress a chunk; reject data that exceeds its stated size."""
    return bytes(lz4.frame.LZ4FrameDecompressor().decompress(packed, max_length=maximum + 1))


UNPACKERS: Final[Mapping[str, Callable[[memoryview, int], bytes | memoryview]]] = {
    '': lambda packed, maximum: packed,
    'lz4': _unpack_lz4,
    'zstd': unpack,
}
"""
Functions that decompress a chunk into at most a number of bytes, by the name of its compression.

rosbags has the same table, but decompresses the whole chunk before it checks the size.
"""


def _unpack_chunk(content: bytes) -> bytes | memoryview:
    _, _, size, checksum = CHUNK_HEAD.unpack_from(content)
    name, packed = packed_part(content)
    if name not in UNPACKERS:
        raise DamagedError(f'a chunk is compressed with {name!r}, which is not supported')
    data = UNPACKERS[name](packed, min(size, MAX_BYTES))
    if len(data) != size:
        raise DamagedError(f'a chunk decompresses to {len(data)} bytes instead of {size}')
    if checksum and crc32(data) != checksum:
        raise DamagedError('a chunk does not match its checksum')
    return data


def records_of_chunk(content: bytes) -> list[tuple[int, memoryview]]:
    """
    Decompress a chunk, and compare it with its checksum.

    :param content: content of the chunk's record.
    :return: opcode and content of each record in it.
    :raises DamagedError: if it is partly damaged.
    """
    try:
        data = _unpack_chunk(content)
    except MemoryError:  # not an error of the file
        raise
    except Exception as error:  # several libraries raise many types of errors
        raise DamagedError(str(error)) from error
    found = list(records_within(data))
    if sum(_HEAD.size + len(record) for _, record in found) != len(data):
        raise DamagedError(_NO_RECORD)
    return found
