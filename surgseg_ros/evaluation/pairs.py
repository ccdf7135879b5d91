# SPDX-License-Identifier: Apache-2.0
"""Which predicted mask belongs to which truth: two folders matched by the names in them."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.evaluation.errors import FrameError
from surgseg_ros.evaluation.layout import find_masks, find_videos, official_name
from surgseg_ros.evaluation.masks import MaskError, read_mask, read_truth
from surgseg_ros.evaluation.metrics import FrameCounts, count_frame

_NAMED: Final = 20
"""So many names of what is missing are said; the rest is counted."""


class EvaluationError(ValueError):
    """Folders that cannot be scored; the message names what is wrong."""


class Pair(NamedTuple):
    """The truth of a frame, and what was predicted; None where nothing was."""

    video: str
    truth: Path
    predicted: Path | None

    @property
    def name(self) -> str:
        """What both files are called in their folders."""
        return f'{self.video}/segmentation/{self.truth.stem}.png'

    def read(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        """
        Decode both masks; those of the last two frames are kept, and must not be written to.

        :return: truth and prediction, (H, W) uint8 each.
        :raises EvaluationError: if a file cannot be read.
        """
        try:
            return _read(self.truth, self.predicted)
        except MaskError as error:
            raise EvaluationError(str(error)) from error


@lru_cache(maxsize=2)
def _read(
    truth: Path, predicted: Path | None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    return read_truth(truth), None if predicted is None else read_mask(predicted)


def find_pairs(reference: Path, predictions: Path, allow_missing: bool = False) -> list[Pair]:
    """
    Match the masks of two folders by the names of video and file.

    :param reference: folder of `video_*/segmentation/*.png` with the truth.
    :param predictions: the same with predictions.
    :param allow_missing: whether the folders may differ.
    :return: one pair for each truth, sorted.
    :raises EvaluationError: if there is no truth, or the folders differ and must not.
    """
    try:
        truths, masks = _masks_of(reference), _masks_of(predictions)
    except FrameError as error:
        raise EvaluationError(str(error)) from error
    if not truths:
        raise EvaluationError(
            f'{str(reference)!r} holds no video_*/segmentation/*.png: give the folder that holds '
            'the videos'
        )
    if not predictions.is_dir():
        raise EvaluationError(f'{str(predictions)!r} is no folder: give the one of the masks')
    lacking = [
        _lacking(names, folder)
        for names, folder in (
            (sorted(set(truths) - set(masks)), predictions),
            (sorted(set(masks) - set(truths)), reference),
        )
        if names
    ]
    if lacking and not allow_missing:
        raise EvaluationError(
            '\n'.join((*lacking, 'Add them, or score without by --allow-missing'))
        )
    return [Pair(name.split('/')[0], truths[name], masks.get(name)) for name in sorted(truths)]


def _masks_of(root: Path) -> dict[str, Path]:
    """Find masks by their official names: a name in capitals is the same one."""
    return {
        f'{official_name(video.name)}/segmentation/{mask.stem}.png': mask
        for video in find_videos(root)
        for mask in find_masks(video)
    }


def _lacking(names: Sequence[str], folder: Path) -> str:
    more = f' and {len(names) - _NAMED} more' if len(names) > _NAMED else ''
    return (
        f'{str(folder)!r} lacks masks that the other folder has ({len(names)}): '
        f'{", ".join(names[:_NAMED])}{more}'
    )


def count_pair(pair: Pair) -> FrameCounts:
    """
    Read and count one frame.

    :param pair: its files.
    :return: the counts.
    :raises EvaluationError: if a file cannot be read, or they don't fit together.
    """
    truth, predicted = pair.read()
    try:
        return count_frame(truth, predicted)
    except ValueError as error:
        names = ' and '.join(str(path) for path in pair[1:] if path)
        raise EvaluationError(f'{names}: {error}') from error
