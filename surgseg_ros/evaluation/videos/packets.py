# SPDX-License-Identifier: Apache-2.0
"""The packets of a video file, read without decoding, and their relation to frames."""

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

import av
from av.codec.context import ThreadType
from av.container import InputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from surgseg_ros.core.processes import MAX_PIXELS
from surgseg_ros.evaluation.layout import FrameError

Coded: TypeAlias = 'av.Packet[VideoStream]'
"""A packet with its data; at run time, the class takes no argument."""

_COVER_IMAGE: Final = 0x400
"""AV_DISPOSITION_ATTACHED_PIC: the stream is the cover image of a video."""

_READ_AT_ONCE: Final = 4
"""Maximum number of packets that FFmpeg reads for a probe size of 32 bytes."""

_VP8_SHOWN: Final = 0x10
"""Bit in the first byte of a frame that is shown (RFC 6386, 9.1); others are only references."""

_CLOCK: Final = re.compile(r'(\d+):(\d+):(\d+(?:\.\d+)?)')


class Streams(NamedTuple):
    """
    The streams of a file.

    :param own: index of the video stream.
    :param total: number of streams.
    :param name: id of the video stream in the file: in MP4 the number of its track, in an MPEG
        transport stream that of its packets.
    """

    own: int
    total: int
    name: int


class Packet(NamedTuple):
    """
    One compressed frame.

    :param pts: presentation time, in the stream's time base.
    :param dts: decoding time, in the stream's time base.
    :param offset: position of its first byte in the file; -1 if the format does not give it.
    :param size: size in bytes.
    :param is_key: whether decoding can start here, according to the file.
    :param is_shown: whether it is a frame of the video, and not removed by an edit list.
    :param is_cut: whether the demuxer reports that a part of it is missing.
    """

    pts: int | None
    dts: int | None
    offset: int
    size: int
    is_key: bool
    is_shown: bool
    is_cut: bool


class Entry(NamedTuple):
    """A frame in the file's own index; see Packet for the fields."""

    offset: int
    dts: int


@dataclass(frozen=True)
class Contents:
    """
    The result of demuxing a video.

    :param path: the file.
    :param format: the first of FFmpeg's names, `avi`, `matroska`, `mov` or another.
    :param codec: FFmpeg's name of the codec.
    :param packets: the packets, in the order of decoding.
    :param entries: the index of the file.
    :param time_base: seconds for a unit of pts and dts.
    :param rates: frames per second, as the stream states them in several places.
    :param declared: number of frames according to the header; 0 if it has none.
    :param duration_s: duration of the video stream, according to the header; None if unknown.
    :param size: (width, height) in pixels.
    :param streams: streams of the file.
    :param is_intra_only: whether all frames are decoded independently.
    """

    path: Path
    format: str
    codec: str
    packets: tuple[Packet, ...]
    entries: tuple[Entry, ...]
    time_base: Fraction
    rates: tuple[Fraction, ...]
    declared: int
    duration_s: Fraction | None
    size: tuple[int, int]
    streams: Streams
    is_intra_only: bool


class Gap(NamedTuple):
    """
    Missing frames of a video.

    :param first: number of the first frame.
    :param last: number of the last frame; None if it is unknown.
    :param reason: the reason, without a full stop.
    """

    first: int
    last: int | None
    reason: str

    def __str__(self) -> str:
        """Name the missing frames."""
        if self.last is None:
            return f'frame {self.first} and all after it: {self.reason}'
        if self.first == self.last:
            return f'frame {self.first}: {self.reason}'
        return f'frames {self.first} to {self.last}: {self.reason}'


@dataclass(frozen=True)
class Numbering:
    """
    The assignment of packets to frames.

    :param frames: for each packet in the order of decoding, the number of its frame; None for
        one that is not shown, or whose number is unknown.
    :param gaps: the gaps, in order.
    :param count: number of frames, including missing ones.
    :param rate: frames per second if it is constant, else None.
    :param times: time of each frame, in seconds from frame 0, if the rate is not constant.
    :param repeats: frames that repeat the previous one, with the number of that one.
    :param lost_before: packets before which packets are missing.
    :param by_output: whether `frames` are positions in the order of decoding, since the file
        does not give the order of display.
    """

    frames: Sequence[int | None]
    gaps: tuple[Gap, ...] = ()
    count: int = 0
    rate: Fraction | None = None
    times: Sequence[Fraction] = ()
    repeats: Mapping[int, int] = field(default_factory=dict)
    lost_before: frozenset[int] = frozenset()
    by_output: bool = False

    def reason_missing(self, frame: int) -> str | None:
        """
        Explain why a frame does not exist.

        :param frame: its number.
        :return: a sentence without a full stop; None if no problem is known.
        """
        index = bisect_right(self.gaps, frame, key=lambda gap: gap.first) - 1
        if index < 0:
            return None
        gap = self.gaps[index]
        return gap.reason if gap.last is None or frame <= gap.last else None


