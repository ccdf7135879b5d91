# SPDX-License-Identifier: Apache-2.0
"""Instruments in a mask: one robotic tool per touching parts, else one per connected region."""

import math
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.labels import (
    BACKGROUND,
    NO_DECISION,
    ROBOTIC_TOOL,
    ROBOTIC_TOOL_PARTS,
)
from surgseg_ros.core.segmenter import Segmentation

DEFAULT_LEAST_AREA: Final = 2e-4
"""Least area of an instrument as a share of the picture's: 415 pixels of 1920x1080."""


@dataclass(frozen=True)
class OrientedBox:
    """
    The smallest rectangle around a region, in the picture's pixels.

    Pixel centres have whole coordinates, x to the right and y down; the box holds whole pixels.

    :param center_x_px: centre.
    :param center_y_px: centre.
    :param size_x_px: length of the side along the angle; the longer one.
    :param size_y_px: length of the other side.
    :param angle_rad: from the x axis to the longer side, clockwise as seen, in (-pi/2, pi/2].
    """

    center_x_px: float
    center_y_px: float
    size_x_px: float
    size_y_px: float
    angle_rad: float


@dataclass(frozen=True)
class Instrument:
    """
    One instrument of a picture.

    :param label: a key of surgseg_ros.core.labels.LABELS.
    :param score: mean probability of the chosen classes over its pixels, 0..1.
    :param box: where it is.
    :param area_px: its pixels.
    """

    label: int
    score: float
    box: OrientedBox
    area_px: int


def find_instruments(
    segmentation: Segmentation, least_area: float = DEFAULT_LEAST_AREA
) -> tuple[Instrument, ...]:
    """
    Find the instruments of a segmented picture.

    :param segmentation: with confidence.
    :param least_area: least share of the picture's area that an instrument must have, 0..1.
    :return: ordered by label, then from left to right, then from top to bottom.
    :raises ValueError: if the segmentation has no confidence.
    """
    if segmentation.confidence is None:
        raise ValueError('the segmentation has no confidence: segment with confidence=True')
    kinds = _kinds(segmentation.mask)
    least_area_px = max(1, math.ceil(least_area * kinds.size))
    found = [
        instrument
        for label in _labels_of(kinds)
        for instrument in _regions(kinds, segmentation.confidence, label, least_area_px)
    ]
    return tuple(sorted(found, key=lambda i: (i.label, i.box.center_x_px, i.box.center_y_px)))


def without_decision(size: tuple[int, int]) -> tuple[Instrument, ...]:
    """
    Say that nothing is known of a picture, which an empty list would not say.

    :param size: (H, W) of the picture in pixels.
    :return: one instrument with label NO_DECISION and score 0, the whole picture its box.
    """
    height, width = size
    box = OrientedBox((width - 1) / 2, (height - 1) / 2, float(width), float(height), 0.0)
    return (Instrument(NO_DECISION, 0.0, box, height * width),)


def _kinds(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The mask with the parts of a robotic tool made one."""
    table = np.arange(256, dtype=np.uint8)
    table[list(ROBOTIC_TOOL_PARTS)] = ROBOTIC_TOOL
    kinds: NDArray[np.uint8] = cv2.LUT(mask, table)  # type: ignore[assignment]
    return kinds


def _labels_of(kinds: NDArray[np.uint8]) -> list[int]:
    counts = np.bincount(kinds.ravel(), minlength=256)
    return [int(n) for n in np.flatnonzero(counts) if n not in (BACKGROUND, NO_DECISION)]


def _regions(
    kinds: NDArray[np.uint8], confidence: NDArray[np.uint8], label: int, least_area_px: int
) -> list[Instrument]:
    selected = cv2.inRange(kinds, label, label)  # type: ignore[call-overload]
    count, regions, stats, _ = cv2.connectedComponentsWithStats(selected, connectivity=8)
    found = []
    for index in range(1, count):
        left, top, width, height, area_px = (int(value) for value in stats[index])
        if area_px < least_area_px:
            continue
        window = np.s_[top : top + height, left : left + width]
        region = (regions[window] == index).astype(np.uint8)
        score = cv2.mean(confidence[window], region)[0] / 255
        found.append(Instrument(label, score, _oriented_box(region, left, top), area_px))
    return found


def _oriented_box(region: NDArray[np.uint8], left: int, top: int) -> OrientedBox:
    """Smallest rectangle around the pixels (not just their centres) of a region's window."""
    outline = cv2.findContours(region, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0][0]
    centres = outline.reshape(-1, 1, 2).astype(np.float32)
    corners = np.float32([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])  # type: ignore[arg-type]
    (x, y), (width, height), degrees = cv2.minAreaRect((centres + corners).reshape(-1, 2))
    if width < height:
        width, height, degrees = height, width, degrees + 90
    angle = math.radians(90 - (90 - degrees) % 180)
    return OrientedBox(left + x, top + y, width, height, angle)
