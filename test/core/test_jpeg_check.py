# SPDX-License-Identifier: Apache-2.0
"""Coded data of JPEGs: sound ones pass, and what is lost from them shows."""

import cv2
import numpy as np
import pytest
import simplejpeg

from surgseg_ros.core.jpeg_check import is_sound

IMAGE = np.random.default_rng(0).integers(0, 256, (45, 67, 3), np.uint8)
DATA = cv2.imencode('.jpg', IMAGE, [cv2.IMWRITE_JPEG_RST_INTERVAL, 2])[1].tobytes()
SCAN = DATA.index(b'\xff\xda') + 14


@pytest.mark.parametrize(
    'data',
    [
        DATA,
        DATA + bytes(100),
        cv2.imencode('.jpg', IMAGE, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes(),
        cv2.imencode('.jpg', IMAGE[..., 0])[1].tobytes(),
        *(simplejpeg.encode_jpeg(IMAGE, colorsubsampling=s) for s in ('444', '422', '420', '440')),
    ],
)
def test_sound_data_pass(data):
    assert is_sound(data)


@pytest.mark.parametrize(
    'data',
    [
        b'',
        DATA[:-2],
        DATA[: len(DATA) // 2],
        DATA[: len(DATA) // 2] + b'\xff\xd9',
        DATA[:SCAN] + bytes(200) + DATA[SCAN + 200 :],
        DATA[:-100] + b'\x55' * 98 + b'\xff\xd9',
        DATA[:-2] + b'\x55' * 50 + b'\xff\xd9',
        DATA[: SCAN + 100] + DATA[SCAN + 150 :],
    ],
)
def test_damaged_data_do_not(data):
    assert not is_sound(data)