@contextmanager
def opened(path: Path, **options: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """
    Open a video; within the block, errors of FFmpeg are raised as FrameError.

    :param path: the file.
    :param options: FFmpeg's options for the demuxer.
    :return: its container, and its first video stream.
    :raises FrameError: if there is no such stream, or images are too large.
    """
    try:
        # The prefix keeps FFmpeg from reading a colon in a name as a protocol; the list prevents a
        # playlist with a video's name from opening a connection.
        fixed = {'protocol_whitelist': 'file', 'max_pixels': str(MAX_PIXELS)}
        with av.open(f'file:{path.absolute()}', options={**options, **fixed}) as container:
            yield container, _film_of(container, path)
    except (av.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, FrameError):
            raise
        raise FrameError(
            f'{path}: does not decode as a video ({_described(error)}); copy it again, or convert '
            'it to H.264 in .mp4 for example'
        ) from error


def strict(codec: VideoCodecContext) -> VideoCodecContext:
    """
    Make a decoder report errors at the packet that contains them, hence without threads.

    :param codec: codec of a stream that was just opened.
    :return: the codec.
    """
    codec.thread_type = ThreadType.NONE
    codec.thread_count = 1
    checks = {'err_detect': 'crccheck+explode', 'max_pixels': str(MAX_PIXELS)}
    codec.options = {**codec.options, **checks}
    return codec


def _described(error: Exception) -> str:
    return getattr(error, 'strerror', None) or str(error)


def _film_of(container: InputContainer, path: Path) -> VideoStream:
    for stream in container.streams.video:
        if int(stream.disposition) & _COVER_IMAGE:
            continue
        if stream.codec_context is None:
            raise FrameError(
                f'{path}: does not decode as a video; its codec is not known, or its header '
                'damaged: copy it again, or convert it, to H.264 in .mp4 for example'
            )
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > MAX_PIXELS:
            raise FrameError(
                f'{path}: has frames of {width}x{height}, more than {MAX_PIXELS} pixels: '
                'scale it down'
            )
        return stream
    raise FrameError(f'{path}: does not decode as a video; it contains no video stream')


def packets_of(container: InputContainer, stream: VideoStream) -> Iterator[Coded]:
    """
    Demux a stream up to its end, or to the point from which the file cannot be read.

    :param container: the open file.
    :param stream: a stream of it.
    :return: the packets that are not empty; identical in every run.
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
    """The packets of a video, which are read forward from the start."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open: ExitStack | None = None
        self.next = 0

    def begin(self) -> VideoStream:
        """Open the file at its first packet."""
        self.close()
        self._open = ExitStack()
        container, stream = self._open.enter_context(opened(self._path))
        self._packets = packets_of(container, stream)
        self.next = 0
        return stream

    def take(self, number: int) -> 'Coded | None':
        """Advance to a packet; None if the file ends before it."""
        for packet in self._packets:
            self.next += 1
            if self.next > number:
                packet.pts = packet.dts = number  # to recognize its frame in the output
                return packet
        return None

    def close(self) -> None:
        """Close the file."""
        if self._open is not None:
            self._open.close()
            self._open = None


def demux(path: Path) -> Contents:
    """
    Read the packets of a video, without decoding it.

    :param path: the file.
    :return: its contents.
    :raises FrameError: if it is not a video, or contains no frame.
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
            # The index of an MP4 file grows with each fragment.
            entries=_avi_index(path) if name == 'avi' else _entries(stream),
            time_base=Fraction(stream.time_base or 1),
            rates=_rates(stream),
            declared=stream.frames,
            duration_s=_duration_s(container, stream),
            size=(codec.width, codec.height),
            streams=Streams(stream.index, len(container.streams), stream.id),
            is_intra_only=alone,
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
    """Read the index of an AVI file, before FFmpeg adds its own entries."""
    with opened(path, probesize='32', fpsprobesize='0', analyzeduration='1') as (_, stream):
        found = _entries(stream)
        return found if len(found) > _READ_AT_ONCE else ()


def _rates(stream: VideoStream) -> tuple[Fraction, ...]:
    rates = (stream.base_rate, stream.average_rate, stream.guessed_rate)
    return tuple(dict.fromkeys(Fraction(rate) for rate in rates if rate and rate > 0))


def _duration_s(container: InputContainer, stream: VideoStream) -> Fraction | None:
    """Return the duration of the video; that of the container may be that of its sound."""
    if tagged := _CLOCK.match(stream.metadata.get('DURATION', '')):  # in Matroska
        hours, minutes, seconds = tagged.groups()
        return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)
    if len(container.streams) == 1 and container.duration:
        return Fraction(container.duration, av.time_base)
    return None
