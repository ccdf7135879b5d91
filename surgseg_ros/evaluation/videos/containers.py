# SPDX-License-Identifier: Apache-2.0
"""Checks that the elements of a video file are contiguous up to its end."""

import re
from collections.abc import Callable, Mapping
from typing import BinaryIO, Final

from surgseg_ros.evaluation.videos.packets import Contents, Streams

_MAX_ELEMENTS: Final = 1_000_000
"""Maximum number of elements between two positions; no real video has more."""

_LONGEST_HEAD: Final = 24
"""Maximum number of bytes of the name and the size of an element."""

_RIFF_LISTS: Final = {b'AVI ', b'AVIX', b'movi', b'rec '}
"""Lists whose elements are walked; other lists are skipped."""
_RIFF_OTHERS: Final = re.compile(rb'ix[0-9A-Fa-f]{2}|JUNK|idx1|LIST|RIFF')
_RIFF_CHUNK: Final = re.compile(rb'(\d\d)([a-z]{2})')

_EBML_INSIDE: Final = {0x18538067, 0x1F43B675, 0xA0}
"""Master elements that are walked: Segment, Cluster and BlockGroup."""
_EBML_BLOCKS: Final = {0xA1, 0xA3}
_EBML_OTHERS: Final = {
    0x1A45DFA3, 0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1254C367, 0x1941A469,
    0x1043A770, 0xEC, 0xBF, 0xE7, 0xA7, 0xAB, 0x9B, 0xFB, 0xFA, 0xA4, 0x75A1, 0x75A2,
}  # fmt: skip
"""All other elements of these levels, from the EBML header to DiscardPadding (RFC 9559)."""

_FLV_TAGS: Final = {8, 9, 18}
"""Tags for audio, video and script data; the stream number of a tag is always 0."""

_BOX: Final = re.compile(rb'[A-Za-z0-9 ]{4}')


def are_connected(contents: Contents, file: BinaryIO, start: int, target: int) -> bool:
    """
    Check that the elements between two positions in a file are contiguous.

    FFmpeg continues after damage without an error, and numbers the frames there as if nothing had
    been lost. This function reads only sizes and names of elements, not their content.

    :param contents: contents of the video.
    :param file: the open file.
    :param start: position at which an element starts.
    :param target: position at which one must start, or in Matroska the body of a block.
    :return: False if not; also True for formats that are not supported here.
    """
    length_of = _LENGTHS.get(contents.format)
    offset = start
    for _step in range(_MAX_ELEMENTS):
        if length_of is None or offset >= target:
            break
        file.seek(offset)
        length = length_of(file.read(_LONGEST_HEAD), target - offset, contents.streams)
        if not length:
            return False
        offset += length
    return length_of is None or offset == target


def _riff_length(head: bytes, _: int, streams: Streams) -> int:
    """Return the length of a chunk of an AVI file: of another stream, or an empty one."""
    if len(head) < 8:
        return 0
    size = int.from_bytes(head[4:8], 'little')
    if head[:4] in (b'RIFF', b'LIST') and head[8:12] in _RIFF_LISTS:
        return 12
    if chunk := _RIFF_CHUNK.fullmatch(head[:4]):
        number = int(chunk[1])
        if number >= streams.total or (number == streams.own and size and chunk[2] != b'pc'):
            return 0
    elif not _RIFF_OTHERS.fullmatch(head[:4]):
        return 0
    return 8 + size + size % 2


def _ebml_length(head: bytes, rest: int, _: Streams) -> int:
    """Return the length of an element of a Matroska file."""
    name_bytes = _vint_bytes(head, 0)
    size_bytes = _vint_bytes(head, name_bytes) if name_bytes else 0
    name = int.from_bytes(head[:name_bytes], 'big')
    body = name_bytes + size_bytes
    if not size_bytes or name not in _EBML_INSIDE | _EBML_BLOCKS | _EBML_OTHERS:
        return 0
    if name in _EBML_INSIDE or (name in _EBML_BLOCKS and body == rest):
        return body
    return body + (int.from_bytes(head[name_bytes:body], 'big') & ((1 << 7 * size_bytes) - 1))


def _vint_bytes(head: bytes, offset: int) -> int:
    """Return the number of bytes of a variable-length integer; 0 if there is none."""
    return 9 - head[offset].bit_length() if offset < len(head) and head[offset] else 0


