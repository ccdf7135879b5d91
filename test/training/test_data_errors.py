# SPDX-License-Identifier: Apache-2.0
"""Data errors are reported by name, all at once, and raised or left out as configured."""

import struct
import zlib

import cv2
import numpy as np
import pytest

from surgseg_ros.training.data_check import check, decode, validate
from surgseg_ros.training.dataset import DatasetError, find_samples

MASK = 'video_01/segmentation/000000000.png'
NAME = 'video_01/000000000'


def palette_png(indices):
    """Write a PNG of palette indices, which OpenCV cannot write."""
    height, width = indices.shape
    rows = b''.join(b'\0' + row.tobytes() for row in indices)
    parts = [
        (b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 3, 0, 0, 0)),
        (b'PLTE', bytes(range(30))),
        (b'IDAT', zlib.compress(rows)),
        (b'IEND', b''),
    ]
    return b'\x89PNG\r\n\x1a\n' + b''.join(
        struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))
        for kind, body in parts
    )


def png(image):
    return cv2.imencode('.png', image)[1].tobytes()


FLAT = np.zeros((48, 80), np.uint8)

WRONG_MASKS = {
    'palette': (palette_png(FLAT), '8-bit palette PNG'),
    'colour': (png(np.zeros((48, 80, 3), np.uint8)), '8-bit colour PNG'),
    'deep': (png(FLAT.astype(np.uint16)), '16-bit grey PNG'),
    'label': (png(FLAT + np.uint8(12)), 'holds the value 12, expected 0 to 9'),
    'labels': (png(np.tile(np.uint8([3, 10, 255, 10]), (48, 20))), 'holds the values 10, 255,'),
    'size': (png(FLAT[:24, :40]), 'is 40x24 pixels, its image'),
    'cut': (
        png(np.random.default_rng(0).integers(0, 9, (48, 80), np.uint8))[:400],
        'cut off or damaged',
    ),
    'empty': (b'', 'is not a PNG'),
    'text': (b'not an image at all, but long enough', 'is not a PNG'),
}


def test_a_valid_data_set_has_no_errors(data):
    samples = find_samples(data)
    assert check(samples) == []
    assert validate(data) == (samples, ())


@pytest.mark.parametrize('kind', WRONG_MASKS)
def test_error_names_an_invalid_mask(data, kind):
    content, text = WRONG_MASKS[kind]
    (data / MASK).write_bytes(content)
    (data_error,) = check(find_samples(data))
    assert data_error.name == NAME
    assert MASK in data_error.what
    assert text in data_error.what


def test_error_names_an_invalid_image(data):
    path = data / 'video_02/rgb/000000060.png'
    path.write_bytes(path.read_bytes()[:200])
    (data_error,) = check(find_samples(data))
    assert data_error.name == 'video_02/000000060'
    assert 'video_02/rgb/000000060.png: ' in data_error.what
    assert 'lack the end of the image' in data_error.what


def test_all_errors_of_a_sample_are_reported(data):
    (data / MASK).write_bytes(png(FLAT[:24] + np.uint8(99)))
    assert [error.what.split(': ')[1][:9] for error in check(find_samples(data)[:1])] == [
        'holds the', 'is 80x24 ',
    ]  # fmt: skip


def test_pixels_are_counted(data):
    sample = find_samples(data)[0]
    shaft = int((sample.read()[1] == 3).sum())
    content = decode(sample)
    assert content.size == (48, 80)
    assert content.class_px.tolist() == [48 * 80 - shaft, 0, 0, shaft, 0, 0, 0, 0, 0, 0]


def test_rejects_errors_and_names_every_file(data):
    (data / MASK).write_bytes(palette_png(FLAT))
    (data / 'video_03/rgb/000000060.png').unlink()
    with pytest.raises(DatasetError, match='palette') as caught:
        validate(data)
    assert f'leave them out by name: [{NAME}, video_03/000000060]' in str(caught.value)


def test_errors_are_left_out_with_a_warning(data):
    (data / MASK).write_bytes(palette_png(FLAT))
    (data / 'video_03/rgb/000000060.png').unlink()
    with pytest.warns(UserWarning, match=f'left out .{NAME}, video_03/000000060') as warned:
        samples, data_errors = validate(data, on_fault='leave_out')
    assert len(warned) == 1
    assert {data_error.name for data_error in data_errors} == {NAME, 'video_03/000000060'}
    assert len(samples) == 4
    assert NAME not in {sample.name for sample in samples}


def test_samples_left_out_by_name_are_not_errors(data):
    (data / MASK).write_bytes(palette_png(FLAT))
    assert len(validate(data, leave_out=[NAME]).samples) == 5
    assert len(validate(data, leave_out=['video_01']).samples) == 4


def test_no_remaining_sample_is_an_error(data):
    for path in data.glob('*/segmentation/*.png'):
        path.write_bytes(b'')
    with pytest.raises(DatasetError, match='no sample without an error'):
        validate(data, on_fault='leave_out')


def test_error_names_an_unknown_mode(data):
    with pytest.raises(DatasetError, match="'ignore', expected one of refuse, leave_out"):
        validate(data, on_fault='ignore')
