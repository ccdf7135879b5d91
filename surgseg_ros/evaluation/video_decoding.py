# SPDX-License-Identifier: Apache-2.0
"""
Decodes the frames of a video that are asked for, and refuses those that a damage spoils.

A decoder that meets damaged bytes fills the hole from the frame before, and goes on; each frame
that refers to that one is wrong too, and nobody says so. Hence a frame counts only if it, and all
that was decoded since the last frame that stands alone, came without an error.
"""

import os
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import local
from typing import Final, NamedTuple

import av
import cv2
import numpy as np
from av.codec.context import ThreadType
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream
from numpy.typing import NDArray

from surgseg_ros.core.jpeg_check import is_sound
from surgseg_ros.core.limits import MAX_PIXELS
from surgseg_ros.evaluation.nal_units import are_whole, length_bytes
from surgseg_ros.evaluation.video_index import Numbering
from surgseg_ros.evaluation.video_packets import Coded, Contents, opened, packets_of

Decoded = NDArray[np.uint8] | str
"""(H, W, 3) uint8 RGB, or why there is none."""

_HELD: Final = 17
"""Packets after which a frame is not coming any more: a decoder holds 16 at most."""

_MOST_THREADS: Final = 8

_DAMAGED: Final = 'its data are damaged'
_REFERS: Final = 'it is built on a frame that is damaged or missing'


def decode(
    contents: Contents, numbering: Numbering, frames: Iterator[int]
) -> Iterator[tuple[int, Decoded]]:
    """
    Decode frames.

    :param contents: of the video.
    :param numbering: of the same.
    :param frames: the numbers asked for, ascending, maybe without end.
    :return: number, and the image or what is wrong with it; ends with the video.
    :raises FrameError: if the file cannot be opened any more.
    """
    threads = min(os.cpu_count() or 1, _MOST_THREADS)
    with ThreadPoolExecutor(threads) as pool:
        source = _Alone if contents.stands_alone else _Dependent
        with source(contents, numbering, pool) as decoder:
            yield from _prefetched(decoder, numbering, frames, threads + 1)


def _prefetched(
    decoder: '_Alone | _Dependent', numbering: Numbering, frames: Iterator[int], length: int
) -> Iterator[tuple[int, Decoded]]:
    """Keep some frames under way, while the first of them is used."""
    under_way: deque[tuple[int, Future[Decoded] | str]] = deque()
    for frame in frames:
        why = numbering.why_missing(frame)
        if why is None and frame >= numbering.count:
            break
        under_way.append((frame, why or decoder.get(numbering.repeats.get(frame, frame))))
        if frame >= numbering.count:
            break  # nobody knows how many more are missing
        if len(under_way) >= length:
            yield _settled(*under_way.popleft())
    while under_way:
        yield _settled(*under_way.popleft())


def _settled(frame: int, found: 'Future[Decoded] | str') -> tuple[int, Decoded]:
    return frame, found if isinstance(found, str) else found.result()


class _Packets:
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


def _strict(codec: VideoCodecContext) -> VideoCodecContext:
    """Have a decoder tell of each error, and at the packet that it is in: so without threads."""
    codec.thread_type = ThreadType.NONE
    codec.thread_count = 1
    codec.options = {
        **codec.options,
        'err_detect': 'crccheck+explode',
        'max_pixels': str(MAX_PIXELS),
    }
    return codec


class _Alone:
    """Frames that need no other: those that nobody asks for are passed over."""

    def __init__(self, contents: Contents, numbering: Numbering, pool: ThreadPoolExecutor) -> None:
        self._contents = contents
        self._numbers = {f: n for n, f in enumerate(numbering.frames) if f is not None}
        self._pool = pool
        self._packets = _Packets(contents.path)
        self._decoders = local()
        self._open = ExitStack()

    def __enter__(self) -> '_Alone':
        self._packets.begin()
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._packets.close()
        self._open.close()

    def get(self, frame: int) -> 'Future[Decoded] | str':
        """Begin to decode a frame; its number is not below that of the one before."""
        number = self._numbers[frame]
        if number < self._packets.next:
            self._packets.begin()
        packet = self._packets.take(number)
        if packet is None or self._contents.packets[number].is_cut:
            return _DAMAGED
        return self._pool.submit(self._decode, packet)

    def _decode(self, packet: Coded) -> Decoded:
        if not hasattr(self._decoders, 'own'):
            _, stream = self._open.enter_context(opened(self._contents.path))
            self._decoders.own = _strict(stream.codec_context)
        try:
            found = self._decoders.own.decode(packet)
        except av.FFmpegError:
            return _DAMAGED
        if not found or found[0].is_corrupt:
            return _DAMAGED
        # FFmpeg overlooks much of what libjpeg-turbo tells; its images are kept all the same,
        # since all tools that read videos make the very same ones.
        if self._contents.codec == 'mjpeg' and not is_sound(bytes(packet)):
            return _DAMAGED
        return _picture(found[0], self._contents.size)


