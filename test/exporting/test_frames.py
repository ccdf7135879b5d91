# SPDX-License-Identifier: Apache-2.0
"""The frames that calibrate an export, and the held-out videos it is compared on."""

import dataclasses
import shutil

import cv2
import numpy as np
import pytest

from surgseg_ros.core.model_folder import ModelSpec
from surgseg_ros.exporting.frames import SIZE, choose_frames
from surgseg_ros.training.dataset import DatasetError

RESEARCH = ModelSpec(name='some')
DRAWN = dataclasses.replace(RESEARCH, intended_use='synthetic')


def write(root, *videos):
    for video in videos:
        for index in (0, 60, 120):
            number = int(video[-2:]) * 100 + index // 60  # no two frames alike
            array = np.full((4, 5), number % 10, np.uint8)
            array[0, : number // 100] = 9
            for kind in ('rgb', 'segmentation'):
                path = root / video / kind / f'{index:09d}.png'
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), array)
    return root


def videos(frames):
    return {frame.video for frame in frames}


def test_half_of_the_videos_are_held_out(tmp_path):
    root = write(tmp_path / 'data', 'video_01', 'video_02', 'video_03', 'video_04')
    calibration, held_out = choose_frames(RESEARCH, root, None, 100, calibrate=True)
    assert len(videos(calibration)) == len(videos(held_out)) == 2
    assert not videos(calibration) & videos(held_out)


def test_rejects_a_single_video(tmp_path):
    with pytest.raises(DatasetError, match='needs two or more'):
        choose_frames(RESEARCH, write(tmp_path, 'video_01'), None, 9, calibrate=True)


def test_frames_are_spread_evenly(tmp_path):
    root = write(tmp_path / 'data', 'video_01', 'video_02', 'video_03')
    frames = choose_frames(RESEARCH, None, root, 3, calibrate=False)
    assert frames.calibration == ()
    assert [(f.video, f.index) for f in frames.held_out] == [
        ('video_01', 0),
        ('video_02', 60),
        ('video_03', 120),
    ]


def test_held_out_videos_are_never_used_for_calibration(tmp_path):
    root = write(tmp_path / 'data', 'video_01', 'video_02', 'video_03')
    write(tmp_path / 'other', 'video_04')
    shutil.copytree(root / 'video_02', tmp_path / 'other' / 'video_02_copy')
    (tmp_path / 'other' / 'video_01').symlink_to(root / 'video_01')
    (tmp_path / 'other' / 'video_03').symlink_to(root / 'video_03')
    calibration, held_out = choose_frames(RESEARCH, tmp_path / 'other', root, 100, calibrate=True)
    assert videos(calibration) == {'video_04'}
    assert videos(held_out) == {'video_01', 'video_02', 'video_03'}
    with pytest.raises(DatasetError, match=r'every video of .* is held out as well'):
        choose_frames(RESEARCH, root, root, 100, calibrate=True)


@pytest.mark.parametrize('calibrate', [True, False])
def test_a_research_model_is_not_compared_on_synthetic_scenes(tmp_path, calibrate):
    with pytest.raises(DatasetError, match="'some' is for research, and no data set is given"):
        choose_frames(RESEARCH, None, None, 2, calibrate=calibrate)
    if calibrate:
        with pytest.raises(DatasetError, match=r'with --calibration$'):
            choose_frames(RESEARCH, None, tmp_path, 2, calibrate=True)


def test_a_demo_model_is_compared_on_synthetic_scenes():
    calibration, held_out = choose_frames(DRAWN, None, None, 6, calibrate=True)
    assert len(calibration) == len(held_out) == 6
    assert len(videos(held_out)) == 2
    assert not videos(calibration) & videos(held_out)
    image, mask = held_out[0].read()
    assert image.shape == (*SIZE, 3)
    assert mask.shape == SIZE
    assert not np.array_equal(image, held_out[1].read()[0])
