# SPDX-License-Identifier: Apache-2.0
"""Instruments in a mask: their connected components, and their boxes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.instances import separate_instruments
from surgseg_ros.core.known_tools import KnownTools
from surgseg_ros.core.labels import (
    BACKGROUND,
    LABELS,
    NO_DECISION,
    ROBOTIC_TOOL,
    ROBOTIC_TOOL_PARTS,
)
from surgseg_ros.core.parts import ToolParts
from surgseg_ros.core.robotic_tools import ToolGrouping
from surgseg_ros.core.runs import Runs, connect, find_runs, without_noise
from surgseg_ros.core.segmentation import Field, GridConfidence, Roi, Segmentation
from surgseg_ros.core.timing import Stopwatch

DEFAULT_LEAST_AREA: Final = 2e-4
"""Minimum area of an instrument as a share of the image's area: 415 pixels of 1920x1080."""

TIMES_OF_TOOL: Final = 5
"""
Ratio of the minimum area of a robotic tool to that of other instruments; smaller detections are
mostly errors. Of 311 robotic tools in synthetic scenes, none had a visible area below 10e-4 of the
image, and 4 were below 20e-4.
"""

_PIECES: Final = 8
"""Components below the minimum area divided by this are dropped at once; noise has thousands."""

_CORNERS: Final = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]], np.float32)


def _kinds() -> NDArray[np.uint8]:
    kinds = np.zeros(256, np.uint8)
    for label in set(LABELS) - {BACKGROUND, NO_DECISION}:
        kinds[label] = ROBOTIC_TOOL if label in ROBOTIC_TOOL_PARTS else label
    return kinds


_KINDS: Final = _kinds()
"""Mask value to kind of instrument: all parts of a robotic tool are one kind; 0 is none."""


@dataclass(frozen=True)
class OrientedBox:
    """
    The smallest rectangle around a region, in pixels of the image.

    Centres of pixels have integer coordinates, x to the right and y down. The box contains whole
    pixels.

    :param center_x_px: x of the centre.
    :param center_y_px: y of the centre.
    :param size_x_px: length of the longer side, in the direction of the angle.
    :param size_y_px: length of the other side.
    :param angle_rad: from the x axis to the longer side, clockwise in the image, in (-pi/2, pi/2].
    """

    center_x_px: float
    center_y_px: float
    size_x_px: float
    size_y_px: float
    angle_rad: float


@dataclass(frozen=True)
class Instrument:
    """
    One instrument in an image.

    :param label: a key of `surgseg_ros.LABELS`.
    :param score: mean probability of the likeliest class over its pixels, 0..1.
    :param box: smallest rectangle around it.
    :param area_px: number of its pixels.
    :param runs: its pixels as runs; None without a decision.
    :param parts: shaft, wrist and clasper of a robotic tool; None if they are too small.
    :param track_id: number of its track, from 1, which stays the same from image to image; 0 if
        it is not tracked.
    """

    label: int
    score: float
    box: OrientedBox
    area_px: int
    runs: Runs | None = field(default=None, compare=False, repr=False)
    parts: ToolParts | None = field(default=None, compare=False, repr=False)
    track_id: int = 0

    @property
    def error_px(self) -> float:
        """Side of a square of as many pixels as are expected to be wrong; 0 at a score of 1."""
        return math.sqrt((1 - self.score) * self.area_px)


