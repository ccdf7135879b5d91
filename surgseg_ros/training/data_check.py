# SPDX-License-Identifier: Apache-2.0
"""Finds errors in samples before a run fails on them, and summarizes data sets."""

import os
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from surgseg_ros.core.labels import CLASS_COUNT, CLASS_NAMES
from surgseg_ros.core.overlay import draw_overlay
from surgseg_ros.evaluation.frames import read_image_file
from surgseg_ros.evaluation.layout import FrameError
from surgseg_ros.evaluation.pairs import MaskError, read_values, wrong_values
from surgseg_ros.training.dataset import (
    DataError,
    DatasetError,
    Sample,
    Scan,
    describe,
    scan_samples,
)

ON_FAULT: Final = ('refuse', 'leave_out')
"""What `validate` can do with samples that have errors."""


class DecodedSample(NamedTuple):
    """
    The content of a sample, and its errors.

    :param size: (height, width) of the mask in pixels, if it could be read.
    :param class_px: (10,) pixels of each class; 0 if the mask could not be read.
    :param data_errors: all errors.
    """

    size: tuple[int, int] | None
    class_px: NDArray[np.int64]
    data_errors: tuple[DataError, ...]


def validate(
    root: Path,
    cache: Path | None = None,
    *,
    leave_out: Collection[str] = (),
    on_fault: str = 'refuse',
) -> Scan:
    """
    Find the samples that a run can use.

    :param root: the data set; see `scan_samples`.
    :param cache: folder for frames of videos that are not unpacked.
    :param leave_out: names of videos and of samples that are not to be used.
    :param on_fault: one of ON_FAULT; `leave_out` warns of each sample that is left out.
    :return: the samples without errors, and the errors of those left out.
    :raises DatasetError: if there are errors and they are to be refused, or no sample is left.
    """
    if on_fault not in ON_FAULT:
        raise DatasetError(f'on_fault is {on_fault!r}, expected one of {", ".join(ON_FAULT)}')
    found = scan_samples(root, cache, leave_out=leave_out)
    data_errors = (*found.data_errors, *check(found.samples))
    wrong = {data_error.name for data_error in data_errors}
    sound = tuple(sample for sample in found.samples if sample.name not in wrong)
    if data_errors and on_fault == 'refuse':
        raise DatasetError(
            f'{describe(data_errors)}\nFix these, or leave them out by name: {_named(wrong)}'
        )
    if not sound:
        raise DatasetError(f'{describe(data_errors)}\nThere is no sample without an error')
    if data_errors:
        warnings.warn(f'left out {_named(wrong)}:\n{describe(data_errors)}', stacklevel=2)
    return Scan(sound, data_errors)


def _named(names: Collection[str]) -> str:
    return f'[{", ".join(sorted(names))}]'


def check(samples: Sequence[Sample]) -> list[DataError]:
    """
    Decode all samples, and collect their errors.

    :param samples: the samples to check.
    :return: the errors, in the order of `samples`.
    """
    return [data_error for content in decode_all(samples) for data_error in content.data_errors]


def decode_all(samples: Sequence[Sample]) -> Iterator[DecodedSample]:
    """
    Decode all samples, several at a time, with a progress bar.

    :param samples: the samples to check.
    :return: the contents, in the order of `samples`.
    """
    # Threads are enough, since OpenCV releases the GIL while it decodes.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        decoded = pool.map(decode, samples)
        yield from tqdm(decoded, 'checking', len(samples), unit='frame', leave=False)


def decode(sample: Sample) -> DecodedSample:
    """
    Decode a sample, and collect its errors.

    :param sample: the sample to check.
    :return: its content.
    """
    wrong = []
    size = None
    class_px: NDArray[np.int64] = np.zeros(CLASS_COUNT, np.int64)
    try:
        mask = read_values(sample.mask)
    except MaskError as error:
        wrong.append(str(error))
    else:
        size = mask.shape[0], mask.shape[1]
        class_px = np.bincount(mask.ravel(), minlength=256)[:CLASS_COUNT].astype(np.int64)
        if values := wrong_values(sample.mask, mask, undecided=False):
            wrong.append(values)
    try:
        image_size = read_image_file(sample.image).shape[:2]
    except FrameError as error:
        wrong.append(str(error))
    else:
        if size and size != image_size:
            wrong.append(
                f'{sample.mask}: is {size[1]}x{size[0]} pixels, its image {sample.image} '
                f'{image_size[1]}x{image_size[0]}: both must have the size of the video'
            )
    return DecodedSample(size, class_px, tuple(DataError(sample.name, what) for what in wrong))


_SHOWN: Final = 16


def choose(class_px: NDArray[np.int64], count: int = _SHOWN) -> list[int]:
    """
    Select samples to show: for each class the one with most pixels of it, and others evenly.

    :param class_px: (N, 10) pixels of each class in each sample.
    :param count: their number, at least that of the classes.
    :return: their indices, ascending, without repetition.
    """
    if not len(class_px):
        return []
    chosen = {int(column.argmax()) for column in class_px.T[1:] if column.any()}
    others = [index for index in range(len(class_px)) if index not in chosen]
    wanted = min(len(others), count - len(chosen))
    evenly = np.linspace(0, len(others) - 1, wanted).astype(int)
    return sorted(chosen | {others[index] for index in evenly})


