# SPDX-License-Identifier: Apache-2.0
"""
Files that would cost the decoder too much time or memory are rejected before decoding.

Masks are read as class indices; other files are rejected with the reason.
"""

import struct
import subprocess
import sys
import zlib
from types import SimpleNamespace as Message

import cv2
import numpy as np
import pytest
import simplejpeg

from surgseg_ros.core import jpeg as jpeg_module
from surgseg_ros.core.image_files import (
    MAX_CHUNKS,
    check_file,
    decode_mask,
    encode_png,
    no_classes,
)
from surgseg_ros.core.jpeg import MAX_SCANS
from surgseg_ros.messages.encodings import ImageError
from surgseg_ros.messages.images import rgb_from_msg

START = b'\x89PNG\r\n\x1a\n'
IMAGE = np.arange(16 * 24 * 3, dtype=np.uint8).reshape(16, 24, 3)


def chunk(name: bytes, content: bytes = b'') -> bytes:
    checksum = zlib.crc32(name + content)
    return struct.pack('>I', len(content)) + name + content + struct.pack('>I', checksum)


def ihdr(width: int = 24, height: int = 16) -> bytes:
    return chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0))


ROWS = b''.join(b'\0' + row.tobytes() for row in IMAGE)
IDAT = chunk(b'IDAT', zlib.compress(ROWS))
IEND = chunk(b'IEND')
PNG = START + ihdr() + IDAT + IEND


def jpeg(height: int = 16, width: int = 24, *options: int) -> bytes:
    _, data = cv2.imencode('.jpg', np.zeros((height, width, 3), np.uint8), options)
    return data.tobytes()


def with_scans(data: bytes, number: int) -> bytes:
    """Return a progressive JPEG with `number` scans, by repeating its last one."""
    last, end = data.rfind(b'\xff\xda'), data.rfind(b'\xff\xd9')
    more = number - data.count(b'\xff\xda')
    return data[:end] + data[last:end] * more + data[end:]


def test_a_wrong_checksum_is_reported_and_nothing_else_is_printed(
    capfd: pytest.CaptureFixture[str],
) -> None:
    wrong = IDAT[:-1] + bytes([IDAT[-1] ^ 1])
    assert cause(START + ihdr() + wrong + IEND) == 'decode'
    assert capfd.readouterr().err == ''


