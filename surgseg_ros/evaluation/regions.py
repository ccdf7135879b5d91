# SPDX-License-Identifier: Apache-2.0
"""The least region size per class that scores best, found on frames with a known truth."""

from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.labels import CLASS_COUNT
from surgseg_ros.evaluation.metrics import SCORED

CANDIDATES: Final = (0.0, *np.geomspace(1e-5, 3e-2, 40).round(7).tolist())
"""Shares of the image's area to choose from; the smallest of equals is taken."""


class _Regions(NamedTuple):
    """One class in one frame: its connected regions, and the truth."""

    shares: NDArray[np.float64]
    area_px: NDArray[np.int64]
    shared_px: NDArray[np.int64]
    truth_px: int

    def iou(self, least: float) -> float:
        """Find the official IoU if smaller regions were background."""
        kept = self.shares >= least
        shared = int(self.shared_px[kept].sum())
        union = self.truth_px + int(self.area_px[kept].sum()) - shared
        return shared / union if union else 1.0


class LeastRegions:
    """Gathers the regions of frames, then finds the least size per class with the best IoU."""

    def __init__(self) -> None:
        """Start with no frame."""
        self._tables: dict[int, list[_Regions]] = {label: [] for label in SCORED}

    def add(self, truth: NDArray[np.uint8], predicted: NDArray[np.uint8]) -> None:
        """
        Look at a frame.

        :param truth: (H, W) uint8 class index.
        :param predicted: (H, W) uint8 class index, not filtered.
        """
        for label, table in self._tables.items():
            table.append(_find_regions(truth, predicted, label))

    def tune(self) -> tuple[float, ...]:
        """
        Choose.

        :return: per class, the least share of the image's area, as in ModelSpec.
        """
        least = [0.0] * CLASS_COUNT
        for label, table in self._tables.items():
            scores = [sum(regions.iou(share) for regions in table) for share in CANDIDATES]
            least[label] = CANDIDATES[int(np.argmax(scores))]
        return tuple(least)


def _find_regions(truth: NDArray[np.uint8], predicted: NDArray[np.uint8], label: int) -> _Regions:
    selected = cv2.inRange(predicted, label, label)
    count, regions, stats, _ = cv2.connectedComponentsWithStats(selected, connectivity=8)
    hit = regions[truth == label]
    shared = np.bincount(hit, minlength=count)[1:]
    area = stats[1:, cv2.CC_STAT_AREA].astype(np.int64)
    return _Regions(area / truth.size, area, shared, hit.size)
