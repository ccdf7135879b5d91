# SPDX-License-Identifier: Apache-2.0
"""Fits values on validation frames: temperature, margins, minimum regions."""

from typing import Any, Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.labels import BACKGROUND, CLASS_COUNT, NO_DECISION
from surgseg_ros.core.model_folder import TEMPERATURES
from surgseg_ros.core.segmentation import Segmentation
from surgseg_ros.evaluation.metrics import SCORED

BINS: Final = 15
"""Number of confidence bins, of equal width as in the paper; see Reliability."""

_SAMPLED_PX: Final = 4096
"""Number of pixels sampled from each frame, since neighbouring pixels are redundant."""

_HALVINGS: Final = 40


class Reliability:
    """
    Measures the calibration: the accuracy of pixels by their confidence.

    The expected calibration error is that of Guo, Pleiss, Sun, Weinberger, "On Calibration of
    Modern Neural Networks", ICML 2017: pixels are put into bins by the confidence of their
    class; the error is the mean, over all pixels, of the difference between the accuracy in
    their bin and its mean confidence.
    """

    def __init__(self) -> None:
        # By prediction (background or not) and confidence: all pixels, and correct pixels.
        self._counts = np.zeros((2, 256, 2), np.int64)

    def add(self, truth: NDArray[np.uint8], segmentation: Segmentation) -> None:
        """
        Add a frame.

        :param truth: (H, W) uint8 class index; NO_DECISION is ignored.
        :param segmentation: the prediction, with confidence; NO_DECISION is ignored.
        :raises ValueError: if the segmentation has no confidence.
        """
        mask, confidence = segmentation.mask, segmentation.confidence
        if confidence is None:
            raise ValueError('the segmentation has no confidence: segment with confidence=True')
        counted = (truth != NO_DECISION) & (mask != NO_DECISION)
        for row, is_kind in enumerate((mask == BACKGROUND, mask != BACKGROUND)):
            of_kind = counted & is_kind
            for column, which in enumerate((of_kind, of_kind & (mask == truth))):
                self._counts[row, :, column] += np.bincount(confidence[which], minlength=256)

    def summarize(self) -> dict[str, Any]:
        """
        Compute the errors.

        :return: `ece`, over all pixels; `instrument_ece`, over those predicted as an instrument;
            None if there are none.
        """
        return {'ece': _ece(self._counts.sum(0)), 'instrument_ece': _ece(self._counts[1])}


def _ece(counts: NDArray[np.int64]) -> float | None:
    """Compute the error from (256, 2) counts by confidence: all pixels, and correct pixels."""
    total, right = counts.T
    if not total.any():
        return None
    confidence = np.arange(256) / 255
    bins = np.minimum((confidence * BINS).astype(np.intp), BINS - 1)
    gaps = np.bincount(bins, right - total * confidence, BINS)
    return float(np.abs(gaps).sum() / total.sum())


