# SPDX-License-Identifier: Apache-2.0
"""Files that would cost the decoder time or memory are refused before it sees them."""

import struct
import subprocess
import sys
import zlib
from types import SimpleNamespace as Message

import cv2
import numpy as np
import pytest
import simplejpeg

from surgseg_ros.core import jpeg_stream
from surgseg_ros.core.jpeg_stream import MAX_SCANS
from surgseg_ros.core.picture_files import MAX_CHUNKS, check_file
from surgseg_ros.messages.errors import ImageError
from surgseg_ros.messages.images import rgb_from_msg

START = b'\x89PNG\r\n\x1a\n'
PICTURE = np.arange(16 * 24 * 3, dtype=np.uint8).reshape(16, 24, 3)


def chunk(name: bytes, content: bytes = b'') -> bytes:
    checksum = zlib.crc32(name + content)
    return struct.pack('>I', len(content)) + name + content + struct.pack('>I', checksum)


def ihdr(width: int = 24, height: int = 16) -> bytes:
    return chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0))


ROWS = b''.join(b'\0' + row.tobytes() for row in PICTURE)
IDAT = chunk(b'IDAT', zlib.compress(ROWS))
IEND = chunk(b'IEND')
PNG = START + ihdr() + IDAT + IEND


def jpeg(height: int = 16, width: int = 24, *options: int) -> bytes:
    _, data = cv2.imencode('.jpg', np.zeros((height, width, 3), np.uint8), options)
    return data.tobytes()


def with_scans(data: bytes, number: int) -> bytes:
    """Give a progressive JPEG so many scans, by repeating its last one."""
    last, end = data.rfind(b'\xff\xda'), data.rfind(b'\xff\xd9')
    more = number - data.count(b'\xff\xda')
    return data[:end] + data[last:end] * more + data[end:]


