# SPDX-License-Identifier: Apache-2.0
"""Samples of data sets, and how they are split for training and validation."""

import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.evaluation.frames import FrameError, read_image_file
from surgseg_ros.evaluation.pairs import read_truth

_NAMED: Final = 20
"""Number of errors that a message lists; the rest is counted."""


class DatasetError(ValueError):
    """A data set that cannot be used; the message names the file or folder, and a remedy."""


@dataclass(frozen=True)
class Sample:
    """
    A frame with its truth.

    :param video: the folder's name.
    :param index: the frame's number in the video.
    :param image: path of the image.
    :param mask: path of the truth.
    """

    video: str
    index: int
    image: Path
    mask: Path

    @property
    def name(self) -> str:
        """Video and number, as `video_11/000000060`."""
        return f'{self.video}/{self.mask.stem}'

    def read(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """
        Decode image and mask.

        :return: (H, W, 3) uint8 RGB, and (H, W) uint8 class index.
        :raises DatasetError: if the image cannot be read, or their sizes differ.
        :raises MaskError: if the mask cannot be read.
        """
        try:
            image = read_image_file(self.image)
        except FrameError as error:
            raise DatasetError(str(error)) from error
        mask = read_truth(self.mask)
        if image.shape[:2] != mask.shape:
            raise DatasetError(
                f'{self.mask}: is {mask.shape[1]}x{mask.shape[0]} pixels, its image '
                f'{image.shape[1]}x{image.shape[0]}: both must have the size of the video'
            )
        return image, mask


class DataError(NamedTuple):
    """
    An error in a sample.

    :param name: of the sample, as `video_11/000000060`.
    :param what: the file, and what is wrong with it.
    """

    name: str
    what: str


def describe(data_errors: Sequence[DataError]) -> str:
    """
    List the errors.

    :param data_errors: at least one.
    :return: a line for each of the first ones, and the number of the others.
    """
    lines = [data_error.what for data_error in data_errors[:_NAMED]]
    if len(data_errors) > _NAMED:
        lines.append(f'and {len(data_errors) - _NAMED} more, which `inspect_data` lists')
    return '\n'.join(lines)


SPLITS: Final = ('video', 'frame')
"""How a data set may be split: by whole videos, or, as the paper does, by frame."""


def split_samples(
    samples: Sequence[Sample], by: str, validation_share: float, seed: int
) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """
    Split according to a run's settings.

    :param samples: the samples to split.
    :param by: one of SPLITS.
    :param validation_share: share for validation, above 0 and below 1.
    :param seed: the same seed gives the same split.
    :return: samples for training and for validation, in their order; each has at least one.
    :raises DatasetError: if there are too few, or `by` is unknown.
    """
    if by not in SPLITS:
        raise DatasetError(f'split is {by!r}, expected one of {", ".join(SPLITS)}')
    if by == 'frame':
        return split_frames(samples, validation_share, seed)
    videos = split_videos((sample.video for sample in samples), validation_share, seed)
    parts = ([s for s in samples if s.video in set(names)] for names in videos)
    training, validation = map(tuple, parts)
    return training, validation


def split_videos(
    videos: Iterable[str], validation_share: float, seed: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """
    Split by video, so that no frame for validation has a neighbour in training.

    :param videos: names; the parts of one video (`video_11_1`, `video_11_2`) stay together.
    :param validation_share: share of videos for validation, above 0 and below 1.
    :param seed: the same gives the same split.
    :return: names for training and names for validation, sorted; each has at least one.
    :raises DatasetError: if there are not two videos.
    """
    names = sorted(set(videos))
    wholes = sorted({_whole(name) for name in names})
    if len(wholes) < 2:
        raise DatasetError(
            f'there is only the video {", ".join(wholes)!r}: a split by video needs two or more'
        )
    count = min(max(1, round(validation_share * len(wholes))), len(wholes) - 1)
    order = np.random.default_rng(seed).permutation(len(wholes))
    chosen = {wholes[place] for place in order[:count]}
    training = tuple(name for name in names if _whole(name) not in chosen)
    return training, tuple(name for name in names if _whole(name) in chosen)


def split_frames(
    samples: Sequence[Sample], validation_share: float, seed: int
) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """
    Split by frame, as the paper does, with a warning: the parts share videos.

    :param samples: at least two.
    :param validation_share: share of frames for validation, above 0 and below 1.
    :param seed: the same gives the same split.
    :return: samples for training and for validation, in their order; each has at least one.
    :raises DatasetError: if there are not two samples.
    """
    if len(samples) < 2:
        raise DatasetError(f'there are {len(samples)} frames: a split needs two or more')
    warnings.warn(
        'split by frame: frames for validation have neighbours in training, which look almost '
        'the same, so the validation scores are too high; split by video to measure how the model '
        'does on a video that it never saw',
        stacklevel=2,
    )
    count = min(max(1, round(validation_share * len(samples))), len(samples) - 1)
    chosen = set(np.random.default_rng(seed).permutation(len(samples))[:count].tolist())
    parts = ([s for n, s in enumerate(samples) if (n in chosen) == part] for part in (False, True))
    training, validation = map(tuple, parts)
    return training, validation


def _whole(video: str) -> str:
    """Remove the number of a part."""
    found = re.match(r'video_[^_]+', video)
    return found.group() if found else video
