# SPDX-License-Identifier: Apache-2.0
"""A frame with its truth, and what can be wrong with one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.evaluation.frames import FrameError, read_picture
from surgseg_ros.evaluation.masks import read_truth

_NAMED: Final = 20
"""So many faults are said in an error; the rest is counted."""


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
        Decode both.

        :return: (H, W, 3) uint8 RGB, and (H, W) uint8 class index.
        :raises DatasetError: if the image cannot be read, or they don't belong together.
        :raises MaskError: if the mask cannot be read.
        """
        try:
            image = read_picture(self.image)
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
    Something wrong with a sample.

    :param name: of the sample, as `video_11/000000060`.
    :param what: which file, and what about it.
    """

    name: str
    what: str


def describe(data_errors: Sequence[DataError]) -> str:
    """
    Say what is wrong.

    :param data_errors: at least one.
    :return: a line for each of the first, and how many more there are.
    """
    lines = [data_error.what for data_error in data_errors[:_NAMED]]
    if len(data_errors) > _NAMED:
        lines.append(f'and {len(data_errors) - _NAMED} more, which `inspect_data` lists')
    return '\n'.join(lines)
