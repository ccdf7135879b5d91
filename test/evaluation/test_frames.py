# SPDX-License-Identifier: Apache-2.0
"""Frames: how they are found, numbered in a video, and rejected."""

from itertools import count

import cv2
import numpy as np
import pytest

from surgseg_ros.evaluation.frames import find_sources, read_frames, read_image_file, write_png
from surgseg_ros.evaluation.layout import FrameError, find_images
from surgseg_ros.evaluation.videos import open_video

NOISE = np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8)


@pytest.mark.parametrize('suffix', ['.avi', '.mp4'])
def test_frames_of_a_video_are_numbered(tmp_path, write_video, frame_number, suffix):
    path = tmp_path / f'video{suffix}'
    write_video(path, 130)
    wanted = [0, 1, 7, 60, 61, 129]
    assert [(i, frame_number(x)) for i, x in read_frames(path, wanted)] == [
        (index, index) for index in wanted
    ]


def test_frames_end_with_the_video(tmp_path, write_video):
    write_video(tmp_path / 'video.avi', 100)
    assert [index for index, _ in read_frames(tmp_path / 'video.avi', count(0, 60))] == [0, 60]


@pytest.mark.parametrize('content', [None, b'', b'RIFF and nothing more'])
def test_error_names_a_file_that_is_not_a_video(tmp_path, content):
    if content is not None:
        (tmp_path / 'video.avi').write_bytes(content)
    with pytest.raises(FrameError, match=r'video\.avi: does not decode'):
        list(read_frames(tmp_path / 'video.avi', [0]))


def test_reads_the_rate_of_a_video(tmp_path, write_video):
    write_video(tmp_path / 'video.avi', 3)
    assert open_video(tmp_path / 'video.avi').mean_rate_hz == 60
    (tmp_path / 'other.avi').write_bytes(b'RIFF and nothing more')
    with pytest.raises(FrameError, match=r'other\.avi: does not decode as a video'):
        open_video(tmp_path / 'other.avi')


def test_only_images_named_with_nine_digits_are_found(tmp_path):
    names = ['rgb/000000006.png', 'rgb/6.png', 'frames/_000000006.jpg', 'frames/_000000060.jpg']
    for name in (*names, 'frames/frame_000000120.jpg', 'frames/000000180.txt'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_images(tmp_path) == {6: tmp_path / names[0], 60: tmp_path / names[3]}


def test_an_image_is_rgb_and_a_written_image_is_read_back(tmp_path):
    write_png(tmp_path / 'x.png', NOISE)
    assert np.array_equal(read_image_file(tmp_path / 'x.png'), NOISE)
    assert np.array_equal(cv2.imread(str(tmp_path / 'x.png'))[..., ::-1], NOISE)


@pytest.mark.parametrize('suffix', ['.jpg', '.png'])
@pytest.mark.parametrize('share', [0.0, 0.1, 0.5, 0.99])
def test_error_names_a_truncated_image(tmp_path, suffix, share):
    path = tmp_path / f'x{suffix}'
    data = cv2.imencode(suffix, NOISE)[1].tobytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(FrameError, match=path.name):
        read_image_file(path)


@pytest.mark.parametrize('suffix', ['.jpg', '.png'])
def test_error_names_an_incomplete_image(tmp_path, suffix):
    path = tmp_path / f'x{suffix}'
    data = cv2.imencode(suffix, NOISE)[1].tobytes()
    half = len(data) // 2
    for damaged in (
        data[:half] + data[half + 512 :],
        data[:half] + bytes(512) + data[half + 512 :],
    ):
        path.write_bytes(damaged)
        with pytest.raises(FrameError, match=rf'{path.name}: .*copy it again'):
            read_image_file(path)


def test_reads_other_formats_as_opencv_does(tmp_path):
    cv2.imwrite(str(tmp_path / 'x.bmp'), NOISE[..., ::-1])
    assert np.array_equal(read_image_file(tmp_path / 'x.bmp'), NOISE)


def test_error_names_a_missing_image(tmp_path):
    with pytest.raises(FrameError, match=r'x\.png: cannot be read'):
        read_image_file(tmp_path / 'x.png')


def test_error_names_a_file_that_is_neither_a_video_nor_an_image(tmp_path):
    path = tmp_path / 'notes.png'
    path.write_text('not a picture')
    with pytest.raises(FrameError, match=r'notes\.png: .*not a video or image, or damaged'):
        find_sources(path, 1)[0].check()
