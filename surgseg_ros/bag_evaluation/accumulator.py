# SPDX-License-Identifier: Apache-2.0
"""Collects the outcome and the scores of each frame of a bag."""

import hashlib
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from surgseg_ros.bag_evaluation.worker_pool import WorkerPool
from surgseg_ros.bags.reading import BagError
from surgseg_ros.core.labels import NO_DECISION
from surgseg_ros.evaluation.metrics import SCORED, FrameCounts, count_frame

Mask = NDArray[np.uint8]

_UNCOMPRESSED: Final = 8
"""Number of uncompressed masks that wait for their counterpart; older ones are compressed."""


class _Packed(NamedTuple):
    """A losslessly compressed mask, about a hundredth of the size, since its rows are similar."""

    data: bytes
    shape: tuple[int, ...]


class MaskBuffer:
    """Keeps masks until they are needed; compresses them to save memory."""

    def __init__(self) -> None:
        self._fresh: dict[int, Mask | None] = {}
        self._packed: dict[int, _Packed] = {}

    def put(self, index: int, mask: Mask | None) -> None:
        """
        Keep a mask.

        :param index: index of its image.
        :param mask: (H, W) uint8, or None, which is kept too.
        """
        # A copy, since the memory of an array that another process sent is to be used again.
        self._fresh[index] = None if mask is None else mask.copy()
        if len(self._fresh) > _UNCOMPRESSED:
            oldest = next(iter(self._fresh))
            if (kept := self._fresh[oldest]) is not None:
                self._packed[oldest] = _Packed(zlib.compress(kept.tobytes(), 1), kept.shape)
                del self._fresh[oldest]

    def holds(self, index: int) -> bool:
        """
        Return whether there is a mask.

        :param index: index of its image.
        :return: whether it was put and not yet taken.
        """
        return index in self._fresh or index in self._packed

    def take(self, index: int) -> Mask | None:
        """
        Return a mask, and remove it.

        :param index: index of its image.
        :return: the value that was put.
        """
        if index in self._fresh:
            return self._fresh.pop(index)
        packed = self._packed.pop(index)
        return np.frombuffer(zlib.decompress(packed.data), np.uint8).reshape(packed.shape)


class Scorer:
    """
    Counts the pixels of the frames that have a ground truth.

    :param awaited: indices of the images whose truth is in the bag.
    :param refuse: called with index and error if truth and prediction do not match.
    :param workers: processes that count.
    """

    def __init__(
        self,
        awaited: set[int],
        refuse: Callable[[int, ValueError], None],
        workers: WorkerPool | None = None,
    ) -> None:
        self._awaited = awaited
        self._refuse = refuse
        self._workers = workers or WorkerPool()
        self._masks, self._truths = MaskBuffer(), MaskBuffer()
        self._begun: dict[int, Callable[[], FrameCounts]] = {}
        self._counts: dict[int, FrameCounts] = {}

    def record_mask(self, index: int, mask: Mask | None) -> None:
        """
        Add a prediction.

        :param index: index of its image.
        :param mask: (H, W) uint8; None if there is none, which scores 0.
        """
        if index not in self._awaited:
            return
        if self._truths.holds(index):
            self._count(index, self._truths.take(index), mask)
        else:
            self._masks.put(index, mask)

    def record_truth(self, index: int, truth: Mask) -> None:
        """
        Add a ground truth.

        :param index: index of its image.
        :param truth: (H, W) uint8.
        """
        if self._masks.holds(index):
            self._count(index, truth, self._masks.take(index))
        else:
            self._truths.put(index, truth)

    def give_up(self, index: int) -> None:
        """
        Stop waiting for a truth.

        :param index: index of the image.
        """
        self._awaited.discard(index)
        if self._masks.holds(index):
            self._masks.take(index)

    def counts(self) -> dict[int, FrameCounts]:
        """
        Wait for pending counts.

        :return: mapping from index to counts, of all frames that were counted.
        """
        self._score_ready(0)
        return self._counts

    def _count(self, index: int, truth: Mask | None, mask: Mask | None) -> None:
        self._awaited.discard(index)
        if truth is not None:
            self._begun[index] = self._workers.begin(count_frame, truth, mask)
            self._score_ready(2 * self._workers.count)

    def _score_ready(self, maximum: int) -> None:
        """Collect counts in the order in which they started, until `maximum` are pending."""
        while len(self._begun) > maximum:
            index = next(iter(self._begun))
            found = self._begun.pop(index)
            try:
                self._counts[index] = found()
            except ValueError as error:
                self._refuse(index, error)


UNUSABLE: Final = 'ground truth'
"""Cause under which unusable truths are counted."""

_UNKNOWN: Final = dict.fromkeys(
    (
        *('iou', 'nsd', 'truth', 'predicted', 'confidence', 'no_decision', 'instruments'),
        *('tracks', 'opening_deg', 'shaft_width_px', 'needle_radius_px'),
        *('warnings', 'reason'),
    )
)