class _Dependent:
    """
    Frames that refer to others: decoding begins at a frame that stands alone.

    Where one cannot be had so, it is tried once more from the video's first frame on: what a file
    says of where decoding may begin is not always true.
    """

    def __init__(self, contents: Contents, numbering: Numbering, pool: ThreadPoolExecutor) -> None:
        self._contents = contents
        self._numbering = numbering
        self._numbers = {f: n for n, f in enumerate(numbering.frames) if f is not None}
        self._keys = [n for n, packet in enumerate(contents.packets) if packet.is_key]
        self._pool = pool
        self._packets = _Packets(contents.path)
        self._codec = _strict(self._packets.begin().codec_context)
        self._run = _Run(self, 0)
        self._jumps = True

    def __enter__(self) -> '_Dependent':
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._packets.close()

    def get(self, frame: int) -> 'Future[Decoded] | str':
        """Decode a frame; its number is not below that of the one before."""
        start = self._start_for(frame) if self._jumps else 0
        if start > self._packets.next:
            self._codec.flush_buffers()
            self._run = _Run(self, start)
        found = self._run.find(frame)
        if isinstance(found, str) and self._jumps:
            self._jumps = False
            if self._run.start > 0:
                self._codec = _strict(self._packets.begin().codec_context)
                self._run = _Run(self, 0)
                found = self._run.find(frame)
        if isinstance(found, str):
            return found
        return self._pool.submit(_picture, found, self._contents.size)

    def _start_for(self, frame: int) -> int:
        """Find the last packet from which on this frame can be decoded."""
        packets, slots = self._contents.packets, self._numbering.frames
        if self._numbering.by_output:
            at = bisect_right(self._keys, frame - _HELD, key=lambda n: slots[n] or 0)
            return self._keys[at - 1] if at else 0
        number = self._numbers[frame]
        for key in reversed(self._keys[: bisect_right(self._keys, number)]):
            if (packets[key].pts or 0) <= (packets[number].pts or 0):
                return key
        return 0


class _Came(NamedTuple):
    """
    A frame that came out of the decoder.

    :param picture: itself.
    :param order: its place among those that came.
    :param frame: its number in the video; None where that is not sure.
    """

    picture: av.VideoFrame
    order: int
    frame: int | None


