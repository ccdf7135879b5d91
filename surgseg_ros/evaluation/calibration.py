# SPDX-License-Identifier: Apache-2.0
"""Whether a confidence is a probability, and the temperature that makes it one."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.labels import BACKGROUND, NO_DECISION
from surgseg_ros.core.model_spec import TEMPERATURES
from surgseg_ros.core.segmentation import Segmentation

BINS: Final = 15
"""Of equal width, as in the paper; see Reliability."""

_SAMPLED_PX: Final = 4096
"""Of each frame, so many pixels are looked at: neighbours tell the same."""

_HALVINGS: Final = 40


class Reliability:
    """
    Counts how often pixels of each confidence are right, then divides.

    The expected calibration error is that of Guo, Pleiss, Sun, Weinberger, "On Calibration of
    Modern Neural Networks", ICML 2017: pixels are put into bins by the confidence of their
    class; it is the mean over all pixels of how far their bin's share of right pixels lies from
    its mean confidence.
    """

    def __init__(self) -> None:
        """Start with no frame."""
        # By what is said (background or not), by confidence: all pixels, and those that are right.
        self._counts = np.zeros((2, 256, 2), np.int64)

    def add(self, truth: NDArray[np.uint8], segmentation: Segmentation) -> None:
        """
        Look at a frame.

        :param truth: (H, W) uint8 class index; NO_DECISION does not count.
        :param segmentation: what was said, with confidence; NO_DECISION does not count.
        :raises ValueError: if the segmentation has no confidence.
        """
        mask, confidence = segmentation.mask, segmentation.confidence
        if confidence is None:
            raise ValueError('the segmentation has no confidence: segment with confidence=True')
        counted = (truth != NO_DECISION) & (mask != NO_DECISION)
        for place, said in enumerate((mask == BACKGROUND, mask != BACKGROUND)):
            of_kind = counted & said
            for column, which in enumerate((of_kind, of_kind & (mask == truth))):
                self._counts[place, :, column] += np.bincount(confidence[which], minlength=256)

    def summarize(self) -> dict[str, Any]:
        """
        Divide.

        :return: `ece`, over all pixels; `instrument_ece`, over those that are said to be of an
            instrument; None where there are none.
        """
        return {'ece': _ece(self._counts.sum(0)), 'instrument_ece': _ece(self._counts[1])}


def _ece(counts: NDArray[np.int64]) -> float | None:
    """Find the error of (256, 2) counts: pixels, and right ones, by confidence."""
    total, right = counts.T
    if not total.any():
        return None
    confidence = np.arange(256) / 255
    bins = np.minimum((confidence * BINS).astype(np.intp), BINS - 1)
    gaps = np.bincount(bins, right - total * confidence, BINS)
    return float(np.abs(gaps).sum() / total.sum())


class Temperature:
    """
    Gathers pixels of frames, then finds what to divide the logits by.

    As in the same paper: the temperature at which the truth is the most probable, which changes
    no class. The loss is convex in its inverse, so that its slope tells on which side to look.
    """

    def __init__(self) -> None:
        """Start with no frame."""
        self._logits: list[NDArray[np.float32]] = []
        self._truth: list[NDArray[np.uint8]] = []
        self._rng = np.random.default_rng(0)

    def add(self, truth: NDArray[np.uint8], logits: NDArray[np.float32]) -> None:
        """
        Look at a frame.

        :param truth: (h, w) uint8 class index at the network's size; NO_DECISION does not count.
        :param logits: (C, h, w).
        """
        counted = np.flatnonzero(truth != NO_DECISION)
        chosen = self._rng.choice(counted, min(_SAMPLED_PX, counted.size), replace=False)
        self._truth.append(truth.reshape(-1)[chosen])
        self._logits.append(logits.reshape(len(logits), -1)[:, chosen].T)

    def tune(self) -> float:
        """
        Choose.

        :return: the temperature, within TEMPERATURES; 1 if there is no pixel.
        """
        truth = np.concatenate([np.zeros(0, np.uint8), *self._truth])
        if not truth.size:
            return 1.0
        logits = np.concatenate(self._logits).astype(np.float64)  # (n, C)
        logits -= logits.max(1, keepdims=True)
        low, high = TEMPERATURES
        for _ in range(_HALVINGS):
            middle = float(np.sqrt(low * high))
            if _slope(logits, truth, 1 / middle) > 0:
                low = middle
            else:
                high = middle
        return round(high, 4)


def _slope(logits: NDArray[np.float64], truth: NDArray[np.uint8], inverse: float) -> float:
    """Differentiate the mean negative log-likelihood by the inverse of the temperature."""
    weights = np.exp(logits * inverse)
    expected = (weights * logits).sum(1) / weights.sum(1)
    return float((expected - logits[np.arange(truth.size), truth]).mean())
