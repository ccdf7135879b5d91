# SPDX-License-Identifier: Apache-2.0
"""What a video file holds, packet by packet, and whether it has holes; nothing is decoded."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, TypeAlias

import av
from av.codec.context import ThreadType
from av.container import InputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from surgseg_ros.core.limits import MAX_PIXELS
from surgseg_ros.evaluation.errors import FrameError

Coded: TypeAlias = 'av.Packet[VideoStream]'
"""A packet with its data; at run time the class takes no argument."""

_ATTACHED_PICTURE: Final = 0x400
"""AV_DISPOSITION_ATTACHED_PIC: the cover of a video, which is no video."""

_READ_AT_ONCE: Final = 4
"""So many packets, at most, FFmpeg reads when it may read 32 bytes."""

_VP8_SHOWN: Final = 0x10
"""In the first byte of a frame (RFC 6386, 9.1); others are only referred to."""

_CLOCK: Final = re.compile(r'(\d+):(\d+):(\d+(?:\.\d+)?)')

_MOST_ELEMENTS: Final = 1_000_000
"""Between two places; what has more is not a video of anybody."""

_LONGEST_HEAD: Final = 24
"""Bytes that hold the name and the size of an element."""

_RIFF_LISTS: Final = {b'AVI ', b'AVIX', b'movi', b'rec '}
"""What to look into; other lists are passed over as a whole."""
_RIFF_OTHERS: Final = re.compile(rb'ix[0-9A-Fa-f]{2}|JUNK|idx1|LIST|RIFF')
_RIFF_CHUNK: Final = re.compile(rb'(\d\d)([a-z]{2})')

_EBML_INSIDE: Final = {0x18538067, 0x1F43B675, 0xA0}
"""Segment, Cluster and BlockGroup."""
_EBML_BLOCKS: Final = {0xA1, 0xA3}
_EBML_OTHERS: Final = {
    0x1A45DFA3, 0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1254C367, 0x1941A469,
    0x1043A770, 0xEC, 0xBF, 0xE7, 0xA7, 0xAB, 0x9B, 0xFB, 0xFA, 0xA4, 0x75A1, 0x75A2,
}  # fmt: skip
"""From the EBML header to DiscardPadding, all that Matroska has at these levels (RFC 9559)."""

_BOX: Final = re.compile(rb'[A-Za-z0-9 ]{4}')


class Streams(NamedTuple):
    """
    The streams of a file.

    :param own: which of them the video is.
    :param total: how many there are.
    """

    own: int
    total: int


class Packet(NamedTuple):
    """
    One compressed frame.

    :param pts: when it is to be shown, in the stream's time base.
    :param dts: when it is to be decoded, in the same.
    :param place: of its first byte in the file; -1 where the format does not tell.
    :param size: in bytes.
    :param is_key: whether decoding may begin here, as the file says.
    :param is_shown: whether it is a frame of the video, and not cut away by an edit list.
    :param is_cut: whether the demuxer says that a part of it is missing.
    """

    pts: int | None
    dts: int | None
    place: int
    size: int
    is_key: bool
    is_shown: bool
    is_cut: bool


class Entry(NamedTuple):
    """What the file's own index says of a frame; for the fields see Packet."""

    place: int
    dts: int


@dataclass(frozen=True)
class Contents:
    """
    What demuxing a video found.

    :param path: the file.
    :param format: the first of FFmpeg's names, `avi`, `matroska`, `mov` or another.
    :param codec: as FFmpeg names it.
    :param packets: in the order of decoding.
    :param entries: the index as the file has it.
    :param time_base: seconds for a unit of pts and dts.
    :param rates: frames a second, as the stream claims in one way or another.
    :param promised: how many frames the header promises; 0 where it does not.
    :param duration_s: of the video stream, as the header promises; None where it does not.
    :param size: (width, height) in pixels.
    :param streams: which stream of the file it is.
    :param stands_alone: whether every frame decodes without another.
    """

    path: Path
    format: str
    codec: str
    packets: tuple[Packet, ...]
    entries: tuple[Entry, ...]
    time_base: Fraction
    rates: tuple[Fraction, ...]
    promised: int
    duration_s: Fraction | None
    size: tuple[int, int]
    streams: Streams
    stands_alone: bool


