# SPDX-License-Identifier: Apache-2.0
"""Data sets: the naming schemes in use, and errors that name files."""

import shutil

import cv2
import numpy as np
import pytest

from surgseg_ros.evaluation.pairs import MaskError
from surgseg_ros.training.dataset import DatasetError, find_samples


@pytest.mark.parametrize(
    'name',
    ['rgb/000000060.png', 'rgb/000000060.jpg', 'frames/_000000060.jpg', 'frames/000000060.png'],
)
def test_frames_are_found_with_each_naming_scheme(data, name):
    video = data / 'video_02'
    image = cv2.imread(str(video / 'rgb/000000060.png'))
    shutil.rmtree(video / 'rgb')
    (video / name).parent.mkdir()
    cv2.imwrite(str(video / name), image)
    (video / 'segmentation/000000000.png').unlink()

    sample = next(s for s in find_samples(data) if s.video == 'video_02')

    assert sample.image == video / name
    assert sample.index == 60
    image, mask = sample.read()
    assert image.shape == (48, 80, 3)
    assert set(np.unique(mask)) == {0, 3}


def test_images_are_read_as_rgb(data):
    blue_in_opencv = np.zeros((48, 80, 3), np.uint8)
    blue_in_opencv[..., 0] = 200
    cv2.imwrite(str(data / 'video_01/rgb/000000000.png'), blue_in_opencv)
    assert find_samples(data)[0].read()[0][0, 0].tolist() == [0, 0, 200]


def test_samples_are_in_order(data):
    assert [(s.video, s.index) for s in find_samples(data)] == [
        (f'video_0{video}', index) for video in (1, 2, 3) for index in (0, 60)
    ]


def test_rejects_a_folder_without_videos(tmp_path):
    with pytest.raises(DatasetError, match='holds no video_'):
        find_samples(tmp_path)


def test_error_names_a_mask_without_its_frame(data):
    (data / 'video_03/rgb/000000060.png').unlink()
    with pytest.raises(DatasetError, match=r'video_03/segmentation/000000060.png: has no frame'):
        find_samples(data)


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        ('foo.png', 'is not named by the number of its frame'),
        ('._000000060.png', 'is not named by the number of its frame'),
        ('60.png', 'is of the same frame as 000000060.png; remove one'),
    ],
)
def test_error_names_a_stray_file_among_the_masks(data, name, expected):
    masks = data / 'video_02/segmentation'
    shutil.copy(masks / '000000060.png', masks / name)
    with pytest.raises(DatasetError, match=f'video_02/segmentation/{name}: {expected}'):
        find_samples(data)


@pytest.mark.parametrize(
    ('mask', 'error', 'expected'),
    [
        (np.zeros((24, 40), np.uint8), DatasetError, '40x24 pixels'),
        (np.full((48, 80), 12, np.uint8), MaskError, 'the value 12'),
        (np.zeros((48, 80, 3), np.uint8), MaskError, '8-bit grey PNG'),
    ],
)
def test_error_names_an_invalid_mask(data, mask, error, expected):
    cv2.imwrite(str(data / 'video_01/segmentation/000000000.png'), mask)
    with pytest.raises(error, match=expected) as caught:
        find_samples(data)[0].read()
    assert 'video_01/segmentation/000000000.png' in str(caught.value)
