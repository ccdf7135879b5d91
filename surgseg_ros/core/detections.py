# SPDX-License-Identifier: Apache-2.0
"""Instruments in a mask: connected regions, their boxes, and how they are drawn."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.labels import (
    BACKGROUND,
    LABELS,
    NO_DECISION,
    PALETTE,
    ROBOTIC_TOOL,
    ROBOTIC_TOOL_PARTS,
)
from surgseg_ros.core.segmentation import GridConfidence, Roi, Segmentation

Whole = NDArray[np.intp]


class Runs(NamedTuple):
    """
    Runs of consecutive pixels of one kind within a row; ordered by kind, then in reading order.

    A 1080p mask has a few thousand of them, so work that is done once per run is cheap.

    :param kinds: (n,) uint8, never 0.
    :param rows: (n,) row.
    :param starts: (n,) first column.
    :param ends: (n,) column behind the last.
    """

    kinds: NDArray[np.uint8]
    rows: Whole
    starts: Whole
    ends: Whole

    @property
    def lengths(self) -> Whole:
        """(n,) number of pixels of each run."""
        return self.ends - self.starts

    def take(self, chosen: Whole) -> 'Runs':
        """
        Select some of the runs.

        :param chosen: (m,) indices.
        :return: these runs, in this order.
        """
        kinds, rows, starts, ends = self
        return Runs(kinds[chosen], rows[chosen], starts[chosen], ends[chosen])


def find_runs(mask: NDArray[np.uint8], table: NDArray[np.uint8]) -> Runs:
    """
    Split a mask into runs.

    :param mask: (H, W) uint8; not modified.
    :param table: (256,) uint8, the kind of each mask value; pixels of kind 0 are in no run.
    :return: the runs.
    """
    width = mask.shape[1]
    flat = np.ascontiguousarray(mask).reshape(-1)
    changes = np.empty(flat.size, bool)
    np.not_equal(flat[1:], flat[:-1], out=changes[1:])
    changes[::width] = True
    starts = np.flatnonzero(changes)
    kinds = table[flat[starts]]
    rows = starts // width
    # Adjacent values of one kind, such as the parts of a tool, are one run.
    first = np.ones(len(kinds), bool)
    first[1:] = (kinds[1:] != kinds[:-1]) | (rows[1:] != rows[:-1])
    kinds, rows, starts = kinds[first], rows[first], starts[first]
    ends = np.append(starts[1:], flat.size)
    order = np.argsort(kinds, kind='stable')[np.count_nonzero(kinds == 0) :]
    rows, shift = rows[order], rows[order] * width
    return Runs(kinds[order], rows, starts[order] - shift, ends[order] - shift)


def connect(runs: Runs, size: tuple[int, int]) -> Whole:
    """
    Find the 8-connected regions of runs.

    :param runs: runs of a mask.
    :param size: (H, W) of the mask.
    :return: (n,) for each run, the smallest index of a run in its region.
    """
    lower, upper = _touching(runs, size)
    parents = np.arange(len(runs.rows))
    while len(lower):
        # If a run has several candidates, any will do: the others follow in the next round.
        parents[lower] = upper
        parents = _roots(parents)
        ends = parents[lower], parents[upper]
        lower, upper = np.maximum(*ends), np.minimum(*ends)
        apart = lower != upper
        lower, upper = lower[apart], upper[apart]
    return parents


def _touching(runs: Runs, size: tuple[int, int]) -> tuple[Whole, Whole]:
    """Return pairs of touching runs (8-connected) of one kind in neighbouring rows."""
    stride = size[1] + 1  # a gap after each row keeps its end apart from the start of the next
    line = (runs.rows + runs.kinds.astype(np.intp) * (size[0] + 1)) * stride
    starts, ends = line + runs.starts, line + runs.ends  # both ascend over all runs
    first = np.searchsorted(ends, starts - stride, 'left')
    counts = np.searchsorted(starts, ends - stride, 'right') - first
    lower = np.repeat(np.arange(len(counts)), counts)
    before = np.cumsum(counts) - counts
    return lower, np.arange(len(lower)) + np.repeat(first - before, counts)


def _roots(parents: Whole) -> Whole:
    """Follow parents to the root; each round halves the distance."""
    while True:
        grandparents = parents[parents]
        if np.array_equal(grandparents, parents):
            return parents
        parents = grandparents


DEFAULT_LEAST_AREA: Final = 2e-4
"""Minimum area of an instrument as a share of the image's area: 415 pixels of 1920x1080."""

_CORNERS: Final = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]], np.float32)


def _kinds() -> NDArray[np.uint8]:
    kinds = np.zeros(256, np.uint8)
    for label in set(LABELS) - {BACKGROUND, NO_DECISION}:
        kinds[label] = ROBOTIC_TOOL if label in ROBOTIC_TOOL_PARTS else label
    return kinds