def find_instruments(
    segmentation: Segmentation,
    least_area: float = DEFAULT_LEAST_AREA,
    watch: Stopwatch | None = None,
    min_score: float = 0.0,
    known: KnownTools | None = None,
    grouping: ToolGrouping | None = None,
) -> tuple[Instrument, ...]:
    """
    Find the instruments of a segmented image.

    :param segmentation: with grid confidence, from which scores are computed, or with confidence,
        which takes longer.
    :param least_area: minimum area of an instrument as a share of the image's area, 0..1; that of
        a robotic tool is TIMES_OF_TOOL times as large.
    :param watch: measures the stages `detections` (boxes) and `instruments` (separating, joining).
    :param min_score: instruments with a lower score are left out, 0..1.
    :param known: robotic tools of the last image, see `ToolGrouping`.
    :param grouping: the grouping of earlier calls for this image.
    :return: ordered by label, then from left to right, then from top to bottom.
    :raises ValueError: if the segmentation has neither confidence.
    """
    mask, grid_confidence = without_noise(segmentation.mask), _grid_confidence(segmentation)
    height, width = mask.shape
    min_px = max(1, math.ceil(least_area * height * width))
    runs, regions = _regions(mask, max(1, min_px // _PIECES))
    watch = watch or Stopwatch()
    watch.lap('detections')
    field = Field((height, width), segmentation.roi)
    groups = separate_instruments(mask, runs, regions, field, known, grouping)
    watch.lap('instruments')
    minimum = {ROBOTIC_TOOL: math.ceil(TIMES_OF_TOOL * least_area * height * width)}
    found = [
        _instrument(group, grid_confidence, parts)
        for group, parts in groups
        if int(group.lengths.sum()) >= minimum.get(int(group.kinds[0]), min_px)
    ]
    found = sorted((i for i in found if i.score >= min_score), key=_order)
    watch.lap('detections')
    return tuple(found)


def _regions(mask: NDArray[np.uint8], min_px: int) -> tuple[Runs, NDArray[np.intp]]:
    """Return the runs of connected components with a minimum area, and the component of each."""
    height, width = mask.shape
    runs = find_runs(mask, _KINDS)
    regions = connect(runs, (height, width))
    areas_px = np.bincount(regions, runs.lengths)[regions]
    kept = np.flatnonzero(areas_px >= min_px)
    return runs.take(kept), regions[kept]


def _grid_confidence(segmentation: Segmentation) -> GridConfidence:
    """Return the grid confidence, or the confidence as a grid confidence of full resolution."""
    if segmentation.grid_confidence is not None:
        return segmentation.grid_confidence
    if segmentation.confidence is None:
        raise ValueError(
            'the segmentation has no grid confidence: segment with grid_confidence=True'
        )
    height, width = segmentation.mask.shape
    return GridConfidence(segmentation.confidence, Roi(0, 0, width, height))


def join_instruments(
    instruments: Sequence[Instrument], groups: Sequence[Sequence[int]]
) -> tuple[Instrument, ...]:
    """
    Join pieces that are one instrument.

    :param instruments: as `find_instruments` returns them; those of a group have the same class,
        which is not robotic tool.
    :param groups: indices of the pieces of each instrument, in no more than one group each.
    :return: the instruments, in the order of `find_instruments`.
    """
    joined = [_joined([instruments[index] for index in group]) for group in groups]
    pieces = {index for group in groups for index in group}
    others = [one for index, one in enumerate(instruments) if index not in pieces]
    return tuple(sorted([*others, *joined], key=_order))


def _joined(pieces: Sequence[Instrument]) -> Instrument:
    runs = Runs(*(np.concatenate(x) for x in zip(*(one.runs for one in pieces if one.runs))))
    runs = runs.take(np.lexsort((runs.starts, runs.rows)))
    area_px = sum(one.area_px for one in pieces)
    score = sum(one.score * one.area_px for one in pieces) / area_px
    return Instrument(pieces[0].label, score, _oriented_box(runs), area_px, runs)


def instance_image(
    instruments: Sequence[Instrument], mask: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """
    Draw the index of the instrument of each pixel.

    :param instruments: as `find_instruments` returns them; at most 254 are drawn.
    :param mask: (H, W) uint8 in which they were found.
    :return: (H, W) uint8, index of the instrument plus 1; 0 for none, NO_DECISION if undecided.
    """
    numbers = np.where(mask == NO_DECISION, mask, np.uint8(0))
    for number, instrument in enumerate(instruments[: NO_DECISION - 1], 1):
        if instrument.runs is not None:
            for row, start, end in zip(*(values.tolist() for values in instrument.runs[1:])):
                numbers[row, start:end] = number
    return numbers


def without_decision(size: tuple[int, int]) -> tuple[Instrument, ...]:
    """
    Create the detection for an image without a decision; an empty list would mean no instruments.

    :param size: (H, W) of the image in pixels.
    :return: one instrument with label NO_DECISION and score 0, whose box is the whole image.
    """
    height, width = size
    box = OrientedBox((width - 1) / 2, (height - 1) / 2, float(width), float(height), 0.0)
    return (Instrument(NO_DECISION, 0.0, box, height * width),)


def _order(instrument: Instrument) -> tuple[float, ...]:
    box = instrument.box
    return (instrument.label, box.center_x_px, box.center_y_px, instrument.area_px)


def _instrument(
    region: Runs, grid_confidence: GridConfidence, parts: ToolParts | None
) -> Instrument:
    of_runs = grid_confidence.sum_runs(region.rows, region.starts, region.ends)
    area_px = int(region.lengths.sum())
    score = min(1.0, float(of_runs.sum()) / (255 * area_px))
    box = _oriented_box(region)
    return Instrument(int(region.kinds[0]), score, box, area_px, region, parts)


def _oriented_box(region: Runs) -> OrientedBox:
    """Return the smallest rectangle around the pixels (not just their centres) of a region."""
    rows = np.concatenate([region.rows, region.rows])
    columns = np.concatenate([region.starts, region.ends - 1])
    hull = cv2.convexHull(np.stack([columns, rows], 1).astype(np.int32))
    centres = hull.astype(np.float32)  # (n, 1, 2)
    (x, y), (width, height), degrees = cv2.minAreaRect((centres + _CORNERS).reshape(-1, 2))
    turns = round(degrees / 90)
    if turns % 2:
        width, height = height, width
    degrees -= 90 * turns  # within 45 degrees; a square keeps this angle
    if width < height:
        width, height, degrees = height, width, degrees + 90
    angle = math.radians(90 - (90 - degrees) % 180)
    return OrientedBox(x, y, width, height, angle)
