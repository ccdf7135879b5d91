# SPDX-License-Identifier: Apache-2.0
"""Postprocessing of masks: confidence threshold, temporal filter, minimum regions."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.detections import (
    DEFAULT_LEAST_AREA,
    Instrument,
    find_instruments,
    without_decision,
)
from surgseg_ros.core.known_tools import KnownTools
from surgseg_ros.core.labels import BACKGROUND, NO_DECISION
from surgseg_ros.core.reasons import ReasonCode, ResultWarning
from surgseg_ros.core.robotic_tools import ToolGrouping
from surgseg_ros.core.segmentation import Segmentation
from surgseg_ros.core.timing import Stopwatch


def apply_confidence_threshold(segmentation: Segmentation, min_confidence: float) -> Segmentation:
    """
    Set pixels with a low confidence to NO_DECISION.

    :param segmentation: with confidence; not modified.
    :param min_confidence: the minimum probability of the chosen class, 0..1; 0 keeps all.
    :return: a copy with another mask; the segmentation itself if `min_confidence` is 0.
    :raises ValueError: if the segmentation has no confidence, or the minimum is not in 0..1.
    """
    if not 0 <= min_confidence <= 1:
        raise ValueError(f'min_confidence is {min_confidence!r}, expected 0 to 1')
    if min_confidence == 0:
        return segmentation
    if segmentation.confidence is None:
        raise ValueError('the segmentation has no confidence: segment with confidence=True')
    # Confidence is rounded to 255ths; a value that may round to the minimum is kept.
    minimum = math.floor(255 * min_confidence)
    _, below_threshold = cv2.threshold(
        segmentation.confidence, minimum - 1, NO_DECISION, cv2.THRESH_BINARY_INV
    )
    mask = np.asarray(cv2.max(segmentation.mask, below_threshold), np.uint8)
    return dataclasses.replace(segmentation, mask=mask)


def instruments_in(
    segmentation: Segmentation,
    least_area: float = DEFAULT_LEAST_AREA,
    watch: Stopwatch | None = None,
    min_score: float = 0.0,
    known: KnownTools | None = None,
    grouping: ToolGrouping | None = None,
) -> tuple[Instrument, ...]:
    """
    Find the instruments, or report no decision if no pixel is decided.

    :param segmentation: with grid confidence or confidence.
    :param least_area: see find_instruments.
    :param watch: see find_instruments.
    :param min_score: see find_instruments.
    :param known: see find_instruments.
    :param grouping: see find_instruments.
    :return: as `find_instruments`; as `without_decision` if the whole mask is NO_DECISION, since
        an empty list would mean no instruments.
    :raises ValueError: if the segmentation has neither.
    """
    if segmentation.mask.min() == NO_DECISION:
        height, width = segmentation.mask.shape
        return without_decision((height, width))
    return find_instruments(segmentation, least_area, watch, min_score, known, grouping)


LARGEST_FRAMES: Final = 60

Plane = NDArray[np.uint8]
"""(H, W)."""

CUT: Final = 0.25
"""
Difference of two coarse images, relative to their brightness, above which they show different
views. In synthetic scenes it is at most 0.06 between consecutive images at 10 Hz, and above this
limit in 97 of 100 pairs of different scenes. A missed cut costs `frames` images of delay.
"""

_BAND_ROWS: Final = 54
_COARSE: Final = (32, 18)


class CutDetector:
    """Detects cuts: images that show another view than the previous one; not thread-safe."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the previous image."""
        self._coarse: NDArray[np.float32] | None = None

    def is_cut(self, image: NDArray[np.uint8]) -> bool:
        """
        Compare the next image with the previous one.

        :param image: (H, W, 3) uint8 RGB; not kept.
        :return: whether it shows another view, or is the first image.
        """
        before, self._coarse = self._coarse, _coarse(image)
        return before is None or _difference(self._coarse, before) > CUT


