# SPDX-License-Identifier: Apache-2.0
"""Class and confidence of pixels that lie between grid points of different classes."""

from functools import lru_cache
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Planes = NDArray[np.float32]
Classes = NDArray[np.uint8]
Whole = NDArray[np.intp]

_AT_ONCE: Final = 1 << 17
"""Pixels that are interpolated together: few enough to stay in the processor's cache."""


_MANY: Final = 0.3
"""Share of cells from which on whole planes are dealt with in less time than cell by cell."""


class AxisMap(NamedTuple):
    """
    Which pixels of a row or column lie between which points of the grid.

    Each of the n + 1 cells reaches from one point to the next; the first lies before all points,
    the last behind them. Of k pixels, the most in a cell, those with fewer repeat their last one.

    :param cells: (length,) cell of each pixel.
    :param counts: (n + 1,) pixels of each cell.
    :param pixels: (k, n + 1) the pixels of each cell.
    :param weights: (k, n + 1) how far they lie on the way to the next point, 0 to 1.
    :param points: (n + 1,) the point before each cell; for the first cell, the one behind it.
    :param steps: (n + 1,) how many points further the one behind the cell is: 1, or 0 at the ends.
    """

    cells: Whole
    counts: Whole
    pixels: Whole
    weights: Planes
    points: Whole
    steps: Whole


class Grid(NamedTuple):
    """
    What is known at the points of the network's grid.

    :param logits: (C, h, w).
    :param top: (h, w) class of the largest.
    :param largest: (h, w) its logit.
    :param probabilities: (h, w) its probability, where wanted.
    :param inverse_temperature: what logits are multiplied by to become probabilities: 1 /
        temperature.
    :param rows: from rows of the grid to rows of the image.
    :param columns: likewise.
    """

    logits: Planes
    top: Classes
    largest: Planes
    probabilities: Planes | None
    inverse_temperature: float
    rows: AxisMap
    columns: AxisMap


@lru_cache(maxsize=16)
def make_axis_map(pixels: int, points: int) -> AxisMap:
    """
    Lay a row's pixels over a grid's points, both with half a step around their centres.

    :param pixels: how many.
    :param points: how many.
    :return: where they lie; not to be written to.
    """
    position = (np.arange(pixels) + 0.5) * (points / pixels) + 0.5  # of the first point: 1
    cells = position.astype(np.intp)
    counts = np.bincount(cells, minlength=points + 1)
    within = np.minimum(np.arange(counts.max())[:, None], counts - 1)
    of_cells = (np.cumsum(counts) - counts + within).clip(0)  # a cell without any is never asked
    weights = (position[of_cells] - np.arange(points + 1)).astype(np.float32)
    before = (np.arange(points + 1) - 1).clip(0)
    steps = np.minimum(np.arange(points + 1), points - 1) - before
    return AxisMap(cells, counts, of_cells, weights, before, steps)


def interpolate_mixed(grid: Grid, mask: Classes, confidence: Classes | None) -> None:
    """
    Interpolate the pixels between points of different classes.

    Two classes run for most cells, and all of them only for those where a third could win.

    :param grid: the network's.
    :param mask: (H, W) class, written to.
    :param confidence: (H, W) probability of that class times 255, written to.
    """
    mixed = _mixed(grid)
    if len(mixed) > _MANY * grid.top.size:
        _repaint(grid, mask, confidence)
        return
    unsure = []
    for cells in _portions(grid, mixed):
        corners = _corners(grid, cells)
        logits = grid.logits.reshape(len(grid.logits), -1).take(corners, 1)  # (C, 4, m)
        tops = grid.top.reshape(-1).take(corners)
        two = np.stack([tops.min(0), tops.max(0)])  # (2, m)
        of_two = np.take_along_axis(logits, two[:, None].astype(np.intp), 0)  # (2, 4, m)
        is_sure = _no_third(logits, of_two)
        sure = np.flatnonzero(is_sure)  # `take` keeps the cells next to one another in memory
        _paint(grid, cells[sure], of_two.take(sure, 2), two.take(sure, 1), (mask, confidence))
        unsure.append(cells[~is_sure])
    every = np.arange(len(grid.logits), dtype=np.uint8)[:, None]
    for cells in _portions(grid, np.concatenate(unsure)):
        logits = grid.logits.reshape(len(grid.logits), -1).take(_corners(grid, cells), 1)
        _paint(grid, cells, logits, every, (mask, confidence))


def _repaint(grid: Grid, mask: Classes, confidence: Classes | None) -> None:
    """Let all classes run for all pixels, plane by plane: what a network of noise asks for."""
    size = (mask.shape[1], mask.shape[0])
    best = cv2.resize(grid.logits[0], size)
    rival, better = np.empty_like(best), np.ones(best.shape, bool)
    mask[:] = 0
    for number, plane in enumerate(grid.logits):
        if number:
            cv2.resize(plane, size, dst=rival)
            np.greater(rival, best, out=better)
            np.maximum(mask, better.view(np.uint8) * np.uint8(number), out=mask)
            np.maximum(best, rival, out=best)
        if confidence is not None and grid.probabilities is not None:
            of_class = (
                np.exp(np.float32(grid.inverse_temperature) * (plane - grid.largest))
                * grid.probabilities
            )
            reported = cv2.convertScaleAbs(cv2.resize(of_class, size, dst=rival), alpha=255)
            cv2.copyTo(reported, better.view(np.uint8), confidence)


