# SPDX-License-Identifier: Apache-2.0
"""Pairs of ground truth and predicted masks: finds, reads and checks them; counts flicker."""

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from surgseg_ros.core.image_files import decode_mask, no_classes
from surgseg_ros.core.labels import CLASS_COUNT, CLASS_NAMES, NO_DECISION
from surgseg_ros.core.processes import ignore_terminal_signals, worker_pool
from surgseg_ros.evaluation.layout import (
    MASK_FOLDER,
    FrameError,
    find_masks,
    find_views,
)
from surgseg_ros.evaluation.metrics import FrameCounts, count_frame

T = TypeVar('T')
R = TypeVar('R')

_VALUES_NAMED: Final = 10
"""Largest number of values that a message lists; it gives the number of the others."""


class MaskError(ValueError):
    """A file that is not a mask; the message gives the file and the problem."""


def read_mask(path: Path) -> NDArray[np.uint8]:
    """
    Decode a predicted mask.

    :param path: a grey PNG of 8, 4 or 2 bits.
    :return: (H, W) uint8 class index or NO_DECISION.
    :raises MaskError: if it is another kind of file, is damaged, or contains another value.
    """
    return _checked(path, undecided=True)


def read_truth(path: Path) -> NDArray[np.uint8]:
    """
    Decode a mask of the ground truth.

    :param path: a grey PNG of 8, 4 or 2 bits.
    :return: (H, W) uint8 class index.
    :raises MaskError: if it is another kind of file, is damaged, or contains another value.
    """
    return _checked(path, undecided=False)


def _checked(path: Path, *, undecided: bool) -> NDArray[np.uint8]:
    mask = read_values(path)
    if wrong := wrong_values(path, mask, undecided=undecided):
        raise MaskError(wrong)
    return mask


def read_values(path: Path) -> NDArray[np.uint8]:
    """
    Decode a mask without checking its values.

    :param path: a grey PNG of 8, 4 or 2 bits.
    :return: (H, W) uint8.
    :raises MaskError: if it is another kind of file, or is damaged.
    """
    try:
        return decode_mask(path.read_bytes())
    except OSError as error:
        raise MaskError(f'{path}: cannot be read ({error.strerror})') from error
    except ValueError as error:
        raise MaskError(f'{path}: {error}') from error


def wrong_values(path: Path, mask: NDArray[np.uint8], *, undecided: bool) -> str | None:
    """
    Describe the values of a mask that are not class indices.

    :param path: file of the mask.
    :param mask: (H, W) uint8.
    :param undecided: whether NO_DECISION may be among them.
    :return: a sentence, or None.
    """
    others = no_classes(mask, undecided=undecided)
    if not others:
        return None
    more = f' and {len(others) - _VALUES_NAMED} more' if len(others) > _VALUES_NAMED else ''
    noun = 'value' if len(others) == 1 else 'values'
    values = f'{noun} {", ".join(map(str, others[:_VALUES_NAMED]))}{more}'
    expected = f'0 to {CLASS_COUNT - 1}' + (f' or {NO_DECISION}' if undecided else '')
    return f'{path}: holds the {values}, expected {expected}: write class indices as grey values'


_NAMED: Final = 20
"""Largest number of missing names that a message lists; it gives the number of the others."""


class EvaluationError(ValueError):
    """Folders that cannot be scored; the message gives the problem."""


