# SPDX-License-Identifier: Apache-2.0
"""
Decodes the requested frames of a video, and rejects those that are affected by damage.

A decoder conceals damaged bytes with content of the previous frame, and continues; every frame
that refers to that one is wrong, too, without an error. Hence a frame is accepted only if it, and
all frames decoded since the last key frame, were decoded without an error.

Errors that decoders do not detect are checked first: JPEGs must be complete, and packets of H.264
and HEVC must consist of complete NAL units. Three zero bytes never occur within a unit: the
encoder inserts a 3 (ITU-T H.264, 7.4.1). A lost sector that reads as zeros does contain them.
"""

import os
import re
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from threading import local
from typing import Final, NamedTuple

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.jpeg import ImageFileError, check_jpeg
from surgseg_ros.evaluation.videos.packets import (
    Coded,
    Contents,
    Numbering,
    Packets,
    opened,
    strict,
)

Decoded = NDArray[np.uint8] | str
"""(H, W, 3) uint8 RGB, or the reason why there is none."""

_HELD: Final = 17
"""Number of packets after which a frame is considered lost: a decoder holds at most 16."""

_MAX_THREADS: Final = 8

_NEVER: Final = re.compile(rb'\x00\x00[\x00-\x02]')
_NEVER_BETWEEN_STARTS: Final = re.compile(rb'\x00\x00(?:\x02|\x00(?!\x00*\x01))')
_MAX_ZEROS: Final = 3
_CONFIGURATION: Final = {'h264': 4, 'hevc': 21}
"""Position in the configuration record of the number of bytes per length, minus one."""

_DAMAGED: Final = 'its data are damaged'
_REFERS: Final = 'it depends on a frame that is damaged or missing'


def decode(
    contents: Contents, numbering: Numbering, frames: Iterator[int]
) -> Iterator[tuple[int, Decoded]]:
    """
    Decode frames.

    :param contents: contents of the video.
    :param numbering: numbering of the video.
    :param frames: the requested numbers, ascending, possibly infinite.
    :return: number, and the image or its error; ends with the video.
    :raises FrameError: if the file can no longer be opened.
    """
    threads = min(os.cpu_count() or 1, _MAX_THREADS)
    with ThreadPoolExecutor(threads) as pool:
        source = _IntraDecoder if contents.is_intra_only else _Dependent
        with closing(source(contents, numbering, pool)) as decoder:
            yield from _prefetched(decoder, numbering, frames, threads + 1)


def _prefetched(
    decoder: '_IntraDecoder | _Dependent', numbering: Numbering, frames: Iterator[int], length: int
) -> Iterator[tuple[int, Decoded]]:
    """Decode some frames ahead, in parallel with the use of the first one."""
    pending: deque[tuple[int, Future[Decoded] | str]] = deque()
    for frame in frames:
        reason = numbering.reason_missing(frame)
        if reason is None and frame >= numbering.count:
            break
        pending.append((frame, reason or decoder.get(numbering.repeats.get(frame, frame))))
        if frame >= numbering.count:
            break  # the number of missing frames is unknown
        if len(pending) >= length:
            yield _result(*pending.popleft())
    while pending:
        yield _result(*pending.popleft())


def _result(frame: int, found: 'Future[Decoded] | str') -> tuple[int, Decoded]:
    return frame, found if isinstance(found, str) else found.result()


def length_bytes(codec: str, extradata: bytes | None) -> int | None:
    """
    Determine how the packets of a stream are divided into units.

    :param codec: FFmpeg's name of the codec.
    :param extradata: header data of the stream.
    :return: number of bytes of the length before each unit; 0 if units begin with start codes;
        None for a codec without such units.
    """
    if codec not in _CONFIGURATION:
        return None
    if not extradata or extradata[0] != 1 or len(extradata) <= _CONFIGURATION[codec]:
        return 0
    return 1 + (extradata[_CONFIGURATION[codec]] & 3)


def are_complete(data: bytes, length_size: int) -> bool:
    """
    Check whether a packet consists of complete units, as far as possible without decoding.

    :param data: the packet.
    :param length_size: see `length_bytes`.
    :return: False if it does not.
    """
    if not length_size:
        return _NEVER_BETWEEN_STARTS.search(data.rstrip(b'\0')) is None
    offset = 0
    while offset < len(data):
        start = offset + length_size
        end = start + int.from_bytes(data[offset:start], 'big')
        if start > len(data) or end > len(data):
            return False
        unit = data[start:end].rstrip(b'\0')
        # The last byte is never 0; up to three zeros may remain from a start code.
        if end - start - len(unit) > _MAX_ZEROS or _NEVER.search(unit):
            return False
        offset = end
    return True


