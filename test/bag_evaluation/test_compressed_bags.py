# SPDX-License-Identifier: Apache-2.0
"""Compressed images in bags: damaged ones are rejected, and lost color is reported."""

import json

import cv2
import numpy as np
from independent import IMAGES

from surgseg_ros.bags.writing import BagWriter
from surgseg_ros.messages.serialization import COMPRESSED_IMAGE, TYPES, header

SIZE = (240, 320)


def drawn(number: int) -> np.ndarray:
    noise = np.random.default_rng(number).integers(0, 256, (*SIZE, 3), np.uint8)
    return cv2.GaussianBlur(noise, (5, 5), 2)


def write(path, images) -> None:
    """Write a bag of (format, file contents)."""
    with BagWriter(path) as bag:
        for number, (text, data) in enumerate(images):
            message = TYPES.types[COMPRESSED_IMAGE](
                header=header(10**18 + number), format=text, data=np.frombuffer(data, np.uint8)
            )
            bag.write(IMAGES, COMPRESSED_IMAGE, message, 10**18 + number)


def evaluated(tmp_path, evaluate) -> dict:
    file = tmp_path / 'a.json'
    status = evaluate('--bag', tmp_path / 'bag', '--no-truth', '--json', file)
    assert status == 0
    (numbers,) = json.loads(file.read_text())['bags'].values()
    return numbers


def encoded(pixels: np.ndarray, suffix: str = '.jpg') -> bytes:
    return cv2.imencode(suffix, pixels)[1].tobytes()


def test_damaged_images_of_a_bag_are_rejected_and_reported(tmp_path, evaluate, capsys) -> None:
    whole = encoded(drawn(0))
    half = len(whole) // 2
    files = [
        whole,
        whole[:half] + whole[half + 512 :],
        whole[:half] + whole[-200:],
        whole[:half] + b'\xff\xd9',
        whole + bytes(5000),
    ]
    write(tmp_path / 'bag', [('bgr8; jpeg compressed bgr8', data) for data in files])
    numbers = evaluated(tmp_path, evaluate)
    assert (numbers['frames'], numbers['rejected']) == (5, 3)
    outcomes = [frame['fate'] for frame in numbers['over_time']]
    assert outcomes == ['mask', 'rejected', 'rejected', 'rejected', 'mask']
    (problem,) = numbers['troubles']
    assert (problem['cause'], problem['count']) == ('decode', 3)
    assert 'bytes of a JPEG are damaged' in capsys.readouterr().err


def test_lost_color_is_counted_and_reported(tmp_path, evaluate, capsys) -> None:
    grey = encoded(cv2.cvtColor(drawn(0), cv2.COLOR_BGR2GRAY))
    lost = 'yuv422_yuy2; jpeg compressed mono8'
    write(tmp_path / 'bag', [(lost, grey), ('jpeg', encoded(drawn(0))), (lost, grey)])
    numbers = evaluated(tmp_path, evaluate)
    assert (numbers['frames'], numbers['rejected']) == (3, 0)
    (problem,) = numbers['troubles']
    assert (problem['cause'], problem['count']) == ('color_lost', 2)
    assert f'all colour is lost: format {lost!r}' in capsys.readouterr().err


def test_masks_do_not_depend_on_the_format(tmp_path, evaluate) -> None:
    bgr = drawn(0)
    rgb = np.ascontiguousarray(bgr[..., ::-1])
    images = [
        ('rgb8; png compressed bgr8', encoded(bgr, '.png')),
        ('png', encoded(bgr, '.png')),
        ('rgb8; png compressed rgb8', encoded(rgb, '.png')),
        ('rgb16; png compressed rgb16', encoded(rgb.astype(np.uint16) * 257, '.png')),
    ]
    digests = []
    for number, image in enumerate(images):
        folder = tmp_path / str(number)
        folder.mkdir()
        write(folder / 'bag', [image])
        digests.append(evaluated(folder, evaluate)['mask_sha256'])
    assert len(set(digests)) == 1