def cause(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        rgb_from_msg(Message(format='', data=data))
    return caught.value.cause


@pytest.fixture
def no_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """See that nothing is decoded."""
    monkeypatch.setattr(cv2, 'imdecode', None)
    monkeypatch.setattr(simplejpeg, 'decode_jpeg', None)


def test_a_png_by_hand_is_read() -> None:
    assert check_file(PNG) == (PNG, 16, 24, False)
    np.testing.assert_array_equal(rgb_from_msg(Message(format='', data=PNG)), PICTURE)


@pytest.mark.parametrize('name', [b'zTXt', b'iTXt', b'iCCP', b'eXIf', b'tEXt', b'pHYs', b'zzZz'])
def test_what_is_no_part_of_the_picture_is_not_decoded(name: bytes) -> None:
    packed = chunk(name, b'k\0\0' + zlib.compress(bytes(1 << 20)))
    data = START + ihdr() + packed * 3 + IDAT + packed + IEND
    assert check_file(data) == (PNG, 16, 24, False)
    np.testing.assert_array_equal(rgb_from_msg(Message(format='', data=data)), PICTURE)


@pytest.mark.usefixtures('no_decoder')
@pytest.mark.parametrize(
    'data',
    [
        START + ihdr() + struct.pack('>I4s', 0xFFFF_FF38, b'IDAT') + bytes(60) + IEND,
        START + ihdr() + struct.pack('>I4s', 0x7FFF_FFFF, b'zTXt') + bytes(60) + IEND,
        START + ihdr() + IDAT,
        START + ihdr(),
        START + IDAT + ihdr() + IEND,
        START + ihdr() + ihdr(16_000, 6000) + IDAT + IEND,
        START + chunk(b'IHDR', bytes(12)) + IDAT + IEND,
        START + IEND,
        START,
    ],
)
def test_chunks_that_do_not_fit_are_refused_before_decoding(data: bytes) -> None:
    assert cause(data) == 'decode'


@pytest.mark.usefixtures('no_decoder')
@pytest.mark.parametrize('name', [b'acTL', b'fcTL', b'fdAT'])
def test_an_animated_png_is_refused(name: bytes) -> None:
    assert cause(START + ihdr() + chunk(name, bytes(8)) + IDAT + IEND) == 'decode'


@pytest.mark.usefixtures('no_decoder')
def test_a_png_of_endless_chunks_is_refused() -> None:
    assert cause(START + ihdr() + chunk(b'IDAT') * MAX_CHUNKS + IEND) == 'decode'


@pytest.mark.usefixtures('no_decoder')
@pytest.mark.parametrize('data', [PNG, jpeg()])
def test_a_size_beyond_the_limit_is_refused(data: bytes) -> None:
    if data is PNG:
        data = START + ihdr(16_384, 16_384) + IDAT + IEND
    else:
        place = data.find(b'\xff\xc0') + 5
        data = data[:place] + struct.pack('>HH', 65_500, 65_500) + data[place + 4 :]
    assert cause(data) == 'size'


@pytest.mark.usefixtures('no_decoder')
def test_more_scans_than_any_camera_sends_are_refused() -> None:
    data = with_scans(jpeg(16, 24, cv2.IMWRITE_JPEG_PROGRESSIVE, 1), MAX_SCANS + 1)
    assert cause(data) == 'decode'


def test_as_many_scans_as_allowed_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = jpeg(16, 24, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    monkeypatch.setattr(jpeg_stream, 'MAX_SCANS', data.count(b'\xff\xda'))
    assert rgb_from_msg(Message(format='', data=data)).shape == (16, 24, 3)


@pytest.mark.usefixtures('no_decoder')
def test_scans_and_pixels_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jpeg_stream, 'MAX_SCANNED_PIXELS', 16 * 24 * 9 - 1)
    data = with_scans(jpeg(16, 24, cv2.IMWRITE_JPEG_PROGRESSIVE, 1), 10)
    assert cause(data) == 'decode'


@pytest.mark.usefixtures('no_decoder')
@pytest.mark.parametrize('frame', [0xC3, 0xC5, 0xC9, 0xCA, 0xCD])
def test_lossless_hierarchical_and_arithmetic_jpeg_are_refused(frame: int) -> None:
    data = jpeg()
    place = data.find(b'\xff\xc0')
    assert cause(data[: place + 1] + bytes([frame]) + data[place + 2 :]) == 'decode'


@pytest.mark.usefixtures('no_decoder')
@pytest.mark.parametrize('marker', [b'\xff\x01', b'\xff\xd0', b'\xff\xd8', b'\xff\xe0\0\1'])
def test_no_marker_hides_another_size_from_us(marker: bytes) -> None:
    """The decoder takes these to have no length; read as a length, what follows would hide."""
    data = jpeg()
    hidden = data[:2] + marker + b'\0\x40' + data[2:]
    assert cause(hidden) == 'decode'


BOMBS = """
import resource, sys
from types import SimpleNamespace as Message
from surgseg_ros.messages.errors import ImageError
from surgseg_ros.messages.images import rgb_from_msg
rgb_from_msg(Message(format='', data=open(sys.argv[1], 'rb').read()))
before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[2:]:
    try:
        rgb_from_msg(Message(format='', data=open(path, 'rb').read()))
    except ImageError:
        pass
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb) // 1024)
"""


def test_small_files_take_little_memory(tmp_path) -> None:
    packer = zlib.compressobj(1)
    much = b''.join(packer.compress(bytes(1 << 20)) for _ in range(300)) + packer.flush()
    bombs = [
        START + ihdr() + chunk(b'zTXt', b'k\0\0' + much) + IDAT + IEND,
        START + ihdr() + chunk(b'iCCP', b'k\0\0' + much) + IDAT + IEND,
        START + ihdr() + chunk(b'IDAT', much) + IEND,
        START + ihdr() + struct.pack('>I4s', 0xFFFF_FF38, b'IDAT') + bytes(60) + IEND,
    ]
    paths = [tmp_path / 'good.png', *(tmp_path / str(index) for index in range(len(bombs)))]
    for path, data in zip(paths, [PNG, *bombs]):
        path.write_bytes(data)
    command = [sys.executable, '-c', BOMBS, *map(str, paths)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 64, 'MB'
