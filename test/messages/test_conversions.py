# SPDX-License-Identifier: Apache-2.0
"""Round trips between CDR and images of any size, padding and byte order; the converter in use."""

import io
import sys

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image as PillowImage

from surgseg_ros.messages.encodings import converter
from surgseg_ros.messages.images import image_to_msg, rgb_from_msg
from surgseg_ros.messages.serialization import (
    COMPRESSED_IMAGE,
    IMAGE,
    TYPES,
    from_cdr,
    header,
    to_cdr,
)

FEW = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
SIDES = st.integers(1, 33)
HEADERS = st.builds(
    header, st.integers(-(2**31) * 10**9, (2**31 - 1) * 10**9), st.text(max_size=40)
)
ORDERS = {
    'rgb8': [0, 1, 2],
    'bgr8': [2, 1, 0],
    'rgba8': [0, 1, 2, 3],
    'bgra8': [2, 1, 0, 3],
    'mono8': [0],
    'rgb16': [0, 1, 2],
    'bgr16': [2, 1, 0],
    'rgba16': [0, 1, 2, 3],
    'bgra16': [2, 1, 0, 3],
    'mono16': [0],
}
MOSAICS = [f'bayer_{pattern}' for pattern in ('rggb', 'bggr', 'gbrg', 'grbg')]


