# SPDX-License-Identifier: Apache-2.0
"""Incomplete JPEGs are rejected, wherever data are missing; complete ones are accepted."""

import io
import re
import struct
from collections.abc import Callable

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from surgseg_ros.core.image_files import (
    ImageFileError,
    check_file,
    decode_grey,
    decode_rgb,
)
from surgseg_ros.core.jpeg import check_jpeg

EOI = b'\xff\xd9'
POSITIONS = [0.02, 0.2, 0.4, 0.5, 0.6, 0.8, 0.95]


def make_image(seed: int = 0, height: int = 242, width: int = 324) -> np.ndarray:
    """Make (H, W, 3) RGB with smooth and textured parts, like a camera image."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (9, 12, 3), np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    noise = rng.normal(0, 4, smooth.shape)
    return np.clip(smooth.astype(float) + noise, 0, 255).astype(np.uint8)


def jpeg(seed: int = 0, **options: int) -> bytes:
    """Encode an image; options are OpenCV's, without their prefix."""
    settings = {'QUALITY': 90, **options}
    flat = [n for k, v in settings.items() for n in (getattr(cv2, f'IMWRITE_JPEG_{k}'), v)]
    return cv2.imencode('.jpg', make_image(seed)[..., ::-1], flat)[1].tobytes()


WHOLE = jpeg()
OTHER = jpeg(1)
RESTARTS = jpeg(RST_INTERVAL=8)
PROGRESSIVE = jpeg(PROGRESSIVE=1)
GREY = cv2.imencode('.jpg', make_image()[..., 1])[1].tobytes()


def opened(data: bytes) -> np.ndarray:
    return decode_rgb(check_file(data)).rgb


def refusal(data: bytes) -> str:
    """Return why a file is rejected; checking without decoding must give the same reason."""
    with pytest.raises(ImageFileError) as caught:
        opened(data)
    with pytest.raises(ImageFileError) as checked:
        check_jpeg(data)
    assert checked.value.kind == caught.value.kind
    return caught.value.kind


def at(data: bytes, share: float) -> int:
    """Return an offset in the entropy-coded data, given as a fraction of it."""
    start = data.find(b'\xff\xda') + 14
    return start + int(share * (len(data) - 2 - start))


DAMAGES: dict[str, Callable[[bytes, int], bytes]] = {
    'packet of 512 lost': lambda data, a: data[:a] + data[a + 512 :],
    'packet of 1500 lost': lambda data, a: data[:a] + data[a + 1500 :],
    'sixteen times 0xFF': lambda data, a: data[:a] + b'\xff' * 16 + data[a + 16 :],
    'packet twice': lambda data, a: data[: a + 1500] + data[a:],
    'tail of an old frame': lambda data, a: data[:a] + OTHER[-200:],
    'other part of an old frame': lambda data, a: data[:a] + OTHER[at(OTHER, 0.3) :],
    'end marker too soon': lambda data, a: data[:a] + EOI,
    'end marker in the middle': lambda data, a: data[:a] + EOI + data[a:],
    'start of the next frame': lambda data, a: data[:a] + OTHER,
}


@pytest.mark.parametrize('number', [34, 64, 512, 1024, 4096])
@pytest.mark.parametrize('whole', [WHOLE, RESTARTS, GREY], ids=['plain', 'rst', 'grey'])
def test_rejects_zeroed_data(whole: bytes, number: int) -> None:
    for position in np.random.default_rng(number).uniform(0, 1, 50):
        a = min(at(whole, position), len(whole) - 2 - number)
        assert refusal(whole[:a] + bytes(number) + whole[a + number :]) == 'damaged'


@pytest.mark.parametrize('value', [0, 128, 255])
@pytest.mark.parametrize('options', [{}, {'optimize': True}, {'progressive': True}])
@pytest.mark.parametrize('mode', ['RGB', 'L', 'CMYK'])
def test_reads_a_uniform_image_whose_codes_may_be_zeros(mode, options, value) -> None:
    stream = io.BytesIO()
    flat = Image.new(mode, (1280, 720), (value,) * len(mode))
    flat.save(stream, 'JPEG', quality=75, **options)
    assert opened(stream.getvalue()).shape == (720, 1280, 3)


