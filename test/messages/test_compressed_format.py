# SPDX-License-Identifier: Apache-2.0
"""Colors of a compressed image follow its `format`, as image_transport reads it."""

from types import SimpleNamespace as Message

import cv2
import numpy as np
import pytest

from surgseg_ros.messages.encodings import ImageError
from surgseg_ros.messages.images import image_from_msg, rgb_from_msg

COLOR = (200, 120, 30)
HEIGHT, WIDTH = 48, 64
RGB = np.full((HEIGHT, WIDTH, 3), COLOR, np.uint8)
RGB[16:32, 16:48] = (30, 60, 180)
BGR = np.ascontiguousarray(RGB[..., ::-1])
GREY = cv2.cvtColor(RGB, cv2.COLOR_RGB2GRAY)


def message(text: str, suffix: str, samples: np.ndarray) -> Message:
    settings = [cv2.IMWRITE_JPEG_QUALITY, 98] if suffix == '.jpg' else []
    return Message(format=text, data=cv2.imencode(suffix, samples, settings)[1].tobytes())


def mosaic(pattern: str, dtype: type = np.uint8) -> np.ndarray:
    """Return the image as seen through a Bayer filter, (H, W)."""
    samples = np.empty((HEIGHT, WIDTH), np.uint8)
    for index, letter in enumerate(pattern):
        row, column = divmod(index, 2)
        samples[row::2, column::2] = RGB[row::2, column::2, 'rgb'.index(letter)]
    return samples.astype(dtype) * (257 if dtype == np.uint16 else 1)


def codes(given: Message) -> list[str]:
    return [warning.code.value for warning in image_from_msg(given).warnings]


def assert_shows(given: Message, expected: np.ndarray, tolerance: int) -> None:
    difference = np.abs(rgb_from_msg(given).astype(int) - expected)
    assert np.median(difference) <= tolerance
    assert difference.mean() < tolerance + 3


@pytest.mark.parametrize(
    ('text', 'suffix', 'samples'),
    [
        ('rgb8; jpeg compressed bgr8', '.jpg', BGR),
        ('bgr8; jpeg compressed bgr8', '.jpg', BGR),
        ('BGR8; JPEG compressed BGR8', '.jpg', BGR),
        ('rgb16; jpeg compressed bgr8', '.jpg', BGR),
        ('yuv422_yuy2; jpeg compressed bgr8', '.jpg', BGR),
        ('nv12; jpeg compressed bgr8', '.jpg', BGR),
        ('bayer_rggb8; jpeg compressed bgr8', '.jpg', BGR),
        ('8UC3; jpeg compressed bgr8', '.jpg', BGR),
        ('rgba8; png compressed bgr8', '.png', BGR),
        ('bgr8; png compressed bgr8', '.png', BGR),
        ('bgra8; png compressed bgr8', '.png', np.dstack((BGR, np.zeros_like(GREY)))),
        ('rgb16; png compressed bgr16', '.png', BGR.astype(np.uint16) * 257),
        ('rgb8; png compressed bgr8', '.jpg', BGR),  # the file itself identifies its codec
        ('rgb8; jpeg compressed bgr8', '.png', BGR),
        ('jpeg', '.jpg', BGR),
        ('jpg', '.jpg', BGR),
        ('png', '.png', BGR),
        ('', '.jpg', BGR),
        ('bgr8', '.jpg', BGR),
        ('png', '.jpg', BGR),
        ('rgb8; jpeg compressed rgb8', '.jpg', RGB),
        ('bgr8; jpeg compressed rgb8', '.jpg', RGB),
        ('rgb8; png compressed rgb8', '.png', RGB),
        ('rgba8; png compressed rgb8', '.png', RGB),
        ('rgb16; png compressed rgb16', '.png', RGB.astype(np.uint16) * 257),
    ],
)
def test_colors_are_preserved(text: str, suffix: str, samples: np.ndarray) -> None:
    given = message(text, suffix, samples)
    assert_shows(given, RGB, 3 if suffix == '.jpg' else 0)
    assert codes(given) == []