class Filtered(NamedTuple):
    """
    The segmentation of an image, with and without temporal filter.

    :param filtered: the segmentation that does not flicker. Where it keeps an earlier class, the
        confidence is the largest that this class can have, given that of the network's class.
    :param raw: the segmentation of the network.
    :param began: why earlier images were not used: `first`, `size`, `stamp`, `cut`; else empty.
    """

    filtered: Segmentation
    raw: Segmentation
    began: str


class TemporalFilter:
    """
    Keeps the class of each pixel until another class persists; not thread-safe.

    The state consists of three planes of the image's size.

    :param frames: number of consecutive images that must show the same new class before a pixel
        changes, 2 to LARGEST_FRAMES.
    :param threshold: confidence with which a single image changes a pixel; above 1: never.
    :param longest_gap_ns: after a longer gap between two stamps, the filter starts again.
    """

    def __init__(
        self, frames: int, threshold: float = 0.95, longest_gap_ns: int = 500_000_000
    ) -> None:
        """
        Check the settings.

        :raises ValueError: if one of them is out of range.
        """
        if not 2 <= frames <= LARGEST_FRAMES:
            raise ValueError(f'frames is {frames!r}, expected 2 to {LARGEST_FRAMES}')
        if not threshold > 0:
            raise ValueError(f'threshold is {threshold!r}, expected more than 0')
        if not longest_gap_ns > 0:
            raise ValueError(f'longest_gap_ns is {longest_gap_ns!r}, expected more than 0')
        self._frames = frames
        self._threshold = min(256, math.ceil(255 * threshold))
        self._longest_gap_ns = longest_gap_ns
        self.reset()

    def reset(self) -> None:
        """Forget earlier images, because another camera, model or video starts."""
        self._output = np.zeros((0, 0), np.uint8)
        self._candidate = self._output
        self._count = self._output
        self._stamp_ns: int | None = None
        self._cuts = CutDetector()

    def apply(
        self, image: NDArray[np.uint8], segmentation: Segmentation, stamp_ns: int
    ) -> Filtered:
        """
        Filter the mask of the next image.

        :param image: (H, W, 3) uint8 RGB, used to detect cuts; not kept.
        :param segmentation: its segmentation, with confidence; not modified.
        :param stamp_ns: stamp of the camera.
        :return: the filtered segmentation and the raw one.
        :raises ValueError: if the segmentation has no confidence.
        """
        confidence = segmentation.confidence
        if confidence is None:
            raise ValueError('the segmentation has no confidence: segment with confidence=True')
        began = self._begins(segmentation.mask, stamp_ns, self._cuts.is_cut(image))
        self._stamp_ns = stamp_ns
        if began:
            self._output = segmentation.mask.copy()
            self._candidate = self._output.copy()
            self._count = np.zeros_like(self._output)
            return Filtered(segmentation, segmentation, began)
        filtered = self._update(segmentation.mask, confidence)
        return Filtered(
            # The network's grid confidence is not valid for the classes that are kept.
            dataclasses.replace(
                segmentation, mask=self._output.copy(), confidence=filtered, grid_confidence=None
            ),
            segmentation,
            '',
        )

    def _begins(self, mask: NDArray[np.uint8], stamp_ns: int, is_cut: bool) -> str:
        """Return why the filter restarts with this image; empty if it does not."""
        if self._stamp_ns is None:
            return 'first'
        if mask.shape != self._output.shape:
            return 'size'
        if not 0 <= stamp_ns - self._stamp_ns <= self._longest_gap_ns:
            return 'stamp'
        return 'cut' if is_cut else ''

    def _update(self, raw: Plane, confidence: Plane) -> Plane:
        """
        Update the planes, in bands of rows that fit into the cache.

        :return: (H, W) uint8, the confidence of the filtered mask.
        """
        filtered = np.empty_like(confidence)
        for top in range(0, len(raw), _BAND_ROWS):
            band = np.s_[top : top + _BAND_ROWS]
            planes = (plane[band] for plane in (self._output, self._candidate, self._count))
            filtered[band] = self._update_band(raw[band], confidence[band], *planes)
        return filtered

    def _update_band(
        self, raw: Plane, confidence: Plane, output: Plane, candidate: Plane, count: Plane
    ) -> Plane:
        """Update the last three arguments, and return the confidence; all work on bytes."""
        other = _plane(cv2.compare(raw, output, cv2.CMP_NE))
        # Counted from 1 for a new class, and only if it differs from the class that is shown.
        count &= _plane(cv2.compare(raw, candidate, cv2.CMP_EQ))
        count += 1
        count &= other
        candidate[:] = raw
        # NO_DECISION takes effect at once; only another class has to persist.
        changes = _reaches(count, self._frames)
        changes |= _reaches(confidence, self._threshold)
        changes |= _reaches(raw, NO_DECISION)
        output ^= (output ^ raw) & changes
        kept = other & ~changes
        # A kept class has at most 1 - p of the chosen one, and not more than p.
        maximum = cv2.min(confidence, cv2.bitwise_not(confidence))
        return _plane(cv2.min(confidence, cv2.max(maximum, ~kept)))