@contextmanager
def opened(path: Path, **options: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """
    Open a video; within the block, whatever FFmpeg refuses is told as a FrameError.

    :param path: the file.
    :param options: for the demuxer, as FFmpeg names them.
    :return: its container, and its first stream that is a video.
    :raises FrameError: if there is no such stream, or images are too large.
    """
    try:
        # The prefix keeps a colon in a name from being read as a protocol; the list keeps a
        # playlist under a video's name from opening a connection.
        fixed = {'protocol_whitelist': 'file', 'max_pixels': str(MAX_PIXELS)}
        with av.open(f'file:{path.absolute()}', options={**options, **fixed}) as container:
            yield container, _film_of(container, path)
    except (av.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, FrameError):
            raise
        raise FrameError(
            f'{path}: does not decode as a video ({_reported(error)}); copy it again, or convert it, '
            'to H.264 in .mp4 for example'
        ) from error


def strict(codec: VideoCodecContext) -> VideoCodecContext:
    """
    Have a decoder report each error, at the packet that it is in, so without threads.

    :param codec: of a stream that was opened just now.
    :return: the same.
    """
    codec.thread_type = ThreadType.NONE
    codec.thread_count = 1
    ours = {'err_detect': 'crccheck+explode', 'max_pixels': str(MAX_PIXELS)}
    codec.options = {**codec.options, **ours}
    return codec


def _reported(error: Exception) -> str:
    return getattr(error, 'strerror', None) or str(error)


def _film_of(container: InputContainer, path: Path) -> VideoStream:
    for stream in container.streams.video:
        if int(stream.disposition) & _ATTACHED_PICTURE:
            continue
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > MAX_PIXELS:
            raise FrameError(
                f'{path}: has frames of {width}x{height}, more than {MAX_PIXELS} pixels: '
                'scale it down'
            )
        return stream
    raise FrameError(f'{path}: does not decode as a video; it holds no stream of images')


def packets_of(container: InputContainer, stream: VideoStream) -> Iterator[Coded]:
    """
    Demux a stream up to its end, or to where its file cannot be read any more.

    :param container: the open file.
    :param stream: of it.
    :return: the packets that hold something; the same ones in every run.
    """
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.FFmpegError):
            return
        if packet.size:
            yield packet


class Packets:
    """The packets of a video, forward from any of them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open: ExitStack | None = None
        self.next = 0

    def begin(self) -> VideoStream:
        """Open the file, at its first packet."""
        self.close()
        self._open = ExitStack()
        container, stream = self._open.enter_context(opened(self._path))
        self._packets = packets_of(container, stream)
        self.next = 0
        return stream

    def take(self, number: int) -> 'Coded | None':
        """Go forward to a packet; None where the file ends before."""
        for packet in self._packets:
            self.next += 1
            if self.next > number:
                packet.pts = packet.dts = number  # by which its frame is known when it comes
                return packet
        return None

    def close(self) -> None:
        """Close the file."""
        if self._open is not None:
            self._open.close()
            self._open = None


def demux(path: Path) -> Contents:
    """
    Read through a video, without decoding it.

    :param path: the file.
    :return: what is there.
    :raises FrameError: if it is no video, or holds no frame.
    """
    with opened(path) as (container, stream):
        codec = stream.codec_context
        name = container.format.name.split(',')[0]
        hides = codec.name.startswith(('vp8', 'libvpx')) and 'vp9' not in codec.name
        packets = tuple(_packet(x, hides) for x in packets_of(container, stream))
        if not packets:
            raise FrameError(
                f'{path}: does not decode as a video; it holds no frame: copy it again'
            )
        alone = codec.codec.intra_only and all(packet.is_key for packet in packets)
        return Contents(
            path=path,
            format=name,
            codec=codec.name,
            packets=packets,
            # An MP4 file has more of its index with each fragment.
            entries=_avi_index(path) if name == 'avi' else _entries(stream),
            time_base=Fraction(stream.time_base or 1),
            rates=_rates(stream),
            promised=stream.frames,
            duration_s=_duration_s(container, stream),
            size=(codec.width, codec.height),
            streams=Streams(stream.index, len(container.streams)),
            stands_alone=alone,
        )


def _packet(packet: Coded, hides: bool) -> Packet:
    shown = not packet.is_discard and not (hides and not bytes(packet)[0] & _VP8_SHOWN)
    return Packet(
        packet.pts,
        packet.dts,
        -1 if packet.pos is None else packet.pos,
        packet.size,
        packet.is_keyframe,
        shown,
        packet.is_corrupt,
    )


def _entries(stream: VideoStream) -> tuple[Entry, ...]:
    return tuple(Entry(x.pos, x.timestamp) for x in stream.index_entries if not x.is_discard)


def _avi_index(path: Path) -> tuple[Entry, ...]:
    """Read the index that an AVI file has, before FFmpeg adds what it makes up on its way."""
    with opened(path, probesize='32', fpsprobesize='0', analyzeduration='1') as (_, stream):
        found = _entries(stream)
        return found if len(found) > _READ_AT_ONCE else ()


def _rates(stream: VideoStream) -> tuple[Fraction, ...]:
    rates = (stream.base_rate, stream.average_rate, stream.guessed_rate)
    return tuple(dict.fromkeys(Fraction(rate) for rate in rates if rate and rate > 0))


def _duration_s(container: InputContainer, stream: VideoStream) -> Fraction | None:
    """Find how long the video is to be; the container's time may be that of its sound."""
    if tagged := _CLOCK.match(stream.metadata.get('DURATION', '')):  # of Matroska
        hours, minutes, seconds = tagged.groups()
        return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)
    if len(container.streams) == 1 and container.duration:
        return Fraction(container.duration, av.time_base)
    return None