def noise(seed: int, *shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def image_cdr(rows: NDArray[np.uint8], width: int, padding: int, little: bool, **fields: object):
    """Serialize (H, bytes of a row) with random padding after each row."""
    height = len(rows)
    padded = np.hstack([rows, noise(9, height, padding)])
    message = TYPES.types[IMAGE](
        height=height,
        width=width,
        step=padded.shape[1],
        data=padded.reshape(-1),
        **{'header': header(0), 'is_bigendian': 0, **fields},
    )
    return bytes(TYPES.serialize_cdr(message, IMAGE, little_endian=little))


@FEW
@given(
    SIDES,
    SIDES,
    st.sampled_from(sorted(ORDERS)),
    st.integers(0, 17),
    st.booleans(),
    st.booleans(),
    HEADERS,
    st.integers(0, 99),
)
def test_colors_do_not_depend_on_the_layout(
    height, width, encoding, padding, little, big_samples, head, seed
):
    wide, order = encoding.endswith('16'), ORDERS[encoding]
    rgb = noise(seed, height, width, 3)
    pixels = np.dstack([rgb, noise(8, height, width)])[..., order]
    if encoding.startswith('mono'):
        rgb = np.repeat(pixels, 3, axis=2)
    if wide:
        samples = pixels.astype(np.uint16) * 256 + noise(7, *pixels.shape)
        pixels = samples.astype('>u2' if big_samples else '<u2').view(np.uint8)
    rows = np.ascontiguousarray(pixels).reshape(height, -1)
    fields = {'header': head, 'encoding': encoding, 'is_bigendian': int(big_samples)}
    message = from_cdr(image_cdr(rows, width, padding, little, **fields), IMAGE)
    assert message.header == head
    np.testing.assert_array_equal(rgb_from_msg(message), rgb)


@FEW
@given(SIDES, SIDES, st.sampled_from(MOSAICS), st.integers(0, 17), st.booleans(), st.integers())
def test_mosaics_do_not_depend_on_layout(height, width, encoding, padding, big_samples, seed):
    """8 bits without padding and 16 bits with padding give the same image, or both an error."""
    mosaic = noise(abs(seed), height, width)
    wide = (mosaic.astype(np.uint16) * 256 + 77).astype('>u2' if big_samples else '<u2')
    layouts = [
        (mosaic, 0, {'encoding': f'{encoding}8'}),
        (wide.view(np.uint8), padding, {'encoding': f'{encoding}16', 'is_bigendian': big_samples}),
    ]
    images = []
    for rows, space, fields in layouts:
        cdr = image_cdr(rows.reshape(height, -1), width, space, True, **fields)
        images.append(image_or_cause(from_cdr(cdr, IMAGE)))
    np.testing.assert_array_equal(*images)
    assert isinstance(images[0], str) or images[0].shape == (height, width, 3)


@FEW
@given(SIDES, SIDES, st.sampled_from(['yuv422', 'yuv422_yuy2']), st.integers(0, 17))
def test_yuv422_does_not_depend_on_padding_or_name(height, width, encoding, padding):
    younger = {'yuv422': 'uyvy', 'yuv422_yuy2': 'yuyv'}[encoding]
    rows = noise(3, height, width * 2)
    one = from_cdr(image_cdr(rows, width, 0, True, encoding=encoding), IMAGE)
    other = from_cdr(image_cdr(rows, width, padding, False, encoding=younger), IMAGE)
    np.testing.assert_array_equal(image_or_cause(one), image_or_cause(other))


def image_or_cause(message: object) -> NDArray[np.uint8] | str:
    try:
        return rgb_from_msg(message)
    except ValueError as error:
        return error.cause


@FEW
@given(SIDES, SIDES, st.sampled_from([1, 3]), HEADERS, st.integers(0, 99))
def test_a_mask_or_image_is_read_back_from_cdr(height, width, channels, head, seed):
    image = noise(seed, height, width, channels)
    sent = image[..., 0] if channels == 1 else image
    message = from_cdr(to_cdr(image_to_msg(sent, head)), IMAGE)
    assert message.header == head
    assert (message.height, message.width, message.step) == (height, width, width * channels)
    np.testing.assert_array_equal(message.data.reshape(image.shape), image)


@FEW
@given(SIDES, SIDES, st.sampled_from([1, 3, 4]), st.booleans(), HEADERS, st.integers(0, 99))
def test_a_png_is_read_back(height, width, channels, little, head, seed):
    image = noise(seed, height, width, channels)
    _, data = cv2.imencode('.png', image)
    message = TYPES.types[COMPRESSED_IMAGE](header=head, format='png', data=data.reshape(-1))
    cdr = bytes(TYPES.serialize_cdr(message, COMPRESSED_IMAGE, little_endian=little))
    read = from_cdr(cdr, COMPRESSED_IMAGE)
    bgr = image[..., :3] if channels > 1 else np.repeat(image, 3, axis=2)
    assert read.header == head
    np.testing.assert_array_equal(rgb_from_msg(read), bgr[..., ::-1])


@FEW
@given(SIDES, SIDES, st.sampled_from(['L', 'RGB', 'CMYK']), st.booleans(), st.integers(0, 2))
def test_a_jpeg_of_another_library_keeps_its_size_and_color(
    height, width, mode, progressive, subsampling
):
    color = {'L': 90, 'RGB': (200, 120, 30), 'CMYK': (55, 135, 225, 0)}[mode]
    file = io.BytesIO()
    options = {'quality': 95, 'progressive': progressive, 'subsampling': subsampling}
    PillowImage.new(mode, (width, height), color).save(file, 'JPEG', **options)
    message = TYPES.types[COMPRESSED_IMAGE](
        header=header(0), format='jpeg', data=np.frombuffer(file.getvalue(), np.uint8)
    )
    rgb = rgb_from_msg(message)
    expected = (90, 90, 90) if mode == 'L' else (200, 120, 30)
    np.testing.assert_allclose(rgb, np.broadcast_to(expected, (height, width, 3)), atol=6)


@pytest.mark.parametrize(
    'first', [b'\0\2', b'\0\3', b'\0\6', b'\0\7', b'\0\x0b', b'\1\1', b'\xff\0']
)
def test_rejects_parameter_lists_and_other_representations(first):
    cdr = to_cdr(image_to_msg(noise(1, 4, 6, 3), header(5)))
    with pytest.raises(Exception, match='encapsulation'):
        from_cdr(first + cdr[2:], IMAGE)


def test_cv_bridge_is_used_only_if_it_works(monkeypatch, tmp_path):
    """A broken cv_bridge is not used, even one that crashes the process."""

    def chosen(body: str) -> str:
        (tmp_path / 'cv_bridge.py').write_text(body)
        return converter.__wrapped__().__name__

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    crash = 'import os, sys\nos.abort()'
    assert chosen(crash) == 'message_to_cvimage'
    works = (
        'import numpy as np\n'
        'class CvBridge:\n'
        '    def imgmsg_to_cv2(self, message, encoding):\n'
        '        return np.zeros((message.height, message.width, 3), np.uint8)\n'
    )
    assert chosen(works) == 'imgmsg_to_cv2'
    del sys.modules['cv_bridge']