@pytest.mark.parametrize('position', POSITIONS)
@pytest.mark.parametrize('kind', DAMAGES)
@pytest.mark.parametrize('whole', [WHOLE, RESTARTS, PROGRESSIVE], ids=['plain', 'rst', 'scans'])
def test_rejects_an_image_with_missing_data(whole: bytes, kind: str, position: float) -> None:
    damaged = DAMAGES[kind](whole, min(at(whole, position), len(whole) - 1600))
    assert damaged != whole
    assert refusal(damaged) in ('damaged', 'cut off')


def flipped(data: bytes, a: int, rng: np.random.Generator) -> bytes:
    return data[:a] + bytes([data[a] ^ int(rng.integers(1, 256))]) + data[a + 1 :]


def share_refused(whole: bytes, damage: Callable[[bytes, int], bytes]) -> float:
    positions = np.random.default_rng(5).uniform(0, 0.9, 150)
    damaged = [damage(whole, at(whole, position)) for position in positions]
    refused = 0
    for data in damaged:
        try:
            opened(data)
        except ImageFileError:
            refused += 1
    return refused / len(damaged)


def test_rejects_most_damage_that_is_not_always_detectable() -> None:
    """A JPEG whose codes resynchronize decodes without error; see docs/safety.md."""
    rng = np.random.default_rng(3)
    assert 0.1 < share_refused(WHOLE, lambda data, a: flipped(data, a, rng)) < 0.9
    assert share_refused(WHOLE, lambda data, a: data[:a] + OTHER[a:] + bytes(999)) > 0.4
    assert share_refused(WHOLE, lambda data, a: data[:a] + data[a + 64 :]) > 0.6
    assert share_refused(PROGRESSIVE, lambda d, a: d[:a] + bytes(1024) + d[a + 1024 :]) > 0.8


def restarts(data: bytes) -> list[int]:
    return [match.start() for match in re.finditer(rb'\xff[\xd0-\xd7]', data)]


def test_rejects_missing_repeated_or_reordered_restart_intervals() -> None:
    a = restarts(RESTARTS)
    assert len(a) > 20
    for first in (0, 5, len(a) - 9):
        for number in (1, 7, 8):  # restart numbers repeat after eight intervals
            start, end = a[first], a[first + number]
            assert refusal(RESTARTS[:start] + RESTARTS[end:]) == 'damaged'
            assert refusal(RESTARTS[:end] + RESTARTS[start:]) == 'damaged'
        one, two, three = a[first : first + 3]
        swapped = RESTARTS[:one] + RESTARTS[two:three] + RESTARTS[one:two] + RESTARTS[three:]
        assert refusal(swapped) == 'damaged'


def scans(data: bytes) -> list[int]:
    return [match.start() for match in re.finditer(rb'\xff\xda', data)]


@pytest.mark.parametrize('kept', range(1, 10))
def test_rejects_a_progressive_image_without_its_last_scans(kept: int) -> None:
    positions = scans(PROGRESSIVE)
    assert len(positions) == 10
    cut = PROGRESSIVE[: positions[kept]]
    tables = cut.rfind(b'\xff\xc4')
    assert refusal(cut + EOI) == 'damaged'
    if tables > positions[kept - 1]:  # tables of the removed scan
        assert refusal(cut[:tables] + EOI) == 'damaged'


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack('>H', len(content) + 2) + content


def blocks_of_one_color(number: int) -> bytes:
    """Encode identical blocks with the standard tables."""
    bits = '001010' * number
    bits += '1' * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, 'big')


def head_of(sampling: int, width: int = 64, height: int = 48) -> bytes:
    tables = WHOLE[WHOLE.find(b'\xff\xc4') : WHOLE.find(b'\xff\xda')]
    sizes = struct.pack('>BHHB', 8, height, width, 3)
    frame = sizes + bytes([1, sampling, 0, 2, 0x11, 0, 3, 0x11, 0])
    return b'\xff\xd8\xff\xdb\0\x43\0' + b'\x10' * 64 + b'\xff\xc0\0\x11' + frame + tables


def scan_of(*components: int) -> bytes:
    named = b''.join(bytes([component, 0]) for component in components)
    return segment(0xDA, bytes([len(components)]) + named + b'\0\x3f\0')


