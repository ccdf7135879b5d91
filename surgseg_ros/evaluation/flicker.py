# SPDX-License-Identifier: Apache-2.0
"""How much masks flicker: what becomes wrong from frame to frame though the truth stays."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.labels import CLASS_COUNT, CLASS_NAMES
from surgseg_ros.evaluation.pairs import Pair

Masks = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""(H, W) uint8 of a frame and of the next."""


class StepCounts(NamedTuple):
    """
    What the flicker from a frame to the next is made of; add nothing but these.

    :param still_px: (10,) pixels by class of the truth, which is the same in both frames.
    :param changed_px: (10,) those of them whose prediction changes to one that is wrong.
    """

    still_px: NDArray[np.int64]
    changed_px: NDArray[np.int64]


def count_step(truth: Masks, predicted: Masks) -> StepCounts:
    """
    Count from one frame to the next.

    What becomes wrong, or wrong in another way, where the truth stays. So what moves does not
    count, nor what is wrong and stays so; and what becomes right does not, or a mask that follows
    a tool a frame late would seem to flicker. What comes and goes counts each time that it comes.

    :param truth: of both frames.
    :param predicted: of both frames.
    :return: the counts.
    :raises ValueError: if the sizes differ.
    """
    sizes = {mask.shape for mask in (*truth, *predicted)}
    if len(sizes) > 1:
        raise ValueError(f'masks of neighbouring frames differ in size: {sorted(sizes)}')
    still = truth[0] == truth[1]
    changed = still & (predicted[0] != predicted[1]) & (predicted[1] != truth[1])
    counts = (np.bincount(truth[0][which], minlength=256) for which in (still, changed))
    return StepCounts(*(count[:CLASS_COUNT].astype(np.int64) for count in counts))


def find_steps(pairs: Sequence[Pair]) -> list[Pair | None]:
    """
    Find the frame before each: the one with the next lower name in the same video.

    :param pairs: sorted by video and frame.
    :return: for each, the one before, or None where there is none, or one has no prediction.
    """
    before: list[Pair | None] = [None]
    for last, pair in pairwise(pairs):
        complete = last.video == pair.video and None not in (last.predicted, pair.predicted)
        before.append(last if complete else None)
    return before[: len(pairs)]


def count_step_of(before: Pair, pair: Pair) -> StepCounts | None:
    """
    Read and count from one frame to the next.

    :param before: the first.
    :param pair: the second.
    :return: the counts; None where a prediction is missing, or the size is another.
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
    Divide what was counted, over all frames of all videos.

    :param videos: name to the counts of its steps.
    :return: `steps`, how many; and of the pixels whose truth stays, the share that becomes wrong:
        `share`, `instrument_share` (truth an instrument), `class_share` by name; None where there
        is no such pixel.
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
    Put it into words.

    :param flicker: as `summarize_steps` gives it.
    :return: a sentence; empty where there is nothing to tell.
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