def class_shares(class_px: NDArray[np.int64]) -> tuple[list[float], list[float]]:
    """
    Compute the frequency of each class.

    :param class_px: (N, 10) pixels of each class in each sample.
    :return: of each class the share of all pixels, and the share of samples that have any.
    """
    pixels = class_px.sum(0) / max(1, class_px.sum())
    frames = (class_px > 0).sum(0) / max(1, len(class_px))
    return pixels.tolist(), frames.tolist()


def draw_sample(sample: Sample, width_px: int) -> NDArray[np.uint8]:
    """
    Draw the ground truth over an image, reduced in size.

    :param sample: a sample without errors.
    :param width_px: width of the result.
    :return: (H, width_px, 3) uint8 RGB.
    """
    image, mask = sample.read()
    size = (width_px, max(1, round(width_px * image.shape[0] / image.shape[1])))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
    truth = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST).astype(np.uint8)
    return draw_overlay(small, truth)


def sheet_contents(
    samples: Sequence[Sample], decoded: Sequence[DecodedSample], width_px: int
) -> tuple[list[float], list[float], int, list[tuple[str, NDArray[np.uint8]]]]:
    """
    Collect the content of `data_sheet` for the samples without errors.

    :param samples: the samples.
    :param decoded: contents of the samples, in the same order.
    :param width_px: width of each image.
    :return: both of `class_shares`, the number of samples, and names and images of some.
    """
    sound = [pair for pair in zip(samples, decoded, strict=True) if not pair[1].data_errors]
    class_px = np.array([x.class_px for _, x in sound], np.int64).reshape(-1, CLASS_COUNT)
    shown = [sound[index][0] for index in choose(class_px)]
    images = [(sample.name, draw_sample(sample, width_px)) for sample in shown]
    return *class_shares(class_px), len(sound), images


def summarize(
    found: Scan, decoded: Sequence[DecodedSample], losses: Sequence[DataError] = ()
) -> dict[str, Any]:
    """
    Summarize the contents of a data set.

    :param found: its samples, and the errors of masks without a frame.
    :param decoded: contents of the samples, in the same order.
    :param losses: missing frames of the videos.
    :return: `videos`, contents by name; `all`, the contents of all videos together; `faults`, a
        list of `name` and `what`. Contents are `frames`, `sizes` ('1920x1080' to the number of
        masks), `pixel_share` and `frame_share` by class name, over the masks that could be read.
    """
    by_video: dict[str, list[DecodedSample]] = {}
    for sample, content in zip(found.samples, decoded, strict=True):
        by_video.setdefault(sample.video, []).append(content)
    return {
        'all': _contents(decoded),
        'videos': {video: _contents(of_video) for video, of_video in by_video.items()},
        'faults': [data_error._asdict() for data_error in _all_errors(found, decoded, losses)],
    }


def _all_errors(
    found: Scan, decoded: Sequence[DecodedSample], losses: Sequence[DataError]
) -> list[DataError]:
    of_samples = [data_error for content in decoded for data_error in content.data_errors]
    return sorted((*found.data_errors, *losses, *of_samples))


def _contents(decoded: Sequence[DecodedSample]) -> dict[str, Any]:
    readable = [x for x in decoded if x.size]
    sizes = Counter(f'{x.size[1]}x{x.size[0]}' for x in readable if x.size)
    class_px = np.array([x.class_px for x in readable]).reshape(-1, len(CLASS_NAMES))
    pixels, frames = class_shares(class_px)
    return {
        'frames': len(decoded),
        'sizes': dict(sizes.most_common()),
        'pixel_share': dict(zip(CLASS_NAMES, pixels, strict=True)),
        'frame_share': dict(zip(CLASS_NAMES, frames, strict=True)),
    }


def format_summary(summary: dict[str, Any]) -> str:
    """
    Format the contents of a data set as tables: videos, then classes.

    :param summary: from `summarize`.
    :return: the text.
    """
    lines = [f'{"video":20}{"frames":>8}  sizes']
    for video, holding in (*summary['videos'].items(), ('all', summary['all'])):
        sizes = ', '.join(f'{size} ({count})' for size, count in holding['sizes'].items())
        lines.append(f'{video:20}{holding["frames"]:8}  {sizes}')
    lines += ['', f'{"class":20}{"% of pixels":>12}{"% of frames":>12}{"videos":>8}']
    for name in CLASS_NAMES:
        pixels, frames = (
            100 * summary['all'][key][name] for key in ('pixel_share', 'frame_share')
        )
        videos = sum(holding['frame_share'][name] > 0 for holding in summary['videos'].values())
        lines.append(f'{name:20}{pixels:12.4f}{frames:12.1f}{videos:8}')
    return '\n'.join(lines)