def _box_length(head: bytes, rest: int, _: Streams) -> int:
    """Return the length of a top-level box of an MP4 file."""
    if len(head) < 8 or not _BOX.fullmatch(head[4:8]):
        return 0
    size = int.from_bytes(head[:4], 'big')
    if size == 0:  # the box extends to the end of the file
        return rest
    if size == 1:
        size = int.from_bytes(head[8:16], 'big')
    return size if size >= 8 else 0


def _flv_length(head: bytes, _: int, __: Streams) -> int:
    """Return the length of a tag of an FLV file, including the size that follows it."""
    if len(head) < 11 or head[0] & 0x1F not in _FLV_TAGS or any(head[8:11]):
        return 0
    return 11 + int.from_bytes(head[1:4], 'big') + 4


_LENGTHS: Final[Mapping[str, Callable[[bytes, int, Streams], int]]] = {
    'avi': _riff_length,
    'flv': _flv_length,
    'matroska': _ebml_length,
    'mov': _box_length,
}
"""
Functions that return the length of an element, by the first of FFmpeg's names of a format.

They take the first bytes, and the number of bytes up to the target. They return the number of
bytes up to the next element, or to the first one within; 0 if there is none.
"""


def _transport_packets(file: BinaryIO) -> tuple[int, int, int]:
    """Find the first packet of a transport stream, its sync byte, and the packet length."""
    file.seek(0)
    head = file.read(_TRANSPORT_HEAD_BYTES)
    for sync in range(len(head)):
        for prefix, length in ((0, 188), (4, 192), (0, 204)):
            if head[sync : sync + _SYNCS * length : length] == b'\x47' * _SYNCS:
                return sync - prefix, sync, length
    return 0, 0, 0


_TRANSPORT_HEAD_BYTES: Final = 2**16
_SYNCS: Final = 4
"""Consecutive packets with a sync byte from which a transport stream is recognized."""
_LIST_OF_STREAMS: Final = 0
_HAS_PAYLOAD, _BEGINS_UNIT = 0x10, 0x40


def _is_complete_transport_stream(file: BinaryIO, size: int) -> bool:
    """Check that the last packet of an MPEG transport stream is complete."""
    start, _, length = _transport_packets(file)
    return not length or (size - start) % length == 0


def starts_complete(contents: Contents, file: BinaryIO) -> bool:
    """
    Check whether an MPEG transport stream contains its beginning.

    A writer starts with a list of the streams, and marks the packet in which a frame starts. A
    cutout of a longer stream starts in the middle of something.

    :param contents: contents of the video.
    :param file: the open file.
    :return: False if it is missing; True if it exists, is unknown, or for other formats.
    """
    if contents.format != 'mpegts':
        return True
    start, sync, length = _transport_packets(file)
    is_listed = False
    while length and sync <= contents.packets[0].offset + length:
        file.seek(sync)
        head = file.read(4)
        number = int.from_bytes(head[1:3], 'big') & 0x1FFF
        if number == contents.streams.name and head[3] & _HAS_PAYLOAD:
            return start == 0 and is_listed and bool(head[1] & _BEGINS_UNIT)
        is_listed |= number == _LIST_OF_STREAMS
        sync += length
    return True


def _is_complete_asf(file: BinaryIO, size: int) -> bool:
    """Compare the size of a WMV file with that in its header, which is 0 in a live stream."""
    head = file.read(_ASF_HEADER_BYTES)
    offset = head.find(_ASF_PROPERTIES) + 40
    return offset < 40 or size >= int.from_bytes(head[offset : offset + 8], 'little')


_ASF_PROPERTIES: Final = bytes.fromhex('a1dcab8c47a9cf118ee400c00c205365')
_ASF_HEADER_BYTES: Final = 2**16

_IS_COMPLETE: Final[Mapping[str, Callable[[BinaryIO, int], bool]]] = {
    'mpegts': _is_complete_transport_stream,
    'asf': _is_complete_asf,
}


def is_complete(contents: Contents, file: BinaryIO) -> bool:
    """
    Check whether a file contains its end, for formats whose elements are not walked.

    :param contents: contents of the video.
    :param file: the open file.
    :return: False if it is truncated; True if it is complete or unknown.
    """
    size = file.seek(0, 2)
    file.seek(0)
    return contents.format not in _IS_COMPLETE or _IS_COMPLETE[contents.format](file, size)
