# SPDX-License-Identifier: Apache-2.0
"""How sure a class must be to be said, found on frames with a known truth."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.labels import CLASS_COUNT, NO_DECISION
from surgseg_ros.evaluation.metrics import SCORED

CANDIDATES: Final = tuple(0.25 * step for step in range(17))
"""Margins to choose from, in logits."""

LARGEST_LOSS: Final = 0.015
"""Mean IoU over the frames that show the class, of which a margin may cost no more."""


class LeastMargins:
    """
    Gathers frames, then finds how far each class has to be ahead of the next best.

    Officially one stray pixel of an absent class costs as much as missing the class altogether,
    which no loss over pixels knows. Subtracting the margin from the class's logit, in the bias of
    the last layer, asks for the lead without any filter.
    """

    def __init__(self) -> None:
        """Start with no frame."""
        self._area: list[NDArray[np.int64]] = []
        self._shared: list[NDArray[np.int64]] = []
        self._truth: list[NDArray[np.int64]] = []

    def add(self, truth: NDArray[np.uint8], logits: NDArray[np.float32]) -> None:
        """
        Look at a frame.

        :param truth: (h, w) uint8 class index at the network's size; NO_DECISION does not count.
        :param logits: (C, h, w).
        """
        counted = truth != NO_DECISION
        label, wanted = logits.argmax(0)[counted], truth[counted]
        next_best, best = np.partition(logits[:, counted], -2, axis=0)[-2:]
        steps = np.searchsorted(CANDIDATES, best - next_best, 'right') - 1
        code = label * len(CANDIDATES) + steps
        shape = (CLASS_COUNT, len(CANDIDATES))
        tables = [
            np.bincount(which, minlength=shape[0] * shape[1]).reshape(shape)
            for which in (code, code[label == wanted])
        ]
        # Kept at a margin is what is at least that far ahead: sum from the other end.
        area, shared = (table[:, ::-1].cumsum(1)[:, ::-1] for table in tables)
        self._area.append(area)
        self._shared.append(shared)
        self._truth.append(np.bincount(wanted, minlength=CLASS_COUNT))

    def tune(self) -> tuple[float, ...]:
        """
        Choose.

        :return: per class, the margin with the best official IoU; 0 for the background.
        """
        area, shared, truth = (np.stack(part) for part in (self._area, self._shared, self._truth))
        union = area + truth[..., None] - shared
        iou = np.where(union > 0, shared / np.maximum(union, 1), 1.0)  # (frames, C, candidates)
        margins = [0.0] * CLASS_COUNT
        for label in SCORED:
            official = iou[:, label].mean(0)
            shown = iou[truth[:, label] > 0, label].sum(0) / max(1, (truth[:, label] > 0).sum())
            allowed = shown >= shown[0] - LARGEST_LOSS
            margins[label] = CANDIDATES[int(np.argmax(np.where(allowed, official, -1.0)))]
        return tuple(margins)
