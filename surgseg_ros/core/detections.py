# SPDX-License-Identifier: Apache-2.0
"""Instruments in a mask: one robotic tool per touching parts, else one per connected region."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.labels import (
    BACKGROUND,
    LABELS,
    NO_DECISION,
    ROBOTIC_TOOL,
    ROBOTIC_TOOL_PARTS,
)
from surgseg_ros.core.segmentation import Segmentation

DEFAULT_LEAST_AREA: Final = 2e-4
"""Least area of an instrument as a share of the picture's: 415 pixels of 1920x1080."""

_CORNERS: Final = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]], np.float32)

_INSTRUMENTS: Final = tuple(set(LABELS) - {BACKGROUND, NO_DECISION, *ROBOTIC_TOOL_PARTS})


def _kinds() -> NDArray[np.uint8]:
    kinds = np.arange(256, dtype=np.uint8)
    kinds[list(ROBOTIC_TOOL_PARTS)] = ROBOTIC_TOOL
    return kinds


_KINDS: Final = _kinds()
"""Mask value to what it is part of: the parts of a robotic tool are one."""


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
    kinds = np.asarray(cv2.LUT(segmentation.mask, _KINDS), np.uint8)
    least_area_px = max(1, math.ceil(least_area * kinds.size))
    found = [
        instrument
        for label in _INSTRUMENTS
        for instrument in _regions(kinds, segmentation.confidence, label, least_area_px)
    ]
    return tuple(sorted(found, key=_order))


def without_decision(size: tuple[int, int]) -> tuple[Instrument, ...]:
    """
    Say that nothing is known of a picture, which an empty list would not say.

    :param size: (H, W) of the picture in pixels.
    :return: one instrument with label NO_DECISION and score 0, the whole picture its box.
    """
    height, width = size
    box = OrientedBox((width - 1) / 2, (height - 1) / 2, float(width), float(height), 0.0)
    return (Instrument(NO_DECISION, 0.0, box, height * width),)


def _order(instrument: Instrument) -> tuple[float, ...]:
    box = instrument.box
    return (instrument.label, box.center_x_px, box.center_y_px, instrument.area_px)


def _regions(
    kinds: NDArray[np.uint8], confidence: NDArray[np.uint8], label: int, least_area_px: int
) -> Iterator[Instrument]:
    """Find the connected regions of a kind; all work stays in the window that holds them."""
    selected, left, top = _crop(np.equal(kinds, label).view(np.uint8))
    if not selected.size:
        return
    inside = confidence[top : top + selected.shape[0], left : left + selected.shape[1]]
    _, regions, boxes, _ = cv2.connectedComponentsWithStats(selected, connectivity=8)
    large = np.flatnonzero(boxes[1:, cv2.CC_STAT_AREA] >= least_area_px) + 1  # 0 is all the rest
    for index in large:
        x, y, width, height, area = (int(value) for value in boxes[index])
        window = np.s_[y : y + height, x : x + width]
        region = np.equal(regions[window], index).view(np.uint8)
        score = cv2.mean(inside[window], region)[0] / 255
        yield Instrument(label, score, _oriented_box(region, left + x, top + y), area)


def _crop(selected: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], int, int]:
    """Cut to the smallest window with all that is not 0; also the window's left and top."""
    left, top, width, height = cv2.boundingRect(selected)
    return selected[top : top + height, left : left + width], left, top


def _oriented_box(region: NDArray[np.uint8], left: int, top: int) -> OrientedBox:
    """Smallest rectangle around the pixels (not just their centres) of a region's window."""
    outline = cv2.findContours(region, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0][0]
    centres = cv2.convexHull(outline).reshape(-1, 1, 2).astype(np.float32)
    (x, y), (width, height), degrees = cv2.minAreaRect((centres + _CORNERS).reshape(-1, 2))
    turns = round(degrees / 90)
    if turns % 2:
        width, height = height, width
    degrees -= 90 * turns  # at most 45 either way, which a square keeps
    if width < height:
        width, height, degrees = height, width, degrees + 90
    angle = math.radians(90 - (90 - degrees) % 180)
    return OrientedBox(left + x, top + y, width, height, angle)
