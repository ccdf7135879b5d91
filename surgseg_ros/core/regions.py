# SPDX-License-Identifier: Apache-2.0
"""Small regions of a mask, which are more often mistakes than instruments."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.labels import BACKGROUND


def drop_small_regions(
    mask: NDArray[np.uint8], least_region: Sequence[float]
) -> NDArray[np.uint8]:
    """
    Turn regions that are smaller than their class allows into background.

    :param mask: (H, W) uint8 class index; not written to.
    :param least_region: per class, the least share of the image's area that an 8-connected
        region must have, as in ModelSpec; 0 keeps all.
    :return: (H, W) uint8.
    """
    kept = mask.copy()
    for label, least in enumerate(least_region):
        if label == BACKGROUND or least <= 0:
            continue
        selected = cv2.inRange(mask, label, label)
        _, regions, stats, _ = cv2.connectedComponentsWithStats(selected, connectivity=8)
        small = stats[:, cv2.CC_STAT_AREA] / mask.size < least
        small[0] = False  # what is not of the class
        if small.any():
            kept[small[regions]] = BACKGROUND
    return kept
