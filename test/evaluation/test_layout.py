# SPDX-License-Identifier: Apache-2.0
"""Parts of a data set are found whatever the case of their names, and none twice."""

import pytest

from surgseg_ros.evaluation.layout import (
    FrameError,
    find_images,
    find_masks,
    find_video_file,
    find_videos,
    find_views,
    has_images,
    images_in,
    official_name,
)


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_finds_folders_of_videos(tmp_path):
    touch(tmp_path, 'video_02/x', 'Video_01/x', 'VIDEO_03/x', 'other/x', 'video_04')
    assert [path.name for path in find_videos(tmp_path)] == ['Video_01', 'video_02', 'VIDEO_03']
    assert find_videos(tmp_path / 'nowhere') == []


@pytest.mark.parametrize(
    ('name', 'official'),
    [('video_41', 'video_41'), ('Video_04', 'video_04'), ('VIDEO_1_a', 'video_1_a'),
     ('clip', 'video_clip')],
)  # fmt: skip
def test_finds_names_of_videos(name, official):
    assert official_name(name) == official


def test_finds_masks_images_and_videos(tmp_path):
    video = touch(
        tmp_path, 'Segmentation/000000000.PNG', 'Segmentation/000000060.png', 'Segmentation/x.txt',
        'RGB/000000000.PNG', 'RGB/000000060.JPG', 'RGB/6.png', 'VIDEO_LEFT.AVI',
    )  # fmt: skip
    assert [path.name for path in find_masks(video)] == ['000000000.PNG', '000000060.png']
    assert find_images(video) == {
        0: video / 'RGB/000000000.PNG', 60: video / 'RGB/000000060.JPG'
    }  # fmt: skip
    assert find_video_file(video) == video / 'VIDEO_LEFT.AVI'
    assert has_images(video)
    assert len(images_in(video / 'RGB')) == 3


@pytest.mark.parametrize(
    ('find', 'names'),
    [
        (find_videos, ('video_04/x', 'Video_04/x')),
        (find_masks, ('segmentation/x.png', 'Segmentation/y.png')),
        (find_masks, ('segmentation/000000000.png', 'segmentation/000000000.PNG')),
        (find_images, ('rgb/000000000.png', 'RGB/000000060.png')),
        (find_images, ('rgb/000000000.jpg', 'rgb/000000000.JPG')),
        (find_video_file, ('video_left.avi', 'video_left.AVI')),
        (images_in, ('a.png', 'A.png')),
    ],
)
def test_rejects_names_that_differ_only_in_case(tmp_path, find, names):
    with pytest.raises(FrameError, match='the names differ only in case'):
        find(touch(tmp_path, *names))


def test_views_are_videos_or_the_cameras_of_stereo_videos(tmp_path):
    touch(
        tmp_path,
        *('Video_2/Left/rgb/000000000.png', 'Video_2/right/segmentation/000000000.png'),
        *('video_1/rgb/000000000.png', 'video_1/left/x.png', 'video_1/right/x.png'),
        *('video_3/left/x.png', 'video_4/left/x.png', 'video_4/right/x.png'),
        'video_4/segmentation/000000000.png',
    )
    assert find_views(tmp_path) == {
        'video_1': tmp_path / 'video_1',
        'video_2/left': tmp_path / 'Video_2/Left',
        'video_2/right': tmp_path / 'Video_2/right',
        'video_3': tmp_path / 'video_3',
        'video_4': tmp_path / 'video_4',
    }