def with_sampling(sampling: int, interval: int = 0) -> bytes:
    """Make a gray image of 64x48 pixels with a sampling that encoders do not offer."""
    across, down = sampling >> 4, sampling & 15
    units = -(-64 // (8 * across)) * -(-48 // (8 * down))
    coded, per_unit = b'', across * down + 2
    for number, first in enumerate(range(0, units, interval or units)):
        marker = bytes([0xFF, 0xD0 + (number - 1) % 8]) if number else b''
        count = min(interval or units, units - first)
        coded += marker + blocks_of_one_color(count * per_unit)
    restarts_every = segment(0xDD, struct.pack('>H', interval))
    return head_of(sampling) + restarts_every + scan_of(1, 2, 3) + coded + EOI


def of_one_color(components: tuple[int, ...] = (1, 2, 3)) -> bytes:
    """Make an image with one scan per component, for all or some of the components."""
    scans_ = [scan_of(number) + blocks_of_one_color(8 * 6) for number in components]
    return head_of(0x11) + b''.join(scans_) + EOI


@pytest.mark.parametrize('components', [(1,), (1, 2), (2, 3), ()])
def test_rejects_an_image_with_missing_components(components) -> None:
    """If chroma is missing, libjpeg decodes gray without a warning."""
    assert refusal(of_one_color(components)) == 'damaged'


@pytest.mark.parametrize('position', [0.1, 0.5, 0.9])
def test_rejects_an_incomplete_header(position: float) -> None:
    head = WHOLE.find(b'\xff\xda')
    a = int(position * (head - 100))
    assert refusal(WHOLE[:a] + WHOLE[a + 100 :]) in ('damaged', 'unreadable', 'refused')


@pytest.mark.parametrize('number', [1, 16, 64])
@pytest.mark.parametrize('table', [0, 1])
@pytest.mark.parametrize('whole', [WHOLE, RESTARTS, PROGRESSIVE], ids=['plain', 'rst', 'scans'])
def test_rejects_zeros_in_a_quantization_table(whole: bytes, table: int, number: int) -> None:
    """Decoders multiply by them without a warning: the whole image is wrong."""
    start = [match.end() for match in re.finditer(rb'(?s)\xff\xdb\0\x43.', whole)][table]
    end = start + 64
    damaged = whole[: end - number] + bytes(number) + whole[end:]
    assert refusal(damaged) == 'damaged'


@pytest.mark.parametrize('height', [120, 240, 257, 400])
def test_rejects_a_size_that_does_not_match_the_data(height: int) -> None:
    """Within one row of blocks (242 to 256) the right height cannot be determined."""
    a = WHOLE.find(b'\xff\xc0') + 5
    assert refusal(WHOLE[:a] + struct.pack('>H', height) + WHOLE[a + 2 :]) == 'damaged'


def without_huffman_tables(data: bytes) -> bytes:
    return re.sub(
        rb'(?s)\xff\xc4\x01\xa2.{416}|\xff\xc4\0\x1f.{29}|\xff\xc4\0\xb5.{179}', b'', data
    )


def by_pillow(mode: str = 'RGB', **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(make_image()).convert(mode).save(stream, 'JPEG', quality=90, **options)
    return stream.getvalue()


def several_images() -> bytes:
    stream = io.BytesIO()
    first, second = (Image.fromarray(make_image(seed)) for seed in (0, 1))
    first.save(stream, 'MPO', save_all=True, append_images=[second])
    return stream.getvalue()


SOS = WHOLE.find(b'\xff\xda')
UNUSUAL = {
    **{name: by_pillow(subsampling=name) for name in ('4:4:4', '4:2:2', '4:2:0')},
    'progressive': PROGRESSIVE,
    'progressive, no subsampling': by_pillow(subsampling='4:4:4', progressive=True),
    **{f'restarts every {n}': jpeg(RST_INTERVAL=n) for n in (1, 3, 8, 40, 5000)},
    '4:1:1': with_sampling(0x41),
    '4:4:0': with_sampling(0x12),
    '4:2:0 with restarts': with_sampling(0x22, interval=3),
    'a scan for each component': of_one_color(),
    'without Huffman tables': without_huffman_tables(WHOLE),
    'AVI1': WHOLE[:2] + segment(0xE0, b'AVI1' + bytes(10)) + without_huffman_tables(WHOLE)[20:],
    'CMYK': by_pillow('CMYK'),
    'progressive CMYK': by_pillow('CMYK', progressive=True),
    'grey': by_pillow('L'),
    'progressive grey': by_pillow('L', progressive=True),
    'RGB inside': by_pillow(keep_rgb=True),
    'optimized': by_pillow(optimize=True),
    'zeros behind it': WHOLE + bytes(20_000),
    'an old frame behind it': WHOLE + OTHER[1000:],
    '0xFF behind it': WHOLE + b'\xff' * 999,
    'padding in front of markers': WHOLE[:SOS] + b'\xff\xff' + WHOLE[SOS:-2] + b'\xff\xff' + EOI,
    'thumbnail': WHOLE[:2] + segment(0xE1, b'Exif\0\0' + OTHER) + WHOLE[2:],
    'comment': WHOLE[:2] + segment(0xFE, b'\xff\xd9 and \xff\xda') + WHOLE[2:],
    'broken colour profile': WHOLE[:2] + segment(0xE2, b'ICC_PROFILE\0\2\7') + WHOLE[2:],
    'JFIF of another revision': WHOLE[:11] + b'\2\0' + WHOLE[13:],
    'odd parameters of its scan': WHOLE[: SOS + 11] + bytes(3) + WHOLE[SOS + 14 :],
    'several images': several_images(),
}


@pytest.mark.parametrize('name', UNUSUAL)
def test_reads_a_complete_unusual_image_as_opencv_does(name: str) -> None:
    data = UNUSUAL[name]
    assert ('Huffman' not in name and name != 'AVI1') or b'\xff\xc4' not in data[:SOS]
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    decoded = decode_rgb(check_file(data))
    assert decoded.is_checked
    np.testing.assert_array_equal(decoded.rgb, bgr[..., ::-1])
    check_jpeg(data)


def test_samples_of_a_gray_image_are_read_unchanged() -> None:
    data = by_pillow('L')
    grey = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    np.testing.assert_array_equal(decode_grey(check_file(data)), grey)


def test_reports_that_an_uncommon_subsampling_is_not_checked() -> None:
    data = by_pillow('CMYK', subsampling=1)
    check_jpeg(data)
    decoded = decode_rgb(check_file(data))
    assert not decoded.is_checked
    assert decoded.rgb.shape == make_image().shape


@pytest.mark.parametrize('size', [(1, 1), (3, 7), (9, 17), (33, 65)])
def test_reads_a_small_image(size: tuple[int, int]) -> None:
    data = cv2.imencode('.jpg', make_image(0, *size))[1].tobytes()
    assert opened(data).shape == (*size, 3)
    check_jpeg(data)


NOISE = np.random.default_rng(0).integers(0, 256, (45, 67, 3), np.uint8)
TINY = cv2.imencode('.jpg', NOISE, [cv2.IMWRITE_JPEG_RST_INTERVAL, 2])[1].tobytes()
CODED = TINY.index(b'\xff\xda') + 14


@pytest.mark.parametrize('subsampling', ['444', '422', '420', '440'])
def test_reads_a_complete_image_of_noise(subsampling: str) -> None:
    data = simplejpeg.encode_jpeg(NOISE, colorsubsampling=subsampling)
    assert opened(data).shape == NOISE.shape
    check_jpeg(data + bytes(100))


@pytest.mark.parametrize(
    'data',
    [
        b'',
        b'\0\0' + TINY[2:],
        TINY[:-2],
        TINY[: len(TINY) // 2],
        TINY[: len(TINY) // 2] + EOI,
        TINY[:CODED] + bytes(200) + TINY[CODED + 200 :],
        TINY[:-100] + b'\x55' * 98 + EOI,
        TINY[:-2] + b'\x55' * 50 + EOI,
        TINY[: CODED + 100] + TINY[CODED + 150 :],
    ],
)
def test_rejects_an_incomplete_tiny_image_of_noise(data: bytes) -> None:
    assert refusal(data) in ('damaged', 'cut off', 'unreadable')