class Pair(NamedTuple):
    """
    The masks of a frame: ground truth and prediction, which is None if it is missing.

    Videos are named as `find_views` names them.
    """

    video: str
    truth: Path
    predicted: Path | None

    @property
    def name(self) -> str:
        """Name of both files, relative to their folders."""
        return f'{self.video}/{self.truth.parent.name}/{self.truth.stem}.png'

    def read(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        """
        Decode both masks; those of the last two frames are cached and must not be modified.

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


def find_pairs(
    reference: Path,
    predictions: Path,
    allow_missing: bool = False,
    name: str = MASK_FOLDER,
    lists: str = '',
) -> list[Pair]:
    """
    Match the masks of two folders by the names of video and file.

    :param reference: folder of `video_*/segmentation/*.png` with the truth.
    :param predictions: folder with the predictions, of the same structure.
    :param allow_missing: whether masks may be missing in either folder.
    :param name: name of the folders of masks, if it is not `segmentation`.
    :param lists: name of folders beside them; cameras of stereo videos without one are left out.
    :return: one pair for each truth, sorted.
    :raises EvaluationError: if there is no truth, or the folders differ and may not.
    """
    try:
        left_out = _cameras_without(reference, lists)
        truths, masks = (_masks_of(root, name, left_out) for root in (reference, predictions))
    except FrameError as error:
        raise EvaluationError(str(error)) from error
    if not truths:
        raise EvaluationError(
            f'{str(reference)!r} holds no video_*/{name}/*.png: give the folder that holds the '
            'videos'
        )
    if not predictions.is_dir():
        raise EvaluationError(f'{str(predictions)!r} is not a folder: give the folder of masks')
    sides = (truths.keys() - masks, predictions), (masks.keys() - truths, reference)
    lacking = [_missing_message(sorted(names), folder) for names, folder in sides if names]
    if lacking and not allow_missing:
        raise EvaluationError(
            '\n'.join((*lacking, 'Add them, or score without them with --allow-missing'))
        )
    return [Pair(path.rsplit('/', 2)[0], truths[path], masks.get(path)) for path in sorted(truths)]


def _cameras_without(root: Path, folder: str) -> set[str]:
    """Find the cameras of stereo videos in which a folder is missing."""
    cameras = {name: view for name, view in find_views(root).items() if '/' in name}
    return {name for name, camera in cameras.items() if not (camera / folder).is_dir()}


def _masks_of(root: Path, name: str, left_out: Set[str]) -> dict[str, Path]:
    """Find masks by their official names, which are compared case-insensitively."""
    return {
        f'{view}/{name}/{mask.stem}.png': mask
        for view, folder in find_views(root).items()
        if view not in left_out
        for mask in find_masks(folder, name)
    }


def _missing_message(names: Sequence[str], folder: Path) -> str:
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
    :raises EvaluationError: if a file cannot be read, or the masks do not match.
    """
    truth, predicted = pair.read()
    try:
        return count_frame(truth, predicted)
    except ValueError as error:
        names = ' and '.join(str(path) for path in pair[1:] if path)
        raise EvaluationError(f'{names}: {error}') from error


Masks = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""(H, W) uint8 masks of a frame and of the next frame."""


class StepCounts(NamedTuple):
    """
    The counts from which flicker is computed; they can be added up.

    :param still_px: (10,) pixels whose class in the truth is the same in both frames, by class.
    :param changed_px: (10,) those of them whose prediction changes to a wrong class.
    """

    still_px: NDArray[np.int64]
    changed_px: NDArray[np.int64]


def count_step(truth: Masks, predicted: Masks) -> StepCounts:
    """
    Count the flicker between two consecutive frames.

    Counts pixels whose prediction changes to a wrong class, while the truth does not change. So
    neither motion nor a constant error counts. Neither does a change to the right class, or else
    masks that follow a tool one frame late would seem to flicker. An intermittent error counts
    each time that it appears.

    :param truth: masks of both frames.
    :param predicted: masks of both frames.
    :return: the counts.
    :raises ValueError: if the sizes differ.
    """
    sizes = {mask.shape for mask in (*truth, *predicted)}
    if len(sizes) > 1:
        raise ValueError(f'masks of consecutive frames differ in size: {sorted(sizes)}')
    still = truth[0] == truth[1]
    changed = still & (predicted[0] != predicted[1]) & (predicted[1] != truth[1])
    counts = (np.bincount(truth[0][which], minlength=256) for which in (still, changed))
    return StepCounts(*(count[:CLASS_COUNT].astype(np.int64) for count in counts))


def find_steps(pairs: Sequence[Pair]) -> list[Pair | None]:
    """
    Find the previous frame of each frame: the one with the next lower name in the same video.

    :param pairs: sorted by video and frame.
    :return: the previous frame of each; None if there is none, or if a prediction is missing.
    """
    before: list[Pair | None] = [None]
    for last, pair in pairwise(pairs):
        complete = last.video == pair.video and None not in (last.predicted, pair.predicted)
        before.append(last if complete else None)
    return before[: len(pairs)]


def count_step_of(before: Pair, pair: Pair) -> StepCounts | None:
    """
    Count the flicker between two frames.

    :param before: the first frame.
    :param pair: the second frame.
    :return: the counts; None if a prediction is missing, or if the sizes differ.
    :raises EvaluationError: if a file cannot be read.
    """
    first, second = before.read(), pair.read()
    if first[1] is None or second[1] is None:
        return None
    if len({mask.shape for masks in (first, second) for mask in masks if mask is not None}) > 1:
        return None
    return count_step((first[0], second[0]), (first[1], second[1]))


def summarize_steps(videos: Mapping[str, Sequence[StepCounts]]) -> dict[str, Any]:
    """
    Compute the flicker over all frames of all videos.

    :param videos: maps the name of a video to the counts of its steps.
    :return: `steps`, their number; and the share of the pixels with unchanged truth whose
        prediction becomes wrong: `share`, `instrument_share` (of instruments), `class_share` by
        name; None if there is no such pixel.
    """
    steps = [step for counts in videos.values() for step in counts]
    still, changed = (
        sum((getattr(step, key) for step in steps), np.zeros(CLASS_COUNT, np.int64))
        for key in ('still_px', 'changed_px')
    )
    return {
        'steps': len(steps),
        'share': _share(changed, still),
        'instrument_share': _share(changed[1:], still[1:]),
        'class_share': {
            name: _share(changed[label], still[label]) for label, name in enumerate(CLASS_NAMES)
        },
    }


def report(flicker: Mapping[str, Any]) -> str:
    """
    Summarize the flicker in a sentence.

    :param flicker: as `summarize_steps` returns it.
    :return: a sentence; empty if nothing was counted.
    """
    if flicker['share'] is None:
        return ''
    of_instruments = flicker['instrument_share']
    more = (
        '' if of_instruments is None else f' ({1000 * of_instruments:.2f} of 1000 of instruments)'
    )
    return (
        'flicker: of pixels whose truth stays from a frame to the next, '
        f'{1000 * flicker["share"]:.2f} of 1000 become wrong{more}; not official'
    )


def _share(part: NDArray[np.int64], whole: NDArray[np.int64]) -> float | None:
    total = int(np.sum(whole))
    return int(np.sum(part)) / total if total else None


def count_all(
    pairs: Sequence[Pair], workers: int = 1
) -> tuple[dict[str, list[FrameCounts]], dict[str, list[StepCounts]]]:
    """
    Count the pixels of every pair, and the changes from each frame to the next.

    :param pairs: the pairs to count, sorted.
    :param workers: number of processes.
    :return: by video, the counts of its frames, in the order of `pairs`, and those of its steps.
    :raises EvaluationError: if a file cannot be read, or masks do not match.
    """
    counts: dict[str, list[FrameCounts]] = {}
    steps: dict[str, list[StepCounts]] = {}
    tasks = list(zip(find_steps(pairs), pairs, strict=True))
    progress = tqdm(
        map_tasks(_count, tasks, workers), 'scoring', len(pairs), unit='frame', leave=False
    )
    for pair, (frame, step) in zip(pairs, progress, strict=True):
        counts.setdefault(pair.video, []).append(frame)
        if step is not None:
            steps.setdefault(pair.video, []).append(step)
    return counts, steps


_Task = tuple[Pair | None, Pair]


def _count(task: _Task) -> tuple[FrameCounts, StepCounts | None]:
    before, pair = task
    step = None if before is None else count_step_of(before, pair)
    return count_pair(pair), step


def map_tasks(count: Callable[[T], R], tasks: Sequence[T], workers: int) -> Iterator[R]:
    """
    Call a function with each task, in parallel processes.

    :param count: a function at module level, so that it can be pickled.
    :param tasks: the arguments of the calls.
    :param workers: number of processes; with 1, the calls run in this process.
    :return: the results in the order of the tasks.
    """
    if workers == 1:
        yield from map(count, tasks)
        return
    with worker_pool(min(workers, len(tasks))) as pool:
        with ignore_terminal_signals():
            counted = pool.map(count, tasks, chunksize=8)
        yield from counted
