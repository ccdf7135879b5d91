# SPDX-License-Identifier: Apache-2.0
"""YUV of every layout compared with BT.601 in floating point; sizes that OpenCV must not get."""

import contextlib
import re
from pathlib import Path
from types import SimpleNamespace as Message

import cv2
import numpy as np
import pytest

from surgseg_ros.messages.encodings import ENCODINGS, OTHER_NAMES, ImageError, find_encoding
from surgseg_ros.messages.images import rgb_from_msg

YUV = ['yuv422', 'yuv422_yuy2', 'nv12', 'nv21', 'nv24', 'yuv420']
SHARED_PX = {'yuv422': (1, 2), 'yuv422_yuy2': (1, 2), 'nv24': (1, 1)}
"""Height and width of the block of pixels that share one chroma sample; default (2, 2)."""
JUNK = 0xA5
GUARD_BYTES = 256


def _noise(*shape):
    return np.random.default_rng(11).integers(0, 256, shape, dtype=np.uint8)


def _samples(encoding, height, width):
    """Make random luma (H, W), and Cb and Cr of the size in the encoding."""
    down, across = SHARED_PX.get(encoding, (2, 2))
    return _noise(height, width), *_noise(2, height // down, width // across)


def _driver_message(encoding, samples, padding):
    """Make the data of a driver, in V4L2's formats UYVY, YUYV, NV12, NV21, NV24 and YU12."""
    luma, blue, red = samples
    height, width = luma.shape

    def plane(rows, room):
        return np.pad(rows, ((0, 0), (0, room)), constant_values=JUNK).tobytes()

    def both(first, second):
        return np.stack([first, second], axis=2).reshape(len(first), -1)

    if encoding.startswith('yuv422'):
        chroma = both(blue, red)
        order = (luma, chroma) if encoding == 'yuv422_yuy2' else (chroma, luma)
        step, data = 2 * width, plane(both(*order), padding)
    else:
        step = width
        below = {
            'nv12': lambda: plane(both(blue, red), padding),
            'nv21': lambda: plane(both(red, blue), padding),
            'nv24': lambda: plane(both(blue, red), 2 * padding),
            'yuv420': lambda: plane(blue, padding // 2) + plane(red, padding // 2),
        }
        data = plane(luma, padding) + below[encoding]()
    return Message(
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=1,
        step=step + padding,
        data=data,
    )


def _message(encoding, height, width, padding=0):
    return _driver_message(encoding, _samples(encoding, height, width), padding)


def _bt601(encoding, samples):
    """Compute (H, W, 3) RGB according to ITU-R BT.601, limited range, without rounding."""
    down, across = SHARED_PX.get(encoding, (2, 2))
    luma, *chroma = (plane.astype(np.float64) for plane in samples)
    y = (np.maximum(luma, 16) - 16) / 219
    cb, cr = (((c - 128) / 224).repeat(down, 0).repeat(across, 1) for c in chroma)
    red = y + (2 - 2 * 0.299) * cr
    blue = y + (2 - 2 * 0.114) * cb
    green = (y - 0.299 * red - 0.114 * blue) / 0.587
    return np.clip(255 * np.stack([red, green, blue], axis=2), 0, 255)


@pytest.mark.parametrize('encoding', YUV)
@pytest.mark.parametrize('padding', [0, 2, 26])
@pytest.mark.parametrize(('height', 'width'), [(2, 2), (4, 6), (6, 70), (34, 130)])
def test_yuv_is_that_of_bt601_in_limited_range(encoding, height, width, padding):
    samples = _samples(encoding, height, width)
    rgb = rgb_from_msg(_driver_message(encoding, samples, padding))
    assert rgb.dtype == np.uint8
    np.testing.assert_allclose(rgb, _bt601(encoding, samples), atol=1.1)


@pytest.mark.parametrize('encoding', YUV)
@pytest.mark.parametrize(
    ('ycbcr', 'expected'),
    [
        ((16, 128, 128), (0, 0, 0)),
        ((235, 128, 128), (255, 255, 255)),
        ((81, 90, 240), (255, 0, 0)),  # the 100 % color bars of BT.601
        ((145, 54, 34), (0, 255, 0)),
        ((41, 240, 110), (0, 0, 255)),
    ],
)
def test_the_color_bars_of_the_standard_are_converted_exactly(encoding, ycbcr, expected):
    samples = [
        np.full_like(plane, value)
        for plane, value in zip(_samples(encoding, 4, 6), ycbcr, strict=True)
    ]
    rgb = rgb_from_msg(_driver_message(encoding, samples, padding=4))
    np.testing.assert_allclose(rgb, np.broadcast_to(expected, (4, 6, 3)), atol=2)


@pytest.mark.parametrize(('height', 'width'), [(1, 1), (3, 5), (7, 1), (1, 8)])
def test_nv24_may_have_any_size(height, width):
    samples = _samples('nv24', height, width)
    rgb = rgb_from_msg(_driver_message('nv24', samples, padding=3))
    np.testing.assert_allclose(rgb, _bt601('nv24', samples), atol=1.1)


@pytest.mark.parametrize(
    ('name', 'same'),
    [
        ('NV12', 'nv12'),
        ('I420', 'yuv420'),
        ('i420', 'yuv420'),
        ('IYUV', 'yuv420'),
        ('YU12', 'yuv420'),
        ('yuv420p', 'yuv420'),
        ('UYVY', 'yuv422'),
        ('yuyv', 'yuv422_yuy2'),
        ('YUY2', 'yuv422_yuy2'),
        ('BGR8', 'bgr8'),
        ('Mono8', 'mono8'),
    ],
)
def test_understands_names_of_encodings_used_by_drivers(name, same):
    assert find_encoding(name) == find_encoding(same)


@pytest.mark.parametrize('name', ['yv12', 'nv42', 'nv16', 'nv1216', 'yuv444', ' nv12', 'nv12 '])
def test_rejects_other_layouts_instead_of_guessing(name):
    message = _message('nv12', 4, 6)
    message.encoding = name
    with pytest.raises(ImageError, match='not known') as caught:
        rgb_from_msg(message)
    assert caught.value.cause == 'encoding'


@pytest.mark.parametrize(
    ('encoding', 'changes', 'cause', 'words'),
    [
        ('nv12', {'data': bytes(47)}, 'data', '47 bytes .* not the 48 .*step 8 x height 4'),
        # A decoder that works on 16 rows at a time: chroma starts after the padding.
        ('nv12', {'data': bytes(8 * 16 * 3 // 2)}, 'data', 'no gaps between planes'),
        # Some drivers set the total height of all planes.
        ('nv21', {'height': 6, 'data': bytes(48)}, 'data', 'height to that of the image'),
        ('yuv420', {'data': bytes(49)}, 'data', '49 bytes'),
        ('nv24', {'data': bytes(48)}, 'data', 'not the 96'),
        # Some drivers set `step` to the bytes in all planes.
        ('nv24', {'step': 18, 'data': bytes(72)}, 'data', 'step to that of luma'),
        ('nv12', {'step': 5}, 'step', 'step 5 is less than a row of 6'),
        ('yuv420', {'step': 9, 'data': bytes(54)}, 'step', 'step 9 is odd'),
        ('nv12', {'step': 2**32 - 1}, 'data', '48 bytes'),
        ('nv12', {'height': 2**32 - 2, 'width': 2**32 - 2}, 'size', '4294967294'),
        ('nv12', {'height': 0}, 'size', '6x0'),
        ('yuv420', {'width': 0}, 'size', '0x4'),
        ('nv24', {'height': 16_384, 'width': 16_384}, 'size', '16384x16384'),
    ],
)
def test_rejects_images_whose_planes_may_be_elsewhere(encoding, changes, cause, words):
    message = Message(height=4, width=6, encoding=encoding, is_bigendian=0, step=8, data=bytes(48))
    vars(message).update(changes)
    with pytest.raises(ImageError, match=words) as caught:
        rgb_from_msg(message)
    assert caught.value.cause == cause
    assert len(str(caught.value)) < 500


def test_the_page_on_encodings_lists_them_all():
    page = (Path(__file__).parents[2] / 'docs' / 'encodings.md').read_text()
    rows = re.findall(r'^\| (`.*?)\|(.*?)\|', page, re.MULTILINE)
    named = set(re.findall('`([a-z0-9_]+)`', str(rows))) - {'16'}
    assert {*ENCODINGS, *OTHER_NAMES} <= named
    assert all(find_encoding(name) for name in named)


MOSAICS = [f'bayer_{pattern}{bits}' for pattern in ('rggb', 'gbrg') for bits in (8, 16)]
NEVER = [
    *((name, size) for name in MOSAICS for size in ((1, 1), (1, 8), (2, 8), (8, 1), (8, 2))),
    *((name, size) for name in YUV[:2] for size in ((1, 1), (8, 1), (4, 7), (361, 641))),
    *((name, size) for name in ('nv12', 'nv21', 'yuv420') for size in ((1, 1), (4, 7), (7, 4))),
]


@pytest.mark.parametrize(('encoding', 'size'), NEVER)
@pytest.mark.parametrize('spell', [str.lower, str.upper])
def test_opencv_never_gets_a_size_that_it_does_not_check(monkeypatch, encoding, size, spell):
    """It would write past the end of the image, or return black without an error."""
    monkeypatch.setattr(cv2, 'cvtColor', None)
    height, width = size
    with pytest.raises(ImageError, match=f'{width}x{height}.*publish') as caught:
        rgb_from_msg(_of_size(spell(encoding), height, width))
    assert caught.value.cause == 'conversion'
    assert len(str(caught.value)) < 500


def _of_size(encoding, height, width):
    """Make a message of any size whose fields are consistent."""
    form, sample_bytes = find_encoding(encoding)
    step = width * form.pixel_bytes * sample_bytes
    return Message(
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=step,
        data=_noise(int(step * height * form.planes)).tobytes(),
    )


def _guarded(convert, shape):
    """Run `convert` on a guarded buffer, so that writes outside the image are detected."""

    def guarded(source, code):
        room = np.full(2 * GUARD_BYTES + int(np.prod(shape)), 7, np.uint8)
        image = room[GUARD_BYTES:-GUARD_BYTES].reshape(shape)
        assert np.shares_memory(convert(source, code, image), room)
        assert np.all(room[:GUARD_BYTES] == 7)
        assert np.all(room[-GUARD_BYTES:] == 7)
        return image

    return guarded


@pytest.mark.parametrize('encoding', sorted({*ENCODINGS, *MOSAICS} - {'rgb8', 'nv24'}))
def test_nothing_is_written_outside_of_an_image(monkeypatch, encoding):
    """With the installed OpenCV; `make test-reference` uses an older one."""
    convert, came = cv2.cvtColor, 0
    for height in range(1, 9):
        for width in (*range(1, 20), *range(31, 36), *range(62, 68)):
            monkeypatch.setattr(cv2, 'cvtColor', _guarded(convert, (height, width, 3)))
            with contextlib.suppress(ImageError):
                assert rgb_from_msg(_of_size(encoding, height, width)).shape[1] == width
                came += 1
    assert came > 50
