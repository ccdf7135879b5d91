# SPDX-License-Identifier: Apache-2.0
"""Finds errors in samples before a run fails on them, and leaves such samples out."""

import os
import warnings
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from surgseg_ros.core.labels import CLASS_COUNT
from surgseg_ros.evaluation.frames import FrameError, read_image_file
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


class Examination(NamedTuple):
    """
    What a sample holds.

    :param size: (height, width) of the mask in pixels, where it could be read.
    :param class_px: (10,) pixels of each class; 0 where the mask could not be read.
    :param data_errors: everything that is wrong.
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
    :param cache: for frames of videos that are not unpacked.
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
    return [
        data_error
        for examination in examine_all(samples)
        for data_error in examination.data_errors
    ]


def examine_all(samples: Sequence[Sample]) -> Iterator[Examination]:
    """
    Decode all samples, several at a time, with a progress bar.

    :param samples: the samples to check.
    :return: what they hold, in the order of `samples`.
    """
    # Threads are enough, since OpenCV releases the GIL while it decodes.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        examinations = pool.map(examine, samples)
        yield from tqdm(examinations, 'checking', len(samples), unit='frame', leave=False)


def examine(sample: Sample) -> Examination:
    """
    Decode a sample, and collect its errors.

    :param sample: the sample to check.
    :return: what it holds.
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
    return Examination(size, class_px, tuple(DataError(sample.name, what) for what in wrong))
