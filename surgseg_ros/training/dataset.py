# SPDX-License-Identifier: Apache-2.0
"""Data sets in the layout of SAR-RARP50: finds every mask and its frame."""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from surgseg_ros.evaluation.layout import (
    IMAGE_FOLDERS,
    VIDEO_FILE,
    FrameError,
    find_images,
    find_masks,
    find_video_file,
    find_videos,
)
from surgseg_ros.evaluation.videos import open_video
from surgseg_ros.training.samples import DataError, DatasetError, Sample, describe, split_videos
from surgseg_ros.training.video_frames import cache_folder, default_cache, unpack

__all__ = ['DatasetError', 'Sample', 'Scan', 'find_samples', 'scan_samples', 'split_videos']


class Scan(NamedTuple):
    """
    The contents of a data set.

    :param samples: by video, then by index.
    :param data_errors: of masks that are not among the samples.
    """

    samples: tuple[Sample, ...]
    data_errors: tuple[DataError, ...]


def find_samples(
    root: Path, cache: Path | None = None, *, leave_out: Collection[str] = ()
) -> tuple[Sample, ...]:
    """
    Find every frame that has a ground truth; see `scan_samples`.

    :param root: the data set.
    :param cache: for frames of videos that are not unpacked.
    :param leave_out: names of videos and of samples.
    :return: by video, then by index.
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
    :param cache: for frames of videos that are not unpacked; see `default_cache`.
    :param leave_out: names of videos (`video_11`) and of samples (`video_11/000000060`).
    :return: the samples, and the errors of masks that have no frame.
    :raises DatasetError: if there is no mask, a name to leave out does not exist, or the cache
        cannot be written.
    """
    try:
        return _scan(Path(root), cache, leave_out)
    except FrameError as error:
        raise DatasetError(str(error)) from error


def _scan(root: Path, cache: Path | None, leave_out: Collection[str]) -> Scan:
    masks = [mask for video in find_videos(root) for mask in find_masks(video)]
    if not masks:
        raise DatasetError(
            f'{str(root)!r} holds no video_*/segmentation/*.png: give the folder that holds '
            'the videos, or make one with `synthesize`'
        )
    samples: list[Sample] = []
    data_errors: list[DataError] = []
    packed: dict[Path, list[Path]] = {}
    for video, of_video in groupby(_without(masks, leave_out), lambda mask: mask.parents[1]):
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
    """Name a sample by its mask, as Sample.name does."""
    return f'{mask.parents[1].name}/{mask.stem}'


def _without(masks: Sequence[Path], leave_out: Collection[str]) -> Iterator[Path]:
    """Iterate over the masks that are not left out; check first that every name exists."""
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
    Find frames that videos (not unpacked) lack, whether or not they have a mask.

    :param root: the data set.
    :return: what can be found without decoding, each under the name of its video.
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
