# SPDX-License-Identifier: Apache-2.0
"""Videos encoded by FFmpeg, whose frames contain their number, and damage to their files."""

import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 192, 96
RATE_HZ = 30
SOUND_HZ = 48_000
CODECS = {'h264': 'libx264', 'mpeg4': 'mpeg4', 'mjpeg': 'mjpeg'}
GOP = 12
"""Number of frames from one key frame to the next."""


def make_image(number: int, width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.uint8]:
    """Draw a moving shape below a stripe of eight bits that encode the number."""
    grid = np.random.default_rng(1).integers(60, 190, (height // 16 + 1, width // 16 + 1, 3))
    image = np.kron(grid, np.ones((16, 16, 1))).astype(np.uint8)[:height, :width]
    image = np.roll(image, 3 * number, axis=1).copy()
    side = width // 8
    for bit in range(8):
        image[: height // 4, side * bit : side * (bit + 1)] = 220 if number >> bit & 1 else 30
    return image


def number_of(image: NDArray[np.uint8]) -> int:
    """Read the number of a frame."""
    side = image.shape[1] // 8
    row = image[image.shape[0] // 8]
    return sum(1 << bit for bit in range(8) if row[side * bit + side // 2].mean() > 125)


def write_video(
    path: Path,
    count: int = 36,
    codec: str = 'h264',
    *,
    times: Sequence[int] | None = None,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    pixels: str | None = None,
    options: Mapping[str, str] | None = None,
    container: Mapping[str, str] | None = None,
    rotation: int = 0,
    sound: bool = False,
) -> Path:
    """Encode `count` images; `times` are in frames at RATE_HZ, one after another by default."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = pixels or ('yuvj420p' if codec == 'mjpeg' else 'yuv420p')
    with av.open(str(path), 'w', options=dict(container or {})) as file:
        stream = file.add_stream(CODECS.get(codec, codec), rate=RATE_HZ)
        stream.width, stream.height = size
        stream.pix_fmt, stream.gop_size = pixels, GOP
        stream.options = {'threads': '1', **(options or {})}
        if rotation:
            stream.set_display_rotation(rotation)
        voice = file.add_stream('aac', rate=SOUND_HZ, layout='mono') if sound else None
        for number, time in enumerate(range(count) if times is None else times):
            frame = av.VideoFrame.from_ndarray(make_image(number, *size), format='rgb24')
            frame = frame.reformat(format=pixels)
            frame.pts, frame.time_base = time, Fraction(1, RATE_HZ)
            file.mux(stream.encode(frame))
            if voice is not None:
                file.mux(voice.encode(silence(time)))
        for ending in filter(None, (stream, voice)):
            file.mux(ending.encode(None))
    return path


def silence(time: int) -> av.AudioFrame:
    """Make the silent audio of one frame."""
    samples = np.zeros((1, SOUND_HZ // RATE_HZ), np.float32)
    sound = av.AudioFrame.from_ndarray(samples, format='fltp', layout='mono')
    sound.sample_rate, sound.time_base = SOUND_HZ, Fraction(1, SOUND_HZ)
    sound.pts = time * samples.size
    return sound


def boxes(path: Path) -> list[tuple[bytes, int, int]]:
    """List the top-level boxes of an MP4 file with 32-bit sizes: name, start, end."""
    content = path.read_bytes()
    found, start = [], 0
    while start < len(content):
        size, name = struct.unpack_from('>I4s', content, start)
        found.append((name, start, start + size))
        start += size
    return found


def fragments(path: Path) -> list[tuple[int, int]]:
    """List the start of each `moof` of an MP4 file, and the end of the following `mdat`."""
    pairs = pairwise(boxes(path))
    return [(start, end) for (name, start, _), (_, _, end) in pairs if name == b'moof']


def without(path: Path, start: int, end: int) -> None:
    """Cut bytes out of a file."""
    content = path.read_bytes()
    rewrite(path, content[:start] + content[end:])


def packets(path: Path) -> list[tuple[int, int]]:
    """List the file offset and size of each packet in decoding order."""
    with av.open(str(path)) as file:
        return [(x.pos, x.size) for x in file.demux(video=0) if x.size]


def overwrite(path: Path, start: int, data: bytes) -> None:
    """Overwrite bytes of a file."""
    content = bytearray(path.read_bytes())
    content[start : start + len(data)] = data
    rewrite(path, content)


def rewrite(path: Path, content: bytes) -> None:
    """Rewrite a file with another modification time, which may have a coarse resolution."""
    before_ns = path.stat().st_mtime_ns
    path.write_bytes(content)
    os.utime(path, ns=(before_ns + 10**9, before_ns + 10**9))


def without_index(path: Path) -> None:
    """Cut the index off an AVI file, as if its recorder had been killed."""
    content = path.read_bytes()
    rewrite(path, content[: content.rindex(b'idx1')])


def with_empty_chunks(path: Path, numbers: Iterable[int]) -> None:
    """Empty chunks of an AVI file, by which a recorder repeats the previous frame."""
    content = path.read_bytes()
    spans = packets(path)
    first = spans[0][0] - 8
    list_start = content.rindex(b'movi', 0, first)
    body, index = b'', b''
    for number, (offset, size) in enumerate(spans):
        data = b'' if number in set(numbers) else content[offset : offset + size]
        offset = first - list_start + len(body)
        index += b'00dc' + struct.pack('<III', 16 if data else 0, offset, len(data))
        body += b'00dc' + struct.pack('<I', len(data)) + data + b'\0' * (len(data) % 2)
    head = content[:first].replace(b'indx', b'JUNK')
    head = head[: list_start - 4] + struct.pack('<I', len(body) + 4) + head[list_start:]
    rewrite(path, head + body + b'idx1' + struct.pack('<I', len(index)) + index)