def _plane(array: NDArray[Any]) -> Plane:
    return np.asarray(array, np.uint8)


def _reaches(plane: NDArray[np.uint8], minimum: int) -> NDArray[np.uint8]:
    """Return 255 where a plane is at least `minimum`, else 0."""
    return np.asarray(cv2.threshold(plane, minimum - 1, 255, cv2.THRESH_BINARY)[1], np.uint8)


def _coarse(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    sparse = np.ascontiguousarray(image[:: max(1, image.shape[0] // (2 * _COARSE[1]))])
    return cv2.resize(sparse, _COARSE, interpolation=cv2.INTER_AREA).astype(np.float32)


def _difference(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Return the difference of two images relative to their brightness, 0..1."""
    total = float(np.maximum(first, second).sum())
    return float(np.abs(first - second).sum()) / total if total else 0.0


def drop_small_regions(
    mask: NDArray[np.uint8], least_region: Sequence[float]
) -> NDArray[np.uint8]:
    """
    Replace regions below the minimum area of their class by background.

    :param mask: (H, W) uint8 class index; not modified.
    :param least_region: per class, the minimum area of an 8-connected component as a share of the
        image's area, as in ModelSpec; 0 keeps all.
    :return: (H, W) uint8.
    """
    kept = mask.copy()
    for label, minimum in enumerate(least_region):
        if label == BACKGROUND or minimum <= 0:
            continue
        selected = cv2.inRange(mask, label, label)
        _, regions, stats, _ = cv2.connectedComponentsWithStats(selected, connectivity=8)
        small = stats[:, cv2.CC_STAT_AREA] / mask.size < minimum
        small[0] = False  # the pixels of other classes
        if small.any():
            kept[small[regions]] = BACKGROUND
    return kept


def apply_thresholds(
    segmentation: Segmentation, min_confidence: float, least_region: Sequence[float]
) -> tuple[Segmentation, tuple[ResultWarning, ...]]:
    """
    Apply the steps that do not need earlier images.

    :param segmentation: with confidence if there is a minimum; not modified.
    :param min_confidence: see apply_confidence_threshold.
    :param least_region: see drop_small_regions; empty: all are kept.
    :return: the segmentation; a warning if no pixel reaches the minimum.
    :raises ValueError: see apply_confidence_threshold.
    """
    warnings: tuple[ResultWarning, ...] = ()
    segmentation = apply_confidence_threshold(segmentation, min_confidence)
    if min_confidence and segmentation.mask.min() == NO_DECISION:
        text = f'no pixel has a confidence of {min_confidence:g}'
        warnings = (ResultWarning(ReasonCode.LOW_CONFIDENCE, text),)
    if least_region:
        mask = drop_small_regions(segmentation.mask, least_region)
        segmentation = dataclasses.replace(segmentation, mask=mask)
    return segmentation, warnings
