# SPDX-License-Identifier: Apache-2.0
"""Every encoding gives the RGB that was computed independently; everything else is an error."""

import array
from types import SimpleNamespace as Message

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from surgseg_ros.messages.encodings import ENCODINGS as KNOWN
from surgseg_ros.messages.encodings import ImageError
from surgseg_ros.messages.images import image_to_msg, rgb_from_msg
from surgseg_ros.messages.serialization import header

HEIGHT, WIDTH = 4, 6
PADDING = 3


def _noise(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    generator = np.random.default_rng(7)
    return generator.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def _message(pixels: np.ndarray, encoding: str, padding: int = 0, big: int = 0) -> Message:
    """Make a message of (H, W, ...) pixels like a driver, with rows padded by bytes of 0xAA."""
    samples = pixels.astype(pixels.dtype.newbyteorder('>' if big else '<'))
    rows = np.frombuffer(samples.tobytes(), np.uint8).reshape(len(pixels), -1)
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=0xAA)
    return Message(
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        is_bigendian=big,
        step=padded.shape[1],
        data=padded.tobytes(),
    )


def _bayer(pattern: str) -> np.ndarray:
    """Return the mosaic of an image of one color, which any demosaicing must restore."""
    color = {'r': 200, 'g': 120, 'b': 30}
    tile = np.array([color[letter] for letter in pattern], np.uint8).reshape(2, 2)
    return np.tile(tile, (HEIGHT // 2, WIDTH // 2))


@pytest.mark.parametrize('padding', [0, PADDING])
@pytest.mark.parametrize('big', [0, 1])
@pytest.mark.parametrize(
    ('encoding', 'channels', 'order'),
    [
        ('rgb8', 3, [0, 1, 2]),
        ('bgr8', 3, [2, 1, 0]),
        ('rgba8', 4, [0, 1, 2]),
        ('bgra8', 4, [2, 1, 0]),
        ('mono8', 1, [0, 0, 0]),
        ('rgb16', 3, [0, 1, 2]),
        ('bgr16', 3, [2, 1, 0]),
        ('rgba16', 4, [0, 1, 2]),
        ('bgra16', 4, [2, 1, 0]),
        ('mono16', 1, [0, 0, 0]),
    ],
)
def test_color_channels_are_in_order(encoding, channels, order, big, padding):
    is_wide = encoding.endswith('16')
    pixels = _noise(HEIGHT, WIDTH, channels, dtype=np.uint16 if is_wide else np.uint8)
    rgb = rgb_from_msg(_message(pixels, encoding, padding, big))
    expected = pixels[..., order] // 256 if is_wide else pixels[..., order]
    assert rgb.dtype == np.uint8
    np.testing.assert_array_equal(rgb, expected)


@pytest.mark.parametrize('padding', [0, PADDING])
@pytest.mark.parametrize('big', [0, 1])
@pytest.mark.parametrize('bits', [8, 16])
@pytest.mark.parametrize('pattern', ['rggb', 'bggr', 'gbrg', 'grbg'])
def test_bayer_patterns_give_the_color(pattern, bits, big, padding):
    mosaic = _bayer(pattern)
    if bits == 16:
        mosaic = mosaic.astype(np.uint16) * 256 + 255
    rgb = rgb_from_msg(_message(mosaic, f'bayer_{pattern}{bits}', padding, big))
    np.testing.assert_array_equal(rgb, np.full((HEIGHT, WIDTH, 3), (200, 120, 30)))


@pytest.mark.parametrize('padding', [0, PADDING])
@pytest.mark.parametrize(
    ('encoding', 'luma_at'), [('yuv422', 1), ('uyvy', 1), ('yuv422_yuy2', 0), ('yuyv', 0)]
)
def test_yuv422_gives_gray_for_neutral_chroma_and_red_for_high_v(encoding, luma_at, padding):
    pixels = np.full((HEIGHT, WIDTH, 2), 128, np.uint8)
    pixels[..., luma_at] = 16 + np.arange(WIDTH) * 10
    grey = np.rint(np.arange(WIDTH) * 10 * 255 / 219)
    rgb = rgb_from_msg(_message(pixels, encoding, padding))
    np.testing.assert_allclose(rgb, np.broadcast_to(grey[:, None], rgb.shape), atol=1)
    pixels[:, 1::2, 1 - luma_at] = 240  # every second pixel has V
    red, green, blue = rgb_from_msg(_message(pixels, encoding, padding))[0, -1].astype(int)
    assert red > blue > green


def test_rgb8_is_a_view_of_the_data():
    message = _message(_noise(HEIGHT, WIDTH, 3), 'rgb8', PADDING)
    message.data = np.frombuffer(message.data, np.uint8)
    assert np.shares_memory(rgb_from_msg(message), message.data)


@pytest.mark.parametrize(
    'kind', [bytes, bytearray, memoryview, lambda data: array.array('B', data)]
)
def test_accepts_data_types_of_every_library(kind):
    pixels = _noise(HEIGHT, WIDTH, 3)
    message = _message(pixels, 'rgb8')
    message.data = kind(message.data)
    np.testing.assert_array_equal(rgb_from_msg(message), pixels)


def test_data_longer_than_the_image_is_accepted():
    pixels = _noise(HEIGHT, WIDTH, 3)
    message = _message(pixels, 'rgb8', PADDING)
    message.data += b'more'
    np.testing.assert_array_equal(rgb_from_msg(message), pixels)


@pytest.mark.parametrize(
    ('changes', 'cause', 'words'),
    [
        ({'encoding': 'rgb9'}, 'encoding', "'rgb9'.*bgr8"),
        ({'encoding': ''}, 'encoding', "''"),
        ({'encoding': 'Ω\udcff'}, 'encoding', 'not known'),
        ({'encoding': '32FC1'}, 'encoding', "'32FC1'"),
        ({'encoding': '8UC3'}, 'encoding', "'8UC3'"),
        ({'encoding': 'x' * 100_000}, 'encoding', 'not known'),
        ({'step': 17}, 'step', '17.*18'),
        ({'step': 0}, 'step', 'step 0'),
        ({'step': 2**32 - 1}, 'data', '4294967295'),
        ({'data': b''}, 'data', '0 bytes'),
        ({'data': bytes(71)}, 'data', '71 bytes'),
        ({'height': 0}, 'size', '6x0'),
        ({'width': 0}, 'size', '0x4'),
        ({'height': 2**32 - 1, 'width': 2**32 - 1, 'step': 2**32 - 1}, 'size', '4294967295'),
        ({'height': 16_384, 'width': 16_384}, 'size', '16384x16384'),
        ({'encoding': 'yuv422', 'width': 5}, 'conversion', '5x4'),
    ],
)
def test_errors_name_contradicting_fields(changes, cause, words):
    message = _message(_noise(HEIGHT, WIDTH, 3), 'rgb8')
    vars(message).update(changes)
    with pytest.raises(ImageError, match=words) as caught:
        rgb_from_msg(message)
    assert caught.value.cause == cause
    assert len(str(caught.value)) < 500


def _compressed(image: np.ndarray, suffix: str, *options: int) -> Message:
    bgr = image[..., ::-1] if image.ndim == 3 else image
    data = cv2.imencode(suffix, bgr, options)[1].tobytes()
    return Message(format=f'bgr8; {suffix[1:]} compressed', data=data)


def test_png_is_lossless():
    image = _noise(HEIGHT, WIDTH, 3)
    np.testing.assert_array_equal(rgb_from_msg(_compressed(image, '.png')), image)


def test_png_of_16_bits_gives_the_high_byte():
    grey = _noise(HEIGHT, WIDTH, dtype=np.uint16)
    rgb = rgb_from_msg(_compressed(grey, '.png'))
    np.testing.assert_array_equal(rgb, np.repeat(grey[..., None] // 256, 3, axis=2))


@pytest.mark.parametrize('options', [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)])
def test_jpeg_keeps_color_and_size(options):
    image = np.full((40, 30, 3), (200, 120, 30), np.uint8)
    rgb = rgb_from_msg(_compressed(image, '.jpg', *options))
    np.testing.assert_allclose(rgb, image, atol=3)


def test_exif_orientation_of_a_jpeg_is_ignored():
    # One EXIF entry: tag 0x0112 (orientation), type short, one value, 6 (turn by 90 degrees).
    entry = b'\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00'
    exif = b'Exif\x00\x00MM\x00\x2a\x00\x00\x00\x08\x00\x01' + entry + bytes(4)
    message = _compressed(np.zeros((40, 30, 3), np.uint8), '.jpg')
    segment = b'\xff\xe1' + (len(exif) + 2).to_bytes(2, 'big') + exif
    message.data = message.data[:2] + segment + message.data[2:]
    assert rgb_from_msg(message).shape == (40, 30, 3)


@pytest.mark.parametrize('suffix', ['.jpg', '.png'])
@pytest.mark.parametrize('kept', [0.0, 0.001, 0.01, 0.5, 0.99])
def test_rejects_truncated_files(suffix, kept):
    message = _compressed(_noise(64, 48, 3), suffix)
    message.data = message.data[: int(len(message.data) * kept)]
    with pytest.raises(ImageError) as caught:
        rgb_from_msg(message)
    assert caught.value.cause == 'decode'


def test_rejects_a_size_before_decoding(monkeypatch):
    message = _compressed(_noise(HEIGHT, WIDTH, 3), '.png')
    message.data = message.data[:16] + (16_384).to_bytes(4, 'big') * 2 + message.data[24:]
    monkeypatch.setattr(cv2, 'imdecode', None)
    with pytest.raises(ImageError, match='16384x16384') as caught:
        rgb_from_msg(message)
    assert caught.value.cause == 'size'


def test_rejects_a_size_that_the_data_do_not_contain():
    message = _compressed(_noise(HEIGHT, WIDTH, 3), '.png')
    message.data = message.data[:16] + (5).to_bytes(4, 'big') * 2 + message.data[24:]
    with pytest.raises(ImageError) as caught:
        rgb_from_msg(message)
    assert caught.value.cause == 'decode'


def test_rejects_an_unsupported_depth():
    message = _compressed(_noise(HEIGHT, WIDTH, dtype=np.uint16), '.png')
    message.format = '16UC1; compressedDepth png'
    with pytest.raises(ImageError, match='depth') as caught:
        rgb_from_msg(message)
    assert caught.value.cause == 'encoding'


def _rgb_or_error(message: Message) -> np.ndarray | ImageError:
    try:
        return rgb_from_msg(message)
    except ImageError as error:
        return error


# On a busy machine an example may be slow.
FUZZ = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
UINT32 = st.one_of(st.integers(0, 12), st.integers(0, 2**32 - 1))
ENCODINGS = st.one_of(st.text(max_size=20), st.sampled_from([*KNOWN, 'mono16', 'uyvy']))


@settings(FUZZ, max_examples=400)
@given(UINT32, UINT32, UINT32, ENCODINGS, st.integers(0, 255), st.binary(max_size=600))
def test_any_fields_give_an_image_of_the_size_or_an_image_error(
    height, width, step, encoding, is_bigendian, data
):
    message = Message(
        height=height,
        width=width,
        step=step,
        encoding=encoding,
        is_bigendian=is_bigendian,
        data=data,
    )
    rgb = _rgb_or_error(message)
    if isinstance(rgb, ImageError):
        assert rgb.cause in ('encoding', 'size', 'step', 'data', 'conversion')
    else:
        assert rgb.shape == (height, width, 3)
        assert rgb.dtype == np.uint8


WHOLE = [_compressed(_noise(16, 16, 3), suffix).data for suffix in ('.jpg', '.png')]


@settings(FUZZ, max_examples=200)
@given(st.sampled_from(WHOLE), st.lists(st.tuples(st.integers(0, 999), st.integers(0, 255))))
def test_any_compressed_data_give_an_image_or_an_image_error(whole, changes):
    data = bytearray(whole)
    for offset, value in changes:
        data[offset % len(data)] = value
    rgb = _rgb_or_error(Message(format='', data=bytes(data)))
    if isinstance(rgb, ImageError):
        assert rgb.cause in ('decode', 'size')
    else:
        assert rgb.dtype == np.uint8
        assert rgb.shape[2:] == (3,)


@pytest.mark.parametrize(('shape', 'encoding'), [((4, 6, 3), 'rgb8'), ((4, 6), 'mono8')])
def test_an_image_is_read_back_from_its_message(shape, encoding):
    image = _noise(*shape)
    message = image_to_msg(image[:, ::-1], header(5))
    assert (message.encoding, message.step) == (encoding, 6 * (3 if len(shape) == 3 else 1))
    expected = image[:, ::-1].reshape(4, 6, -1)
    np.testing.assert_array_equal(rgb_from_msg(message), np.broadcast_to(expected, (4, 6, 3)))


@pytest.mark.parametrize(
    'array', [np.zeros((4, 6, 3)), _noise(4), _noise(4, 6, 4), _noise(1, 4, 6, 3)]
)
def test_rejects_an_array_that_is_not_an_image(array):
    with pytest.raises(ValueError, match='not an image'):
        image_to_msg(array, header(5))