class _Run:
    """
    Decodes on and on, from some packet, and judges the frames in the order of decoding.

    :param source: whose packets and decoder these are.
    :param start: the first packet.
    """

    def __init__(self, source: _Dependent, start: int) -> None:
        self.start = start
        self._packets = source._packets
        self._codec = source._codec
        self._numbering = source._numbering
        self._numbers = source._numbers
        self._contents = source._contents
        self._length_size = length_bytes(self._contents.codec, self._codec.extradata)
        self._fed = self._judged = start
        self._is_done = False
        self._errors: set[int] = set()
        self._came: dict[int, _Came] = {}
        self._count = 0
        self._latest: deque[int] = deque(maxlen=2 * _HELD)
        self._place: int | None = None  # of the last one that came, where the order must tell
        self._is_broken = True
        self._leads: int | None = None  # the order of the frame by which a break was fixed
        self._found: dict[int, av.VideoFrame | str] = {}
        self._unsure: dict[int, int] = {}  # frames since the last that stands alone, by packet
        self._highest = -1

    def find(self, frame: int) -> av.VideoFrame | str:
        """Decode up to a frame, and give it, or the reason why it cannot be had."""
        self._found = {f: x for f, x in self._found.items() if f >= frame}
        while not self._is_past(frame) and (frame not in self._found or self._is_unsure(frame)):
            self._step()
            self._judge_all(frame)
        return self._found.get(frame, _REFERS)

    def _is_unsure(self, frame: int) -> bool:
        """Tell whether a packet may yet turn out to hold no frame, so that numbers are wrong."""
        return frame in self._unsure and self._unsure[frame] + _HELD > self._judged

    def _is_past(self, frame: int) -> bool:
        if self._is_done:
            return True
        if self._numbering.by_output:
            return self._highest > frame + _HELD
        return self._judged > self._numbers[frame]

    def _step(self) -> None:
        """Feed one packet, or let the decoder run dry."""
        packet = self._packets.take(self._fed)
        number, self._fed = self._fed, self._fed + 1
        self._is_done = packet is None
        if number in self._numbering.lost_before:
            self._place = None
        try:
            for picture in self._codec.decode(packet):
                self._take(picture)
        except av.FFmpegError:
            self._errors.add(number)
            self._place = None
        if packet is not None and not self._is_sound(number, packet):
            self._errors.add(number)
            self._place = None

    def _is_sound(self, number: int, packet: Coded) -> bool:
        """Tell whether a packet is all there, as far as that shows without decoding."""
        if self._contents.packets[number].is_cut:
            return False
        size = self._length_size
        return size is None or are_whole(bytes(packet), size)

    def _take(self, picture: av.VideoFrame) -> None:
        number = picture.pts
        if number is None:
            return
        if not self._numbering.by_output:
            frame = self._numbering.frames[number]
        else:
            if picture.key_frame:
                self._place = number + sum(other > number for other in self._latest)
            elif self._place is not None:
                self._place += 1
            known = self._place is not None and self._place < len(self._numbering.frames)
            frame = self._numbering.frames[self._place] if known else None  # type: ignore[index]
        self._latest.append(number)
        self._count += 1
        if number >= self._judged:
            self._came[number] = _Came(picture, self._count, frame)

    def _judge_all(self, wanted: int) -> None:
        """Judge packets one after another, as long as it is known what became of them."""
        last = min(self._fed, len(self._contents.packets))
        while self._judged < last and (
            self._judged in self._came
            or self._judged in self._errors
            or self._fed - self._judged > _HELD
            or self._is_done
        ):
            came = self._came.pop(self._judged, None)
            verdict = self._judge(self._judged, came)
            frame = came.frame if came else self._numbering.frames[self._judged]
            if self._numbering.by_output:
                if came is None:
                    frame = self._place = None
                    self._found.update(dict.fromkeys(self._unsure, _REFERS))
                    self._unsure.clear()
                elif came.picture.key_frame:
                    self._unsure.clear()
                elif frame is not None and frame >= wanted:
                    self._unsure[frame] = self._judged
            if frame is not None and frame >= wanted:
                self._found[frame] = came.picture if came and verdict is None else verdict or ''
            self._highest = max(self._highest, -1 if frame is None else frame)
            self._judged += 1

    def _judge(self, number: int, came: _Came | None) -> str | None:
        """Say what is wrong with the frame of a packet."""
        packet = self._contents.packets[number]
        self._is_broken |= number in self._numbering.lost_before
        if not packet.is_shown:
            self._is_broken = number in self._errors or (self._is_broken and not packet.is_key)
            return None
        if came is None or came.picture.is_corrupt or number in self._errors:
            self._is_broken = True
            return _DAMAGED
        if came.picture.key_frame:
            if self._is_broken:
                self._is_broken, self._leads = False, came.order
            return None
        is_led = self._leads is not None and came.order < self._leads
        return _REFERS if self._is_broken or is_led else None


def _picture(frame: av.VideoFrame, size: tuple[int, int]) -> Decoded:
    """
    Convert a frame, to the bit as OpenCV's own reading of videos does, and turn it upright.

    :param frame: as decoded.
    :param size: (width, height) that it must have.
    :return: (H, W, 3) uint8 RGB, or what is wrong.
    """
    if (frame.width, frame.height) != size:
        return f'it is {frame.width}x{frame.height}, the video {size[0]}x{size[1]}'
    bgr = frame.to_ndarray(format='bgr24', interpolation='BICUBIC')
    turns = round(frame.rotation / 90) % 4
    rgb = cv2.cvtColor(np.ascontiguousarray(np.rot90(bgr, turns)), cv2.COLOR_BGR2RGB)
    return rgb.astype(np.uint8, copy=False)
