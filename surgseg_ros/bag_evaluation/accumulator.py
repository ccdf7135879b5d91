# SPDX-License-Identifier: Apache-2.0
"""What becomes of a bag's frames, gathered one by one."""

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from surgseg_ros.bag_evaluation.prefetch import WorkerPool
from surgseg_ros.bag_evaluation.scoring import Scorer
from surgseg_ros.bags.reading import BagError
from surgseg_ros.core.labels import NO_DECISION
from surgseg_ros.core.segmentation import GridConfidence
from surgseg_ros.evaluation.metrics import SCORED, FrameCounts

UNUSABLE: Final = 'ground truth'
"""Cause of the troubles of truths that could not be used."""

_UNKNOWN: Final = dict.fromkeys(
    (
        *('iou', 'nsd', 'truth', 'predicted', 'confidence', 'no_decision', 'instruments'),
        *('warnings', 'reason'),
    )
)


class FrameAccumulator:
    """
    Keeps a few hundred bytes of each frame.

    :param awaited: places of the images whose truth is in the bag.
    :param workers: score.
    """

    def __init__(self, awaited: set[int], workers: WorkerPool | None = None) -> None:
        """Start with no frame."""
        self.over_time: list[dict[str, Any]] = []
        self.troubles: dict[str, dict[str, Any]] = {}
        self.unusable = self.masks = 0
        self.damage: str | None = None
        self._scorer = Scorer(set(awaited), self._refuse, workers)
        self._pixels = hashlib.sha256()

    def add_frame(
        self, stamp_ns: int | None, received_ns: int, outcome: str, ms: Mapping[str, float]
    ) -> int:
        """
        Begin a frame, of which nothing else is known yet.

        :param stamp_ns: of the image; None where it has none.
        :param received_ns: when it was received.
        :param outcome: see `results`.
        :param ms: milliseconds by stage.
        :return: its place.
        """
        frame = {'stamp_ns': stamp_ns, 'received_ns': received_ns, **_UNKNOWN, 'fate': outcome}
        self.over_time.append({**frame, 'ms': dict(ms)})
        return len(self.over_time) - 1

    def record_mask(
        self,
        place: int,
        mask: NDArray[np.uint8],
        pixels: NDArray[np.int64],
        grid_confidence: GridConfidence | None = None,
    ) -> None:
        """
        Take a frame's mask.

        :param place: of the frame.
        :param mask: (H, W) uint8 class index or NO_DECISION.
        :param pixels: what `count_values` finds in it.
        :param grid_confidence: how sure the network is of it, where known.
        """
        self.masks += 1
        self._pixels.update(np.ascontiguousarray(mask).data)
        frame = self.over_time[place]
        frame['predicted'] = [label for label in SCORED if pixels[label]]
        frame['no_decision'] = int(pixels[NO_DECISION]) / mask.size
        frame['confidence'] = None if grid_confidence is None else grid_confidence.mean
        self._scorer.record_mask(place, mask)

    def record_no_mask(self, place: int) -> None:
        """
        Say that a frame has no mask, which scores 0 where it has a truth.

        :param place: of the frame.
        """
        self._scorer.record_mask(place, None)

    def record_truth(self, place: int, truth: NDArray[np.uint8]) -> None:
        """
        Take a frame's truth.

        :param place: of the frame, which may be to come.
        :param truth: (H, W) uint8 class index.
        """
        self._scorer.record_truth(place, truth)

    def record_unusable(self, place: int, text: str) -> None:
        """
        Say that a frame's truth is none.

        :param place: of the frame.
        :param text: why.
        """
        self._scorer.give_up(place)
        self.unusable += 1
        self.record_failure(UNUSABLE, text)

    def record_failure(self, cause: str, text: str) -> None:
        """
        Count what went wrong, by its cause.

        :param cause: a short name.
        :param text: for people; the first of its cause is kept.
        """
        trouble = self.troubles.setdefault(cause, {'cause': cause, 'count': 0, 'first': text})
        trouble['count'] += 1

    def count_outcomes(self, outcome: str) -> int:
        """
        Count frames.

        :param outcome: see `results`.
        :return: how many.
        """
        return sum(frame['fate'] == outcome for frame in self.over_time)

    def finish(self) -> list[FrameCounts]:
        """
        Write the scores into the frames that have any.

        :return: their counts, in order.
        """
        counts = dict(sorted(self._scorer.counts().items()))
        for place, count in counts.items():
            shown = np.flatnonzero(count.truth_px)
            self.over_time[place] |= {
                'iou': count.iou.tolist(),
                'nsd': count.nsd.tolist(),
                'truth': [SCORED[index] for index in shown],
            }
        return list(counts.values())

    def check_any(self, bag: Path, topic: str, outcomes: Collection[str]) -> None:
        """
        See that something was evaluated.

        :param bag: the bag.
        :param topic: of its images.
        :param outcomes: those of frames that were; see `results`.
        :raises BagError: if no frame has one of these; it counts the reasons.
        """
        found = Counter(frame['fate'] for frame in self.over_time)
        if any(found[outcome] for outcome in outcomes):
            return
        images = ', '.join(f'{count} {outcome}' for outcome, count in sorted(found.items()))
        reasons = [f'topic {topic!r} has {images or "no"} image{"s" * (found.total() != 1)}']
        reasons += [
            f'{trouble["cause"]}: {trouble["count"]} times, first: {trouble["first"]}'
            for trouble in self.troubles.values()
            if trouble['cause'] != UNUSABLE
        ]
        reasons += [self.damage] if self.damage else []
        raise BagError(f'nothing of bag {str(bag)!r} was evaluated: {"; ".join(reasons)}')

    @property
    def mask_sha256(self) -> str:
        """Hash of all masks in order."""
        return self._pixels.hexdigest()

    def _refuse(self, place: int, error: ValueError) -> None:
        """Where mask and truth do not fit together, it is the truth that is no use."""
        self.record_unusable(place, f'the truth of frame {place} (from 0): {error}')


def count_values(mask: NDArray[np.uint8]) -> NDArray[np.int64]:
    """
    Count the pixels of each value.

    :param mask: (H, W) uint8.
    :return: (256,).
    """
    return cv2.calcHist([mask], [0], None, [256], [0, 256]).ravel().astype(np.int64)