class FrameAccumulator:
    """
    Collects the outcome of each frame in a few hundred bytes.

    :param awaited: indices of the images whose truth is in the bag.
    :param workers: processes that score.
    """

    def __init__(self, awaited: set[int], workers: WorkerPool | None = None) -> None:
        self.over_time: list[dict[str, Any]] = []
        self.problems: dict[str, dict[str, Any]] = {}
        self.unusable = self.masks = 0
        self.damage: str | None = None
        self._scorer = Scorer(set(awaited), self._refuse, workers)
        self._pixels = hashlib.sha256()
        # A thread, in which it does not hold the GIL; a mask takes 1.2 ms.
        self._hashing = ThreadPoolExecutor(1, 'hash')
        self._hashed: Future[None] = self._hashing.submit(lambda: None)

    def add_frame(
        self, stamp_ns: int | None, received_ns: int, outcome: str, ms: Mapping[str, float]
    ) -> int:
        """
        Add a frame, whose mask and truth are recorded later.

        :param stamp_ns: stamp of the image; None if it has none.
        :param received_ns: when it was received.
        :param outcome: see `results`.
        :param ms: milliseconds by stage.
        :return: its index.
        """
        frame = {'stamp_ns': stamp_ns, 'received_ns': received_ns, **_UNKNOWN, 'fate': outcome}
        self.over_time.append({**frame, 'ms': dict(ms)})
        return len(self.over_time) - 1

    def record_mask(
        self,
        index: int,
        mask: NDArray[np.uint8],
        pixels: NDArray[np.int64],
        confidence: float | None = None,
    ) -> None:
        """
        Record a frame's mask.

        :param index: index of the frame.
        :param mask: (H, W) uint8 class index or NO_DECISION.
        :param pixels: the result of `count_values` for it.
        :param confidence: its mean confidence on the network's grid, if known.
        """
        self.masks += 1
        self._hashed.result()
        self._hashed = self._hashing.submit(self._pixels.update, np.ascontiguousarray(mask).data)
        frame = self.over_time[index]
        frame['predicted'] = [label for label in SCORED if pixels[label]]
        frame['no_decision'] = int(pixels[NO_DECISION]) / mask.size
        frame['confidence'] = confidence
        self._scorer.record_mask(index, mask)

    def record_no_mask(self, index: int) -> None:
        """
        Record that a frame has no mask, which scores 0 if it has a truth.

        :param index: index of the frame.
        """
        self._scorer.record_mask(index, None)

    def record_truth(self, index: int, truth: NDArray[np.uint8]) -> None:
        """
        Record a frame's ground truth.

        :param index: index of the frame, which may come later.
        :param truth: (H, W) uint8 class index.
        """
        self._scorer.record_truth(index, truth)

    def record_unusable(self, index: int, text: str) -> None:
        """
        Record that a frame's truth is unusable.

        :param index: index of the frame.
        :param text: the reason.
        """
        self._scorer.give_up(index)
        self.unusable += 1
        self.record_failure(UNUSABLE, text)

    def record_failure(self, cause: str, text: str) -> None:
        """
        Count a problem by its cause.

        :param cause: a short name.
        :param text: a description; the first of each cause is kept.
        """
        problem = self.problems.setdefault(cause, {'cause': cause, 'count': 0, 'first': text})
        problem['count'] += 1

    def count_outcomes(self, outcome: str) -> int:
        """
        Count frames.

        :param outcome: see `results`.
        :return: the number of frames.
        """
        return sum(frame['fate'] == outcome for frame in self.over_time)

    def finish(self) -> list[FrameCounts]:
        """
        Store the scores in the frames that have them; no mask can be recorded afterwards.

        :return: the counts of these frames, in order.
        """
        self._hashing.shutdown()
        counts = dict(sorted(self._scorer.counts().items()))
        for index, count in counts.items():
            shown = np.flatnonzero(count.truth_px)
            self.over_time[index] |= {
                'iou': count.iou.tolist(),
                'nsd': count.nsd.tolist(),
                'truth': [SCORED[column] for column in shown],
            }
        return list(counts.values())

    def check_any(self, bag: Path, topic: str, outcomes: Collection[str]) -> None:
        """
        Check that at least one frame was evaluated.

        :param bag: the bag.
        :param topic: topic of its images.
        :param outcomes: outcomes that count as evaluated; see `results`.
        :raises BagError: if no frame has one of these; the message lists the reasons and their
            counts.
        """
        found = Counter(frame['fate'] for frame in self.over_time)
        if any(found[outcome] for outcome in outcomes):
            return
        images = ', '.join(f'{count} {outcome}' for outcome, count in sorted(found.items()))
        reasons = [f'topic {topic!r} has {images or "no"} image{"s" * (found.total() != 1)}']
        reasons += [
            f'{problem["cause"]}: {problem["count"]} times, first: {problem["first"]}'
            for problem in self.problems.values()
            if problem['cause'] != UNUSABLE
        ]
        reasons += [self.damage] if self.damage else []
        raise BagError(f'bag {str(bag)!r} was not evaluated: {"; ".join(reasons)}')

    @property
    def mask_sha256(self) -> str:
        """Hash of all masks, in order."""
        self._hashed.result()
        return self._pixels.hexdigest()

    def _refuse(self, index: int, error: ValueError) -> None:
        """Record a truth that does not match its mask as unusable."""
        self.record_unusable(index, f'the truth of frame {index} (from 0): {error}')


def count_values(mask: NDArray[np.uint8]) -> NDArray[np.int64]:
    """
    Count the pixels of each value.

    :param mask: (H, W) uint8.
    :return: (256,) number of pixels of each value.
    """
    return cv2.calcHist([mask], [0], None, [256], [0, 256]).ravel().astype(np.int64)