_KINDS: Final = _kinds()
"""Mask value to instrument: the parts of a robotic tool are one; 0 is not an instrument."""


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
    :param area_px: its number of pixels.
    """

    label: int
    score: float
    box: OrientedBox
    area_px: int


def find_instruments(
    segmentation: Segmentation, least_area: float = DEFAULT_LEAST_AREA
) -> tuple[Instrument, ...]:
    """
    Find the instruments of a segmented image.

    Scores are computed from the grid confidence, if there is one.

    :param segmentation: with grid confidence, or with confidence, which takes longer.
    :param least_area: minimum area of an instrument as a share of the image's area, 0..1.
    :return: ordered by label, then from left to right, then from top to bottom.
    :raises ValueError: if the segmentation has neither.
    """
    height, width = segmentation.mask.shape
    grid_confidence = segmentation.grid_confidence
    if grid_confidence is None and segmentation.confidence is not None:
        grid_confidence = GridConfidence(segmentation.confidence, Roi(0, 0, width, height))
    if grid_confidence is None:
        raise ValueError(
            'the segmentation has no grid confidence: segment with grid_confidence=True'
        )
    runs = find_runs(segmentation.mask, _KINDS)
    regions = connect(runs, (height, width))
    areas_px = np.bincount(regions, runs.lengths)[regions]
    large = np.flatnonzero(areas_px >= max(1, math.ceil(least_area * height * width)))
    if not len(large):
        return ()
    large = large[np.argsort(regions[large], kind='stable')]
    borders = np.flatnonzero(np.diff(regions[large])) + 1
    found = [
        _instrument(runs.take(region), grid_confidence) for region in np.split(large, borders)
    ]
    return tuple(sorted(found, key=_order))


def without_decision(size: tuple[int, int]) -> tuple[Instrument, ...]:
    """
    Make the detection for an image without a decision; an empty list would mean no instruments.

    :param size: (H, W) of the image in pixels.
    :return: one instrument with label NO_DECISION and score 0, whose box is the whole image.
    """
    height, width = size
    box = OrientedBox((width - 1) / 2, (height - 1) / 2, float(width), float(height), 0.0)
    return (Instrument(NO_DECISION, 0.0, box, height * width),)


def _order(instrument: Instrument) -> tuple[float, ...]:
    box = instrument.box
    return (instrument.label, box.center_x_px, box.center_y_px, instrument.area_px)


def _instrument(region: Runs, grid_confidence: GridConfidence) -> Instrument:
    of_runs = grid_confidence.sum_runs(region.rows, region.starts, region.ends)
    area_px = int(region.lengths.sum())
    score = min(1.0, float(of_runs.sum()) / (255 * area_px))
    return Instrument(int(region.kinds[0]), score, _oriented_box(region), area_px)


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
    degrees -= 90 * turns  # within 45 either way; a square keeps this angle
    if width < height:
        width, height, degrees = height, width, degrees + 90
    angle = math.radians(90 - (90 - degrees) % 180)
    return OrientedBox(x, y, width, height, angle)


_OPACITY: Final = 0.5
_DIMMED: Final = 0.5
"""Brightness of pixels without a decision."""
_FONT: Final = cv2.FONT_HERSHEY_SIMPLEX
_LUMA: Final = (0.299, 0.587, 0.114)


def draw_overlay(
    image: NDArray[np.uint8], mask: NDArray[np.uint8], instruments: Sequence[Instrument] = ()
) -> NDArray[np.uint8]:
    """
    Blend the colours of the classes into an image, and draw boxes and names of instruments.

    Background is unchanged; pixels without a decision are dimmed and grey.

    :param image: (H, W, 3) uint8 RGB.
    :param mask: (H, W) uint8 class index or NO_DECISION.
    :param instruments: those to draw.
    :return: (H, W, 3) uint8 RGB, a new array.
    """
    canvas = image.copy()
    colours = cv2.applyColorMap(mask, PALETTE[:, None])
    blended = cv2.addWeighted(image, 1 - _OPACITY, colours, _OPACITY, 0)
    undecided = mask == NO_DECISION
    classed = (mask != BACKGROUND) & ~undecided
    cv2.copyTo(blended, classed.view(np.uint8), canvas)
    if undecided.any():
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        dimmed = cv2.convertScaleAbs(grey, alpha=_DIMMED)
        cv2.copyTo(cv2.cvtColor(dimmed, cv2.COLOR_GRAY2RGB), undecided.view(np.uint8), canvas)
    for instrument in instruments:
        _draw_instrument(canvas, instrument)
    return canvas


def _draw_instrument(canvas: NDArray[np.uint8], instrument: Instrument) -> None:
    box = instrument.box
    thickness = max(1, canvas.shape[0] // 360)
    colour = tuple(int(value) for value in PALETTE[instrument.label])
    rectangle = (
        (box.center_x_px, box.center_y_px),
        (box.size_x_px, box.size_y_px),
        float(np.degrees(box.angle_rad)),
    )
    corners = np.rint(cv2.boxPoints(rectangle)).astype(np.int32)
    cv2.polylines(canvas, [corners], True, colour, thickness, cv2.LINE_AA)
    _draw_tag(canvas, corners, f'{LABELS[instrument.label]} {instrument.score:.2f}', colour)


def _draw_tag(
    canvas: NDArray[np.uint8], corners: NDArray[np.int32], text: str, colour: tuple[int, ...]
) -> None:
    """Write above a box, but inside the image if it is large enough."""
    scale, thickness = canvas.shape[0] / 1200, max(1, canvas.shape[0] // 540)
    (width, height), below = cv2.getTextSize(text, _FONT, scale, thickness)
    left = int(np.clip(corners[:, 0].min(), 0, max(0, canvas.shape[1] - width)))
    bottom = int(np.clip(corners[:, 1].min(), height + below, canvas.shape[0])) - below
    tag = (left, bottom - height), (left + width, bottom + below)
    cv2.rectangle(canvas, *tag, colour, cv2.FILLED)
    ink = (0, 0, 0) if np.dot(colour, _LUMA) > 127 else (255, 255, 255)
    cv2.putText(canvas, text, (left, bottom), _FONT, scale, ink, thickness, cv2.LINE_AA)