class Temperature:
    """
    Collects pixels of frames, then fits the temperature: the divisor of the logits.

    As in the same paper, it maximizes the likelihood of the ground truth, and changes no class.
    The loss is convex in the inverse temperature, so the sign of its slope gives the search
    direction.
    """

    def __init__(self) -> None:
        self._logits: list[NDArray[np.float32]] = []
        self._truth: list[NDArray[np.uint8]] = []
        self._rng = np.random.default_rng(0)

    def add(self, truth: NDArray[np.uint8], logits: NDArray[np.float32]) -> None:
        """
        Add a frame.

        :param truth: (h, w) uint8 class index at the network's size; NO_DECISION is ignored.
        :param logits: (C, h, w).
        """
        counted = np.flatnonzero(truth != NO_DECISION)
        chosen = self._rng.choice(counted, min(_SAMPLED_PX, counted.size), replace=False)
        self._truth.append(truth.reshape(-1)[chosen])
        self._logits.append(logits.reshape(len(logits), -1)[:, chosen].T)

    def tune(self) -> float:
        """
        Fit the temperature.

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
    """Differentiate the mean negative log-likelihood with respect to the inverse temperature."""
    weights = np.exp(logits * inverse)
    expected = (weights * logits).sum(1) / weights.sum(1)
    return float((expected - logits[np.arange(truth.size), truth]).mean())


MARGINS: Final = tuple(0.25 * step for step in range(17))
"""Candidate margins, in logits."""

LARGEST_LOSS: Final = 0.015
"""Largest decrease that a margin may cause in the mean IoU over frames with the class."""


class MinimumMargins:
    """
    Collects frames, then selects for each class the margin that it must have over the next best.

    In the official metric, one wrong pixel of an absent class costs as much as missing the class
    entirely, which no pixel-wise loss expresses. The margin is subtracted from the logit of the
    class, in the bias of the last layer, so that no filter is necessary.
    """

    def __init__(self) -> None:
        self._area: list[NDArray[np.int64]] = []
        self._shared: list[NDArray[np.int64]] = []
        self._truth: list[NDArray[np.int64]] = []

    def add(self, truth: NDArray[np.uint8], logits: NDArray[np.float32]) -> None:
        """
        Add a frame.

        :param truth: (h, w) uint8 class index at the network's size; NO_DECISION is ignored.
        :param logits: (C, h, w).
        """
        counted = truth != NO_DECISION
        label, wanted = logits.argmax(0)[counted], truth[counted]
        next_best, best = np.partition(logits[:, counted], -2, axis=0)[-2:]
        steps = np.searchsorted(MARGINS, best - next_best, 'right') - 1
        code = label * len(MARGINS) + steps
        shape = (CLASS_COUNT, len(MARGINS))
        tables = [
            np.bincount(which, minlength=shape[0] * shape[1]).reshape(shape)
            for which in (code, code[label == wanted])
        ]
        # A margin keeps the pixels whose lead is at least as large: cumulative sum from the other
        # end.
        area, shared = (table[:, ::-1].cumsum(1)[:, ::-1] for table in tables)
        self._area.append(area)
        self._shared.append(shared)
        self._truth.append(np.bincount(wanted, minlength=CLASS_COUNT))

    def tune(self) -> tuple[float, ...]:
        """
        Select the margins.

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
            margins[label] = MARGINS[int(np.argmax(np.where(allowed, official, -1.0)))]
        return tuple(margins)


SHARES: Final = (0.0, *np.geomspace(1e-5, 3e-2, 40).round(7).tolist())
"""Candidate shares of the image's area; of equally good candidates, the smallest is chosen."""


class _Regions(NamedTuple):
    """The connected components of a class in a frame, and the ground truth."""

    shares: NDArray[np.float64]
    area_px: NDArray[np.int64]
    shared_px: NDArray[np.int64]
    truth_px: int

    def iou(self, minimum: float) -> float:
        """Compute the official IoU with components below a minimum area as background."""
        kept = self.shares >= minimum
        shared = int(self.shared_px[kept].sum())
        union = self.truth_px + int(self.area_px[kept].sum()) - shared
        return shared / union if union else 1.0


class MinimumRegions:
    """Collects components of frames, then selects the minimum area per class with the best IoU."""

    def __init__(self) -> None:
        self._tables: dict[int, list[_Regions]] = {label: [] for label in SCORED}

    def add(self, truth: NDArray[np.uint8], predicted: NDArray[np.uint8]) -> None:
        """
        Add a frame.

        :param truth: (H, W) uint8 class index.
        :param predicted: (H, W) uint8 class index, not filtered.
        """
        for label, table in self._tables.items():
            table.append(_find_regions(truth, predicted, label))

    def tune(self) -> tuple[float, ...]:
        """
        Select the minimum areas.

        :return: per class, the minimum share of the image's area, as in ModelSpec.
        """
        minimum = [0.0] * CLASS_COUNT
        for label, table in self._tables.items():
            scores = [sum(regions.iou(share) for regions in table) for share in SHARES]
            minimum[label] = SHARES[int(np.argmax(scores))]
        return tuple(minimum)


def _find_regions(truth: NDArray[np.uint8], predicted: NDArray[np.uint8], label: int) -> _Regions:
    selected = cv2.inRange(predicted, label, label)
    count, regions, stats, _ = cv2.connectedComponentsWithStats(selected, connectivity=8)
    hit = regions[truth == label]
    shared = np.bincount(hit, minlength=count)[1:]
    area = stats[1:, cv2.CC_STAT_AREA].astype(np.int64)
    return _Regions(area / truth.size, area, shared, hit.size)