def cause(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        rgb_from_msg(Message(format='', data=data))
    return caught.value.cause


@pytest.fixture
def no_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if anything is decoded."""
    monkeypatch.setattr(cv2, 'imdecode', None)
    monkeypatch.setattr(simplejpeg, 'decode_jpeg', None)


def test_reads_a_hand_made_png() -> None:
    assert check_file(PNG) == (PNG, 16, 24, False)
    np.testing.assert_array_equal(rgb_from_msg(Message(format='', data=PNG)), IMAGE)


@pytest.mark.parametrize('name', [b'zTXt', b'iTXt', b'iCCP', b'eXIf', b'tEXt', b'pHYs', b'zzZz'])
def test_data_outside_the_image_is_not_decoded(name: bytes) -> None:
    packed = chunk(name, b'k\0\0' + zlib.compress(bytes(1 << 20)))
    data = START + ihdr() + packed * 3 + IDAT + packed + IEND
    assert check_file(data) == (PNG, 16, 24, False)
    np.testing.assert_array_equal(rgb_from_msg(Message(format='', data=data)), IMAGE)


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
def test_rejects_invalid_chunks_before_decoding(data: bytes) -> None:
    assert cause(data) == 'decode'


@pytest.mark.usefixtures('no_decoder')
@pytest.mark.parametrize('name', [b'acTL', b'fcTL', b'fdAT'])
def test_rejects_an_animated_png(name: bytes) -> None:
    assert cause(START + ihdr() + chunk(name, bytes(8)) + IDAT + IEND) == 'decode'


@pytest.mark.usefixtures('no_decoder')
def test_rejects_a_png_with_too_many_chunks() -> None:
    assert cause(START + ihdr() + chunk(b'IDAT') * MAX_CHUNKS + IEND) == 'decode'


@pytest.mark.usefixtures('no_decoder')
@pytest.mark.parametrize('data', [PNG, jpeg()])
def test_rejects_a_size_above_the_limit(data: bytes) -> None:
    if data is PNG:
        data = START + ihdr(16_384, 16_384) + IDAT + IEND
    else:
        offset = data.find(b'\xff\xc0') + 5
        data = data[:offset] + struct.pack('>HH', 65_500, 65_500) + data[offset + 4 :]
    assert cause(data) == 'size'


@pytest.mark.usefixtures('no_decoder')
def test_rejects_a_jpeg_with_too_many_scans() -> None:
    data = with_scans(jpeg(16, 24, cv2.IMWRITE_JPEG_PROGRESSIVE, 1), MAX_SCANS + 1)
    assert cause(data) == 'decode'


def test_decodes_a_jpeg_with_the_allowed_number_of_scans(monkeypatch: pytest.MonkeyPatch) -> None:
    data = jpeg(16, 24, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    monkeypatch.setattr(jpeg_module, 'MAX_SCANS', data.count(b'\xff\xda'))
    assert rgb_from_msg(Message(format='', data=data)).shape == (16, 24, 3)


@pytest.mark.usefixtures('no_decoder')
def test_the_product_of_scans_and_pixels_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jpeg_module, 'MAX_SCANNED_PIXELS', 16 * 24 * 9 - 1)
    data = with_scans(jpeg(16, 24, cv2.IMWRITE_JPEG_PROGRESSIVE, 1), 10)
    assert cause(data) == 'decode'


@pytest.mark.usefixtures('no_decoder')
@pytest.mark.parametrize('frame', [0xC3, 0xC5, 0xC9, 0xCA, 0xCD])
def test_rejects_lossless_hierarchical_and_arithmetic_jpeg(frame: int) -> None:
    data = jpeg()
    offset = data.find(b'\xff\xc0')
    assert cause(data[: offset + 1] + bytes([frame]) + data[offset + 2 :]) == 'decode'


@pytest.mark.usefixtures('no_decoder')
@pytest.mark.parametrize('marker', [b'\xff\x01', b'\xff\xd0', b'\xff\xd8', b'\xff\xe0\0\1'])
def test_no_marker_hides_another_size_from_the_parser(marker: bytes) -> None:
    """The decoder reads no length after these markers; skipping one would hide what follows."""
    data = jpeg()
    hidden = data[:2] + marker + b'\0\x40' + data[2:]
    assert cause(hidden) == 'decode'


BOMBS = """
import resource, sys
from types import SimpleNamespace as Message
from surgseg_ros.messages.encodings import ImageError
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


def test_small_files_need_little_memory(tmp_path) -> None:
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


GREY, COLOUR, PALETTE, WITH_ALPHA = 0, 2, 3, 6


def write_png(indices, depth=8, kind=GREY, more=b'', interlaced=0):
    """Write a PNG that OpenCV cannot write: any depth and color type, one sample per pixel."""
    height, width = indices.shape
    bits = np.unpackbits(indices[..., None], axis=2)[..., 8 - depth :].reshape(height, -1)
    rows = b''.join(b'\0' + row.tobytes() for row in np.packbits(bits, axis=1))
    head = struct.pack('>IIBBBBB', width, height, depth, kind, 0, 0, interlaced)
    parts = chunk(b'IHDR', head) + more + chunk(b'IDAT', zlib.compress(rows)) + IEND
    return START + parts


def encode(suffix, image):
    return cv2.imencode(suffix, image)[1].tobytes()


MASK = np.random.default_rng(0).integers(0, 10, (24, 40)).astype(np.uint8)
MIN = MASK % 4
PALETTE_CHUNK = chunk(b'PLTE', bytes(30))


@pytest.mark.parametrize(
    ('data', 'mask'),
    [
        (encode('.png', MASK), MASK),
        (write_png(MASK), MASK),
        (write_png(MASK, 4), MASK),
        (write_png(MIN, 4), MIN),
        (write_png(MIN, 2), MIN),
        (write_png(MASK % 2, 2), MASK % 2),
        (write_png(MASK * 0, 4), MASK * 0),
        (write_png(MASK, more=chunk(b'tEXt', b'Comment\0of a tool')), MASK),
        (encode('.png', MASK | 240), MASK | 240),
    ],
)
def test_gray_values_are_read_as_indices(data, mask):
    np.testing.assert_array_equal(decode_mask(data), mask)


def test_reads_an_interlaced_file():
    one = np.full((1, 1), 7, np.uint8)  # has only one pass
    np.testing.assert_array_equal(decode_mask(write_png(one, interlaced=1)), one)


@pytest.mark.parametrize(
    ('data', 'expected'),
    [
        (write_png(MASK % 2, 1), 'is a 1-bit grey PNG'),
        (write_png(MASK, 8, PALETTE, PALETTE_CHUNK), 'is an 8-bit palette PNG'),
        (write_png(MASK, 4, PALETTE, PALETTE_CHUNK), 'is a 4-bit palette PNG'),
        (write_png(MASK % 2, 1, PALETTE, PALETTE_CHUNK), 'is a 1-bit palette PNG'),
        (write_png(MASK, more=chunk(b'tRNS', b'\0\0')), 'with a transparent colour'),
        (encode('.png', MASK.astype(np.uint16)), 'is a 16-bit grey PNG'),
        (encode('.png', np.dstack([MASK] * 3)), 'is an 8-bit colour PNG'),
        (encode('.png', np.dstack([MASK] * 4)), 'is an 8-bit colour with transparency PNG'),
        (encode('.jpg', MASK), 'is JPEG data, which change the classes'),
        (encode('.bmp', MASK), 'is a BMP'),
        (encode('.tiff', MASK), 'is a TIFF'),
        (b'', 'is not a PNG'),
        (START, 'cut off or damaged'),
        (write_png(MASK)[:-12], 'cut off or damaged'),
        (write_png(MASK)[:-40], 'cut off or damaged'),
    ],
)
def test_rejects_a_file_that_is_not_a_mask(data, expected):
    with pytest.raises(ValueError, match=expected):
        decode_mask(data)


def test_rejects_a_mask_with_any_byte_changed():
    data = write_png(MASK)
    for offset in range(len(data)):
        changed = bytearray(data)
        changed[offset] ^= 4
        with pytest.raises(ValueError, match=r'is '):
            decode_mask(bytes(changed))


def test_finds_values_that_are_not_a_class():
    mask = np.uint8([[0, 9, 10, 25], [255, 254, 3, 10]])
    assert no_classes(mask, undecided=True) == [10, 25, 254]
    assert no_classes(mask, undecided=False) == [10, 25, 254, 255]


def filters_of(png):
    """Return the filters of the rows of an 8-bit grey PNG with one IDAT chunk."""
    width = struct.unpack_from('>I', png, 16)[0]
    start = png.index(b'IDAT') + 4
    rows = zlib.decompress(png[start : start + struct.unpack_from('>I', png, start - 8)[0]])
    return set(rows[:: width + 1])


def drawn_mask():
    noise = np.random.default_rng(0).integers(0, 10, (48, 64), np.uint8)
    return np.where(np.arange(48)[:, None] % 2, noise, np.sort(noise, axis=1)).astype(np.uint8)


def test_a_png_is_complete():
    assert np.array_equal(decode_mask(encode_png(drawn_mask()).tobytes()), drawn_mask())


HAS_FILTER = pytest.mark.skipif(
    not hasattr(cv2, 'IMWRITE_PNG_FILTER'), reason='this OpenCV has no setting for the filter'
)


@HAS_FILTER
def test_a_png_takes_one_filter():
    assert len(filters_of(encode_png(drawn_mask()).tobytes())) == 1


@HAS_FILTER
def test_runs_of_equal_pixels_are_short_in_a_png():
    mask = np.repeat(np.random.default_rng(0).integers(0, 10, (200, 20), np.uint8), 20, axis=1)
    default = cv2.imencode('.png', mask, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1]
    assert len(encode_png(mask)) < 0.7 * len(default)