def _portions(grid: Grid, cells: Whole) -> list[Whole]:
    """Cells in portions of not too many pixels."""
    pixels = len(cells) * len(grid.rows.pixels) * len(grid.columns.pixels)
    return np.array_split(cells, 1 + pixels // _AT_ONCE)


def _corners(grid: Grid, cells: Whole) -> Whole:
    """(4, m) flat indices of the points around cells: above left and right, below likewise."""
    y, x = _places(grid, cells)
    width = grid.top.shape[1]
    above = grid.rows.points[y] * width + grid.columns.points[x]
    right, down = grid.columns.steps[x], grid.rows.steps[y] * width
    return np.stack([above, above + right, above + down, above + right + down])


def _places(grid: Grid, cells: Whole) -> tuple[Whole, Whole]:
    """Row and column of cells."""
    return np.divmod(cells, len(grid.columns.counts))


def _mixed(grid: Grid) -> Whole:
    """Cells with pixels whose four points differ, by their flat index."""
    around = np.asarray(cv2.copyMakeBorder(grid.top, 1, 1, 1, 1, cv2.BORDER_REPLICATE))
    first = around[:-1, :-1]
    mixed = first != around[1:, 1:]
    for other in (around[:-1, 1:], around[1:, :-1]):
        mixed |= first != other
    mixed[grid.rows.counts == 0] = False
    mixed[:, grid.columns.counts == 0] = False
    return np.flatnonzero(mixed)


def _paint(
    grid: Grid,
    cells: Whole,
    logits: Planes,
    names: Classes,
    pictures: tuple[Classes, Classes | None],
) -> None:
    """Let K classes, with (K, 4, m) logits at the corners, run for all pixels of m cells."""
    y, x = _places(grid, cells)
    weights = grid.rows.weights.take(y, 1), grid.columns.weights.take(x, 1)
    mask, confidence = pictures
    starts = grid.rows.pixels.take(y, 1) * mask.shape[1]
    pixels = starts[:, None] + grid.columns.pixels.take(x, 1)  # (rows, columns, m)
    probabilities = None
    if grid.probabilities is not None:
        corners = _corners(grid, cells)
        probabilities = logits - grid.largest.reshape(-1).take(corners)
        probabilities *= np.float32(grid.inverse_temperature)
        np.exp(probabilities, out=probabilities)
        probabilities *= 255 * grid.probabilities.reshape(-1).take(corners)
        probabilities += 0.5  # what is interpolated and then cut off is rounded
    mask.reshape(-1)[pixels], probability = _race(logits, names, probabilities, weights)
    if confidence is not None and probability is not None:
        confidence.reshape(-1)[pixels] = probability


def _no_third(logits: Planes, of_two: Planes) -> NDArray[np.bool_]:
    """
    Tell between which four points no third class can be the largest.

    None can if each is nowhere above one of the two, or nowhere above the mean of both: what holds
    at all four points holds for their means, and the mean of two is never above the larger one.
    """
    certain = np.zeros((len(logits), logits.shape[2]), bool)
    for bound in (of_two[0], of_two[1], of_two.mean(0)):
        certain |= np.logical_and.reduce(logits <= bound, axis=1)
    return np.asarray(certain.all(0))


def _race(
    logits: Planes, names: Classes, probabilities: Planes | None, weights: tuple[Planes, Planes]
) -> tuple[Classes, Planes | None]:
    """
    Let K classes run for the pixels of m cells.

    :param logits: (K, 4, m) at the corners.
    :param names: (K, m) the classes, ascending: of equal ones the first wins.
    :param probabilities: (K, 4, m) what is told of them at the corners, where wanted.
    :param weights: (k, m) of rows and of columns.
    :return: (k, k, m) class; and what is told of it.
    """
    margins = logits[1:] - logits[0]
    best: Planes = np.zeros(1, np.float32)
    winners = names[0]
    probability = None if probabilities is None else _interpolate(probabilities[0], weights)
    for number, corners in enumerate(margins, 1):
        rival = _interpolate(corners, weights)
        better = rival > best
        # Names ascend, so the larger is the later; selecting would be dearer, as it branches.
        winners = np.maximum(winners, better.view(np.uint8) * names[number])
        best = np.maximum(rival, best)
        if probability is not None and probabilities is not None:
            probability = np.where(
                better, _interpolate(probabilities[number], weights), probability
            )
    return winners, probability


def _interpolate(corners: Planes, weights: tuple[Planes, Planes]) -> Planes:
    """From (4, m) corners, row by row, to (rows, columns, m) pixels."""
    down, right = weights
    left_end = corners[0] + down * (corners[2] - corners[0])
    right_end = corners[1] + down * (corners[3] - corners[1])
    between: Planes = left_end[:, None] + right * (right_end - left_end)[:, None]
    return between