@pytest.mark.parametrize('pattern', ['rggb', 'bggr', 'gbrg', 'grbg'])
@pytest.mark.parametrize(
    ('text', 'suffix', 'dtype'),
    [
        ('bayer_{}8; png compressed ', '.png', np.uint8),
        ('bayer_{}8; png compressed', '.png', np.uint8),
        ('bayer_{0}8; png compressed bayer_{0}8', '.png', np.uint8),
        ('bayer_{}8', '.png', np.uint8),
        ('bayer_{}16; png compressed ', '.png', np.uint16),
        ('bayer_{}8; jpeg compressed ', '.jpg', np.uint8),
        ('bayer_{}16; jpeg compressed ', '.jpg', np.uint8),
    ],
)
def test_a_compressed_mosaic_is_demosaiced_like_an_uncompressed_one(
    text: str, suffix: str, dtype: type, pattern: str
) -> None:
    samples = mosaic(pattern, dtype)
    given = message(text.format(pattern), suffix, samples)
    raw = Message(
        height=HEIGHT,
        width=WIDTH,
        encoding=f'bayer_{pattern}8',
        is_bigendian=0,
        step=WIDTH,
        data=mosaic(pattern).tobytes(),
    )
    assert_shows(given, rgb_from_msg(raw), 6 if suffix == '.jpg' else 0)
    assert codes(given) == []
    np.testing.assert_allclose(np.median(rgb_from_msg(given), axis=(0, 1)), COLOR, atol=6)


@pytest.mark.parametrize(
    'text',
    [
        'bayer_rggb8; jpeg compressed mono8',
        'bayer_gbrg16; jpeg compressed mono8',
        'bayer_rggb8; png compressed mono8',
        'yuv422_yuy2; jpeg compressed mono8',
        'yuv422; jpeg compressed mono8',
        'uyvy; jpeg compressed mono8',
        'nv21; jpeg compressed mono8',
        'rgb8; jpeg compressed mono8',
        'bgr8; jpeg compressed bgr8',
        'rgb8; jpeg compressed ',
        'rgb8',
    ],
)
@pytest.mark.parametrize('suffix', ['.jpg', '.png'])
def test_reports_images_that_lost_their_colors(text: str, suffix: str) -> None:
    given = message(text, suffix, GREY)
    assert_shows(given, np.repeat(GREY[..., None], 3, 2), 3)
    assert codes(given) == ['color_lost']
    assert repr(text) in image_from_msg(given).warnings[0].text


@pytest.mark.parametrize(
    'text',
    [
        *('', 'jpeg', 'png', 'mono8'),
        *('mono8; jpeg compressed mono8', 'mono8; png compressed ', 'mono8; jpeg compressed'),
        *('mono16; png compressed ', '8UC1; png compressed '),
    ],
)
def test_images_without_colors_are_not_reported(text: str) -> None:
    assert codes(message(text, '.png', GREY)) == []
    deep = message(text, '.png', GREY.astype(np.uint16) * 256 + 7)
    np.testing.assert_array_equal(rgb_from_msg(deep), np.repeat(GREY[..., None], 3, 2))


@pytest.mark.parametrize(
    'text', ['bgr8; jpeg compressed', 'rgb8; png compressed ', 'yuv422; jpeg compressed mono8']
)
def test_without_an_order_of_colors_that_of_the_file_is_used_and_reported(
    text: str,
) -> None:
    given = message(text, '.png', BGR)
    np.testing.assert_array_equal(rgb_from_msg(given), RGB)
    assert codes(given) == ['color_order']


@pytest.mark.parametrize(
    'text',
    [
        *('16UC1; compressedDepth png', '16UC1; compressedDepth', '32FC1; compressedDepth png'),
        *('16UC1; png compressed ', 'hsv8; png compressed ', 'z' * 3000 + '; png compressed'),
    ],
)
def test_rejects_data_that_are_not_an_image(text: str) -> None:
    with pytest.raises(ImageError) as caught:
        image_from_msg(message(text, '.png', GREY.astype(np.uint16)))
    assert caught.value.cause == 'encoding'
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize('text', ['bayer_rggb8; png compressed ', 'rgb8; jpeg compressed rgb8'])
def test_rejects_a_damaged_file_of_any_format(text: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH), np.uint8)
    whole = message(text, '.png' if 'png' in text else '.jpg', noise)
    middle = len(whole.data) // 2
    whole.data = whole.data[:middle] + bytes(200) + whole.data[middle + 200 :]
    with pytest.raises(ImageError, match='check for losses') as caught:
        image_from_msg(whole)
    assert caught.value.cause == 'decode'
