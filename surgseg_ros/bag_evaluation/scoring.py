# SPDX-License-Identifier: Apache-2.0
"""Brings masks and their truths together, whichever comes first, and counts each pair."""

import zlib
from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.bag_evaluation.prefetch import WorkerPool
from surgseg_ros.evaluation.metrics import FrameCounts, count_frame

Mask = NDArray[np.uint8]

_KEPT_AS_THEY_ARE: Final = 8
"""So many masks wait as they are for the other half; of more, the oldest are compressed."""


class _Packed(NamedTuple):
    """A mask compressed to a hundredth or so, since its rows are much alike."""

    data: bytes
    shape: tuple[int, ...]


class MaskBuffer:
    """Keeps masks until they are asked for; a truth that comes an hour later costs little."""

    def __init__(self) -> None:
        """Start empty."""
        self._fresh: dict[int, Mask | None] = {}
        self._packed: dict[int, _Packed] = {}

    def put(self, place: int, mask: Mask | None) -> None:
        """
        Keep a mask.

        :param place: of its image.
        :param mask: (H, W) uint8, or None, which is kept too.
        """
        self._fresh[place] = mask
        if len(self._fresh) > _KEPT_AS_THEY_ARE:
            oldest = next(iter(self._fresh))
            if (kept := self._fresh[oldest]) is not None:
                self._packed[oldest] = _Packed(zlib.compress(kept.tobytes(), 1), kept.shape)
                del self._fresh[oldest]

    def holds(self, place: int) -> bool:
        """
        Tell whether there is a mask.

        :param place: of its image.
        :return: whether it was put and not taken.
        """
        return place in self._fresh or place in self._packed

    def take(self, place: int) -> Mask | None:
        """
        Give a mask back.

        :param place: of its image.
        :return: what was put.
        """
        if place in self._fresh:
            return self._fresh.pop(place)
        packed = self._packed.pop(place)
        return np.frombuffer(zlib.decompress(packed.data), np.uint8).reshape(packed.shape)


class Scorer:
    """
    Counts the frames that have a truth.

    :param awaited: places of the images whose truth is in the bag.
    :param refuse: told of a place whose truth and prediction do not fit together, and why.
    :param workers: count.
    """

    def __init__(
        self,
        awaited: set[int],
        refuse: Callable[[int, ValueError], None],
        workers: WorkerPool | None = None,
    ) -> None:
        """Keep what is awaited; nothing is counted yet."""
        self._awaited = awaited
        self._refuse = refuse
        self._workers = workers or WorkerPool()
        self._masks, self._truths = MaskBuffer(), MaskBuffer()
        self._begun: dict[int, Callable[[], FrameCounts]] = {}
        self._counts: dict[int, FrameCounts] = {}

    def record_mask(self, place: int, mask: Mask | None) -> None:
        """
        Take a prediction.

        :param place: of its image.
        :param mask: (H, W) uint8; None where there is none, which scores 0.
        """
        if place not in self._awaited:
            return
        if self._truths.holds(place):
            self._count(place, self._truths.take(place), mask)
        else:
            self._masks.put(place, mask)

    def record_truth(self, place: int, truth: Mask) -> None:
        """
        Take a truth.

        :param place: of its image.
        :param truth: (H, W) uint8.
        """
        if self._masks.holds(place):
            self._count(place, truth, self._masks.take(place))
        else:
            self._truths.put(place, truth)

    def give_up(self, place: int) -> None:
        """
        Expect no truth any more.

        :param place: of the image.
        """
        self._awaited.discard(place)
        if self._masks.holds(place):
            self._masks.take(place)

    def counts(self) -> dict[int, FrameCounts]:
        """
        Wait for what is still being counted.

        :return: place to counts, of all that were counted.
        """
        self._score_ready(0)
        return self._counts

    def _count(self, place: int, truth: Mask | None, mask: Mask | None) -> None:
        self._awaited.discard(place)
        if truth is not None:
            self._begun[place] = self._workers.begin(count_frame, truth, mask)
            self._score_ready(2 * self._workers.count)

    def _score_ready(self, most: int) -> None:
        """Take the counts in the order of their beginning, until so many are left at most."""
        while len(self._begun) > most:
            place = next(iter(self._begun))
            found = self._begun.pop(place)
            try:
                self._counts[place] = found()
            except ValueError as error:
                self._refuse(place, error)