class _Decoder:
    """The packets of a video, with the assignment to frames."""

    def __init__(self, contents: Contents, numbering: Numbering, pool: ThreadPoolExecutor) -> None:
        self.contents = contents
        self.numbering = numbering
        self.numbers = {f: n for n, f in enumerate(numbering.frames) if f is not None}
        self.packets = Packets(contents.path)
        self.codec = strict(self.packets.begin().codec_context)
        self._length_size = length_bytes(contents.codec, self.codec.extradata)
        self._pool = pool

    def error_of(self, number: int, packet: Coded) -> str | None:
        """Describe the error of a packet, as far as possible without FFmpeg's decoder."""
        if self.contents.packets[number].is_cut:
            return _DAMAGED
        if self.contents.codec == 'mjpeg':
            try:
                check_jpeg(bytes(packet))
            except ImageFileError as error:
                return str(error)
        size = self._length_size
        return None if size is None or are_complete(bytes(packet), size) else _DAMAGED

    def close(self) -> None:
        """Cancel pending frames, and close the file."""
        self._pool.shutdown(cancel_futures=True)
        self.packets.close()


class _IntraDecoder(_Decoder):
    """Intra frames, which are decoded individually; frames that are not requested are skipped."""

    def __init__(self, contents: Contents, numbering: Numbering, pool: ThreadPoolExecutor) -> None:
        super().__init__(contents, numbering, pool)
        self._decoders = local()
        self._open = ExitStack()

    def close(self) -> None:
        """Also close the files of all threads."""
        super().close()
        self._open.close()

    def get(self, frame: int) -> 'Future[Decoded] | str':
        """Start decoding a frame; its number is not below that of the previous call."""
        number = self.numbers[frame]
        if number < self.packets.next:
            self.packets.begin()
        packet = self.packets.take(number)
        return _DAMAGED if packet is None else self._pool.submit(self._decode, number, packet)

    def _decode(self, number: int, packet: Coded) -> Decoded:
        # FFmpeg decodes the images anyway, as in all other tools that read videos.
        if error := self.error_of(number, packet):
            return error
        if not hasattr(self._decoders, 'own'):
            _, stream = self._open.enter_context(opened(self.contents.path))
            self._decoders.own = strict(stream.codec_context)
        try:
            found = self._decoders.own.decode(packet)
        except av.FFmpegError:
            return _DAMAGED
        if not found or found[0].is_corrupt:
            return _DAMAGED
        return _picture(found[0], self.contents.size)


class _Dependent(_Decoder):
    """
    Frames that refer to others, so that decoding starts at a key frame.

    If that fails, decoding is tried once more from the video's first frame, since frames that a
    file marks as key frames are not always such.
    """

    def __init__(self, contents: Contents, numbering: Numbering, pool: ThreadPoolExecutor) -> None:
        super().__init__(contents, numbering, pool)
        self._keys = [n for n, packet in enumerate(contents.packets) if packet.is_key]
        self._run = _Run(self, 0)
        self._jumps = True

    def get(self, frame: int) -> 'Future[Decoded] | str':
        """Decode a frame; its number is not below that of the previous call."""
        start = self._start_for(frame) if self._jumps else 0
        if start > self.packets.next:
            self.codec.flush_buffers()
            self._run = _Run(self, start)
        found = self._run.find(frame)
        if isinstance(found, str) and self._jumps:
            self._jumps = False
            if self._run.start > 0:
                self.codec = strict(self.packets.begin().codec_context)
                self._run = _Run(self, 0)
                found = self._run.find(frame)
        if isinstance(found, str):
            return found
        return self._pool.submit(_picture, found, self.contents.size)

    def _start_for(self, frame: int) -> int:
        """Find the last packet from which this frame can be decoded."""
        packets, slots = self.contents.packets, self.numbering.frames
        if self.numbering.by_output:
            at = bisect_right(self._keys, frame - _HELD, key=lambda n: slots[n] or 0)
            return self._keys[at - 1] if at else 0
        number = self.numbers[frame]
        for key in reversed(self._keys[: bisect_right(self._keys, number)]):
            if (packets[key].pts or 0) <= (packets[number].pts or 0):
                return key
        return 0


class _Output(NamedTuple):
    """
    A frame in the output of the decoder.

    :param picture: the decoded frame.
    :param order: its position in the order of output.
    :param frame: its number in the video; None if that is uncertain.
    """

    picture: av.VideoFrame
    order: int
    frame: int | None


