# SPDX-License-Identifier: Apache-2.0
"""Splits: by video, with a seed; by frame, with a warning."""

import pytest

from surgseg_ros.training.dataset import (
    DatasetError,
    find_samples,
    split_frames,
    split_samples,
    split_videos,
)


def test_the_split_is_by_video_and_seeded():
    names = [f'video_{n:02d}' for n in range(10)]
    splits = [split_videos(names, 0.2, seed) for seed in (0, 0, 1, 2)]
    training, validation = splits[0]
    assert len(validation) == 2
    assert sorted(training + validation) == names
    assert splits[1] == splits[0]
    assert len({s[1] for s in splits}) > 1


@pytest.mark.parametrize('seed', range(6))
def test_the_parts_of_a_video_stay_together(seed):
    names = ['video_11_1', 'video_11_2', 'video_12', 'video_13_1', 'video_13_2']
    for part in split_videos(names, 0.4, seed):
        assert ('video_11_1' in part) == ('video_11_2' in part)
        assert ('video_13_1' in part) == ('video_13_2' in part)


def test_rejects_a_split_of_one_video():
    with pytest.raises(DatasetError, match='two or more'):
        split_videos(['video_11_1', 'video_11_2'], 0.5, 0)


def test_a_split_by_frame_warns_and_is_seeded(data):
    samples = find_samples(data)
    with pytest.warns(UserWarning, match='neighbours in training'):
        splits = [split_frames(samples, 0.33, seed) for seed in (0, 0, 1, 2)]
    training, validation = splits[0]
    assert len(validation) == 2
    assert sorted(training + validation, key=lambda sample: sample.name) == list(samples)
    assert splits[1] == splits[0]
    assert len({parts[1] for parts in splits}) > 1


def test_rejects_a_split_of_one_frame(data):
    with pytest.raises(DatasetError, match='1 frames'):
        split_frames(find_samples(data)[:1], 0.2, 0)


def test_samples_are_split_as_reported(data):
    samples = find_samples(data)
    training, validation = split_samples(samples, 'video', 0.33, 0)
    assert (len(training), len(validation)) == (4, 2)
    assert not {sample.video for sample in training} & {sample.video for sample in validation}
    with pytest.warns(UserWarning, match='split by frame'):
        assert split_samples(samples, 'frame', 0.33, 0) == split_frames(samples, 0.33, 0)
    with pytest.raises(DatasetError, match="'patient', expected one of video, frame"):
        split_samples(samples, 'patient', 0.33, 0)
