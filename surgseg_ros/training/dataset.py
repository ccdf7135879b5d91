# SPDX-License-Identifier: Apache-2.0
"""Data sets in the layout of SAR-RARP50: every mask with its frame, and splits for validation."""

import os
import re
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.evaluation.frames import read_image_file
from surgseg_ros.evaluation.layout import (
    IMAGE_FOLDERS,
    VIDEO_FILE,
    FrameError,
    find_images,
    find_masks,
    find_video_file,
    find_videos,
)
from surgseg_ros.evaluation.pairs import read_truth
from surgseg_ros.evaluation.videos import open_video
from surgseg_ros.training.video_frames import cache_folder, default_cache, unpack

_NAMED: Final = 20
"""Maximum number of errors that a message lists; the others are counted."""


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
        """Video and number, such as `video_11/000000060`."""
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

    :param name: name of the sample, such as `video_11/000000060`.
    :param what: the file and the error.
    """

    name: str
    what: str


def describe(data_errors: Sequence[DataError]) -> str:
    """
    List the errors.

    :param data_errors: at least one.
    :return: a line for each of the first errors, and the number of the others.
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
    Split according to the settings of a run.

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
    Split by video, so that no validation frame has a neighbour in training.

    :param videos: names; the parts of one video (`video_11_1`, `video_11_2`) stay together.
    :param validation_share: share of videos for validation, above 0 and below 1.
    :param seed: the same seed gives the same split.
    :return: names for training and names for validation, sorted; each has at least one.
    :raises DatasetError: if there are not two videos.
    """
    names = sorted(set(videos))
    wholes = sorted({_whole(name) for name in names})
    if len(wholes) < 2:
        raise DatasetError(
            f'there is only the video {", ".join(wholes)!r}: a split by video needs two or '
            'more: add videos, or set split=frame'
        )
    count = min(max(1, round(validation_share * len(wholes))), len(wholes) - 1)
    order = np.random.default_rng(seed).permutation(len(wholes))
    chosen = {wholes[index] for index in order[:count]}
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
    """Remove the number of a part of a video."""
    found = re.match(r'video_[^_]+', video)
    return found.group() if found else video


class Scan(NamedTuple):
    """
    The contents of a data set.

    :param samples: by video, then by index.
    :param data_errors: errors of masks that are not among the samples.
    """

    samples: tuple[Sample, ...]
    data_errors: tuple[DataError, ...]


def find_samples(
    root: Path, cache: Path | None = None, *, leave_out: Collection[str] = ()
) -> tuple[Sample, ...]:
    """
    Find every frame that has a ground truth; see `scan_samples`.

    :param root: the data set.
    :param cache: folder for frames of videos that are not unpacked.
    :param leave_out: names of videos and samples.
    :return: the samples, by video, then by index.
    :raises DatasetError: if there are none, or a mask has no frame.
    """
    samples, data_errors = scan_samples(root, cache, leave_out=leave_out)
    if data_errors:
        raise DatasetError(describe(data_errors))
    return samples


def scan_samples(
    root: Path, cache: Path | None = None, *, leave_out: Collection[str] = ()
) -> Scan:
    """
    Find every mask and its frame, and decode the videos that are not unpacked into the cache.

    :param root: a folder of `video_*/segmentation/*.png`, each with its frame in `rgb/`,
        `frames/` or `video_left.avi`, where it is the frame of that number, counted from 0.
    :param cache: folder for frames of videos that are not unpacked; see `default_cache`.
    :param leave_out: names of videos (`video_11`) and of samples (`video_11/000000060`).
    :return: the samples, and the errors of masks that have no frame.
    :raises DatasetError: if there is no mask, a name to leave out does not exist, or the cache
        cannot be written.
    """
    try:
        return _scan(Path(root), cache, leave_out)
    except FrameError as error:
        raise DatasetError(str(error)) from error


def find_all_masks(root: Path, leave_out: Collection[str] = ()) -> list[Path]:
    """
    Find the masks of a data set, without decoding anything.

    :param root: the data set.
    :param leave_out: names of videos and of samples.
    :return: the masks that are not left out, by video.
    :raises DatasetError: if there is no mask, or a name to leave out does not exist.
    """
    try:
        masks = [mask for video in find_videos(root) for mask in find_masks(video)]
    except FrameError as error:
        raise DatasetError(str(error)) from error
    if not masks:
        raise DatasetError(
            f'{str(root)!r} holds no video_*/segmentation/*.png: give the folder that holds '
            'the videos, or make one with `synthesize`'
        )
    return list(_without(masks, leave_out))


def _scan(root: Path, cache: Path | None, leave_out: Collection[str]) -> Scan:
    masks = find_all_masks(root, leave_out)
    samples: list[Sample] = []
    data_errors: list[DataError] = []
    packed: dict[Path, list[Path]] = {}
    for video, of_video in groupby(masks, lambda mask: mask.parents[1]):
        images, file = find_images(video), find_video_file(video)
        by_number: dict[int, Path] = {}
        for mask in of_video:
            if not mask.stem.isdecimal():
                data_errors.append(
                    DataError(_name(mask), f'{mask}: is not named by the number of its frame')
                )
            elif (other := by_number.setdefault(int(mask.stem), mask)) is not mask:
                data_errors.append(
                    DataError(
                        _name(mask), f'{mask}: is of the same frame as {other.name}; remove one'
                    )
                )
            elif image := images.get(int(mask.stem)):
                samples.append(Sample(video.name, int(mask.stem), image, mask))
            elif file is not None:
                packed.setdefault(file, []).append(mask)
            else:
                data_errors.append(DataError(_name(mask), _no_frame(mask)))
    unpacked = _unpack(packed, Path(cache) if cache else default_cache(root))
    samples.extend(unpacked.samples)
    samples.sort(key=lambda sample: (sample.video, sample.index))
    return Scan(tuple(samples), tuple(sorted((*data_errors, *unpacked.data_errors))))


def _name(mask: Path) -> str:
    """Return the name of a sample from its mask, as Sample.name does."""
    return f'{mask.parents[1].name}/{mask.stem}'


def _without(masks: Sequence[Path], leave_out: Collection[str]) -> Iterator[Path]:
    """Iterate over the masks that are not left out; check first that all names exist."""
    names = [{mask.parents[1].name, _name(mask)} for mask in masks]
    if unknown := sorted(set(leave_out).difference(*names)):
        raise DatasetError(
            f'cannot leave out {", ".join(map(repr, unknown))}: there is no such mask; write a '
            f'video as {masks[0].parents[1].name!r}, and one of its frames as {_name(masks[0])!r}'
        )
    return (m for m, known in zip(masks, names, strict=True) if known.isdisjoint(leave_out))


def _unpack(packed: Mapping[Path, Sequence[Path]], cache: Path) -> Scan:
    """Decode videos, and find the frames of masks in the cache."""
    wanted = {video: sorted({int(m.stem) for m in masks}) for video, masks in packed.items()}
    try:
        reasons = unpack(wanted, cache, os.cpu_count() or 1)
    except OSError as error:
        raise DatasetError(
            f'frames of videos cannot be written to the cache {str(cache)!r} ({error}): free '
            'some space, or name another cache'
        ) from error
    samples, data_errors = [], []
    for video, masks in packed.items():
        folder = cache_folder(video, cache)
        for mask in masks:
            sample = Sample(
                mask.parents[1].name, int(mask.stem), folder / f'{int(mask.stem):09d}.png', mask
            )
            if sample.image.is_file():
                samples.append(sample)
            else:
                why = reasons[video][sample.index]
                data_errors.append(DataError(sample.name, f'{mask}: has no frame; {why}'))
    return Scan(tuple(samples), tuple(data_errors))


def find_losses(root: Path) -> tuple[DataError, ...]:
    """
    Find missing frames of videos that are not unpacked, with or without a mask.

    :param root: the data set.
    :return: errors that are found without decoding, each with the name of its video.
    """
    found: list[DataError] = []
    for video in find_videos(root):
        numbers = {int(mask.stem) for mask in find_masks(video) if mask.stem.isdecimal()}
        file = find_video_file(video)
        if file is None or numbers <= find_images(video).keys():
            continue
        with suppress(FrameError):  # a video that cannot be read is an error of each of its masks
            found += (DataError(video.name, text) for text in open_video(file).data_errors)
    return tuple(found)


def _no_frame(mask: Path) -> str:
    folders = ' or '.join(f'{folder}/' for folder in IMAGE_FOLDERS)
    number = f'{int(mask.stem):09d}'
    return (
        f'{mask}: has no frame; looked for {number} or _{number} as PNG or JPEG in {folders}, '
        f'and for {VIDEO_FILE}, in {mask.parents[1]}'
    )