class _Run:
    """
    Decodes continuously from a packet, and validates frames in the order of decoding.

    :param source: the source of packets and decoder.
    :param start: the first packet.
    """

    def __init__(self, source: _Dependent, start: int) -> None:
        self.start = start
        self._source = source
        self._codec, self._contents = source.codec, source.contents
        self._numbering = source.numbering
        self._next = self._validated = start
        self._is_done = False
        self._errors: dict[int, str] = {}
        self._outputs: dict[int, _Output] = {}
        self._count = 0
        self._latest: deque[int] = deque(maxlen=2 * _HELD)
        self._order: int | None = None  # of the last output, if the order determines it
        self._is_broken = True
        self._leads: int | None = None  # the order of the frame by which a gap was located
        self._found: dict[int, av.VideoFrame | str] = {}
        self._uncertain: dict[int, int] = {}  # frames since the last key frame, by packet
        self._highest = -1

    def find(self, frame: int) -> av.VideoFrame | str:
        """Decode up to a frame, and return it, or the reason why it cannot be used."""
        self._found = {f: x for f, x in self._found.items() if f >= frame}
        while not self._is_past(frame) and (frame not in self._found or self._is_uncertain(frame)):
            self._step()
            self._validate_all(frame)
        return self._found.get(frame, _REFERS)

    def _is_uncertain(self, frame: int) -> bool:
        """Return whether a packet may contain no frame, so that numbers would be wrong."""
        return frame in self._uncertain and self._uncertain[frame] + _HELD > self._validated

    def _is_past(self, frame: int) -> bool:
        if self._is_done:
            return True
        if self._numbering.by_output:
            return self._highest > frame + _HELD
        return self._validated > self._source.numbers[frame]

    def _step(self) -> None:
        """Feed one packet, or flush the decoder."""
        packet = self._source.packets.take(self._next)
        number, self._next = self._next, self._next + 1
        self._is_done = packet is None
        if number in self._numbering.lost_before:
            self._order = None
        error = None if packet is None else self._source.error_of(number, packet)
        try:
            for picture in self._codec.decode(packet):
                self._take(picture)
        except av.FFmpegError:
            error = error or _DAMAGED
        if error is not None:
            self._errors[number] = error
            self._order = None

    def _take(self, picture: av.VideoFrame) -> None:
        number = picture.pts
        if number is None:
            return
        if not self._numbering.by_output:
            frame = self._numbering.frames[number]
        else:
            if picture.key_frame:
                self._order = number + sum(other > number for other in self._latest)
            elif self._order is not None:
                self._order += 1
            known = self._order is not None and self._order < len(self._numbering.frames)
            frame = self._numbering.frames[self._order] if known else None  # type: ignore[index]
        self._latest.append(number)
        self._count += 1
        if number >= self._validated:
            self._outputs[number] = _Output(picture, self._count, frame)

    def _validate_all(self, wanted: int) -> None:
        """Validate packets in order, as long as their outcome is known."""
        last = min(self._next, len(self._contents.packets))
        while self._validated < last and (
            self._validated in self._outputs
            or self._validated in self._errors
            or self._next - self._validated > _HELD
            or self._is_done
        ):
            output = self._outputs.pop(self._validated, None)
            error = self._validate(self._validated, output)
            frame = output.frame if output else self._numbering.frames[self._validated]
            if self._numbering.by_output:
                if output is None:
                    frame = self._order = None
                    self._found.update(dict.fromkeys(self._uncertain, _REFERS))
                    self._uncertain.clear()
                elif output.picture.key_frame:
                    self._uncertain.clear()
                elif frame is not None and frame >= wanted:
                    self._uncertain[frame] = self._validated
            if frame is not None and frame >= wanted:
                self._found[frame] = output.picture if output and error is None else error or ''
            self._highest = max(self._highest, -1 if frame is None else frame)
            self._validated += 1

    def _validate(self, number: int, output: _Output | None) -> str | None:
        """Describe the error of a packet's frame."""
        packet = self._contents.packets[number]
        self._is_broken |= number in self._numbering.lost_before
        if not packet.is_shown:
            self._is_broken = number in self._errors or (self._is_broken and not packet.is_key)
            return None
        if output is None or output.picture.is_corrupt or number in self._errors:
            self._is_broken = True
            return self._errors.get(number, _DAMAGED)
        if output.picture.key_frame:
            if self._is_broken:
                self._is_broken, self._leads = False, output.order
            return None
        is_led = self._leads is not None and output.order < self._leads
        return _REFERS if self._is_broken or is_led else None


def _picture(frame: av.VideoFrame, size: tuple[int, int]) -> Decoded:
    """
    Convert a frame bit-exactly as OpenCV's VideoCapture does, and rotate it upright.

    :param frame: as decoded.
    :param size: the required (width, height).
    :return: (H, W, 3) uint8 RGB, or the error.
    """
    if (frame.width, frame.height) != size:
        return f'it is {frame.width}x{frame.height}, the video {size[0]}x{size[1]}'
    bgr = frame.to_ndarray(format='bgr24', interpolation='BICUBIC')
    turns = round(frame.rotation / 90) % 4
    rgb = cv2.cvtColor(np.ascontiguousarray(np.rot90(bgr, turns)), cv2.COLOR_BGR2RGB)
    return rgb.astype(np.uint8, copy=False)
