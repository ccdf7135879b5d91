# SPDX-License-Identifier: Apache-2.0
"""Frames are read with their masks, with the same crop, one at a time."""

import numpy as np
import pytest

from surgseg_ros.evaluation.frames import Crop, find_sources, labelled_frames, write_png
from surgseg_ros.evaluation.layout import FrameError

GENERATOR = np.random.default_rng(0)
IMAGE = GENERATOR.integers(0, 256, (20, 30, 3), np.uint8)
MASK = GENERATOR.integers(0, 10, (20, 30), np.uint8)


@pytest.fixture
def video(tmp_path):
    for kind in ('rgb', 'segmentation'):
        (tmp_path / 'video_1' / kind).mkdir(parents=True)
    for number in (0, 6, 12):
        write_png(tmp_path / f'video_1/rgb/{number:09d}.png', IMAGE)
    write_png(tmp_path / 'video_1/segmentation/000000006.png', MASK)
    return tmp_path / 'video_1'


@pytest.mark.parametrize(('every', 'numbers'), [(1, [0, 6, 12]), (12, [0, 12]), (None, [6])])
def test_frames_with_masks_if_available(video, every, numbers):
    (source,) = find_sources(video, every)
    found = list(labelled_frames(source))
    assert [number for number, _, _ in found] == numbers
    for number, image, mask in found:
        assert np.array_equal(image, IMAGE)
        assert (mask is not None) == (number == 6)
        assert mask is None or np.array_equal(mask, MASK)


def test_frames_and_masks_are_cropped(video):
    (source,) = find_sources(video)
    ((_, image, mask),) = labelled_frames(source, Crop(10, 5, 20, 15))
    assert np.array_equal(image, IMAGE[5:20, 10:30])
    assert np.array_equal(mask, MASK[5:20, 10:30])


@pytest.mark.parametrize('crop', [Crop(11, 5, 20, 15), Crop(10, 6, 20, 15)])
def test_error_names_a_crop_outside_the_image(video, crop):
    (source,) = find_sources(video)
    with pytest.raises(FrameError, match=f'the crop {crop.x} {crop.y} 20 15 .* of 30x20'):
        list(labelled_frames(source, crop))


def test_frames_are_read_lazily(video):
    (video / 'rgb/000000012.png').write_bytes(b'cut off')
    frames = labelled_frames(find_sources(video, 1)[0])
    assert [next(frames).number, next(frames).number] == [0, 6]
    with pytest.raises(FrameError, match=r'000000012\.png'):
        next(frames)


def test_reports_an_empty_selection(video):
    for number in (0, 6):
        (video / f'rgb/{number:09d}.png').unlink()
    (video / 'segmentation/000000006.png').unlink()
    with pytest.raises(FrameError, match='video_1: has none of the requested frames'):
        list(labelled_frames(find_sources(video, 5)[0]))
