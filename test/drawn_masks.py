# SPDX-License-Identifier: Apache-2.0
"""Masks of instruments, drawn from straight bars."""

import cv2
import numpy as np

from surgseg_ros.core.detections import find_instruments
from surgseg_ros.core.labels import CLASPER, ROBOTIC_TOOL, SHAFT, WRIST
from surgseg_ros.core.segmentation import Segmentation

SIZE = (270, 480)


def empty():
    return np.zeros(SIZE, np.uint8)


def find(mask, least_area=0.0, confidence=204):
    whole = np.full(mask.shape, confidence, np.uint8)
    return find_instruments(Segmentation(mask, whole), least_area)


def tools_of(mask):
    """Find the robotic tools of a mask."""
    return [i for i in find(mask) if i.label == ROBOTIC_TOOL]


def bar(mask, start, stop, width, label):
    """Draw a straight bar with square ends."""
    away = np.subtract(stop, start)
    across = np.array([-away[1], away[0]]) / np.hypot(*away) * width / 2
    corners = [start + across, stop + across, stop - across, start - across]
    cv2.fillPoly(mask, [np.rint(corners).astype(np.int32)], label)
    return mask


def tool(mask, start, tip, width=30):
    """Draw a shaft from the border, a wrist and a clasper: 0.6, 0.2 and 0.2 of the length."""
    start, tip = np.array(start, float), np.array(tip, float)
    joints = [start + share * (tip - start) for share in (0, 0.6, 0.8, 1)]
    for label, first, last in zip((SHAFT, WRIST, CLASPER), joints, joints[1:]):
        bar(mask, first, last, width if label == SHAFT else 0.7 * width, label)
    return mask