def are_connected(contents: Contents, file: BinaryIO, start: int, target: int) -> bool:
    """
    Check that elements follow one another without a hole, from one place in a file to another.

    FFmpeg reads on behind a damaged place without a word, and numbers the frames there as if
    nothing had been lost. Here only the sizes and names of elements are read, never what is in
    them.

    :param contents: of the video.
    :param file: the same, open.
    :param start: where an element begins.
    :param target: where one has to begin, or of Matroska the body of a block.
    :return: False if they lead elsewhere; True of a format whose elements are not known here.
    """
    length_of = _LENGTHS.get(contents.format)
    place = start
    for _step in range(_MOST_ELEMENTS):
        if length_of is None or place >= target:
            break
        file.seek(place)
        length = length_of(file.read(_LONGEST_HEAD), target - place, contents.streams)
        if not length:
            return False
        place += length
    return length_of is None or place == target


def _riff_length(head: bytes, _: int, streams: Streams) -> int:
    """Measure a chunk of an AVI file: of other streams, or of no bytes."""
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
    """Measure an element of a Matroska file."""
    name_bytes = _vint_bytes(head, 0)
    size_bytes = _vint_bytes(head, name_bytes) if name_bytes else 0
    name = int.from_bytes(head[:name_bytes], 'big')
    body = name_bytes + size_bytes
    if not size_bytes or name not in _EBML_INSIDE | _EBML_BLOCKS | _EBML_OTHERS:
        return 0
    if name in _EBML_INSIDE or (name in _EBML_BLOCKS and body == rest):
        return body
    return body + (int.from_bytes(head[name_bytes:body], 'big') & ((1 << 7 * size_bytes) - 1))


def _vint_bytes(head: bytes, place: int) -> int:
    """Count the bytes of a number of variable length; 0 where there is none."""
    return 9 - head[place].bit_length() if place < len(head) and head[place] else 0


def _box_length(head: bytes, rest: int, _: Streams) -> int:
    """Measure an outermost box of an MP4 file."""
    if len(head) < 8 or not _BOX.fullmatch(head[4:8]):
        return 0
    size = int.from_bytes(head[:4], 'big')
    if size == 0:  # to the end of the file
        return rest
    if size == 1:
        size = int.from_bytes(head[8:16], 'big')
    return size if size >= 8 else 0


_LENGTHS: Final[Mapping[str, Callable[[bytes, int, Streams], int]]] = {
    'avi': _riff_length,
    'matroska': _ebml_length,
    'mov': _box_length,
}
"""
By the first of FFmpeg's names of a format, what measures an element.

It gets the first bytes, and how many there are up to the target; it gives how many there are up to
the next element, or the first one within: 0 where there is none.
"""
