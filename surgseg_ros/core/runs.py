# SPDX-License-Identifier: Apache-2.0
"""Runs of consecutive pixels of a mask (run-length encoding), and their connected components."""

from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.intp]


class Runs(NamedTuple):
    """
    Runs of consecutive pixels of one kind within a row; ordered by kind, then in reading order.

    A 1080p mask has a few thousand of them, so work that is done once per run is cheap.

    :param kinds: (n,) uint8, never 0.
    :param rows: (n,) row.
    :param starts: (n,) first column.
    :param ends: (n,) column after the last.
    """

    kinds: NDArray[np.uint8]
    rows: Indices
    starts: Indices
    ends: Indices

    @property
    def lengths(self) -> Indices:
        """(n,) number of pixels of each run."""
        return self.ends - self.starts

    def take(self, chosen: Indices) -> 'Runs':
        """
        Select some of the runs.

        :param chosen: (m,) indices.
        :return: these runs, in this order.
        """
        kinds, rows, starts, ends = self
        return Runs(kinds[chosen], rows[chosen], starts[chosen], ends[chosen])


MAX_RUNS: Final = 30_000
"""Masks of instruments at 1080p have some thousand runs; masks with more are reduced."""

_EVERY: Final = 4
"""Runs are counted in every nth row."""


def without_noise(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """
    Remove thin structures from a noisy mask, until it has at most about MAX_RUNS runs.

    What remains of each class are the squares that fit into its regions (a morphological opening),
    with a side longer than the mean run. That limits the time for processing the runs.

    :param mask: (H, W) uint8 class index; not modified.
    :return: the same mask if it has few runs; else a copy, with 0 for the pixels removed.
    """
    side, kept = 1, mask
    while (count := _count_runs(kept)) > MAX_RUNS:
        side = 2 * max(side, mask.size // count // 2) + 1
        kernel = np.ones((side, side), np.uint8)
        middles = np.where(cv2.erode(kept, kernel) == cv2.dilate(kept, kernel), kept, np.uint8(0))
        kept = np.where(cv2.dilate(middles, kernel) == kept, kept, np.uint8(0))
    return kept


def _count_runs(mask: NDArray[np.uint8]) -> int:
    rows = mask[::_EVERY]
    return _EVERY * int(np.count_nonzero(rows[:, 1:] != rows[:, :-1]))


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


def connect(runs: Runs, size: tuple[int, int]) -> Indices:
    """
    Find the 8-connected components of runs.

    :param runs: runs of a mask.
    :param size: (H, W) of the mask.
    :return: (n,) for each run, the smallest index of a run in its component.
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


def _touching(runs: Runs, size: tuple[int, int]) -> tuple[Indices, Indices]:
    """Return pairs of 8-connected runs of the same kind in neighbouring rows."""
    stride = size[1] + 1  # a gap after each row separates its end from the start of the next
    line = (runs.rows + runs.kinds.astype(np.intp) * (size[0] + 1)) * stride
    starts, ends = line + runs.starts, line + runs.ends  # both ascend over all runs
    first = np.searchsorted(ends, starts - stride, 'left')
    counts = np.searchsorted(starts, ends - stride, 'right') - first
    lower = np.repeat(np.arange(len(counts)), counts)
    before = np.cumsum(counts) - counts
    return lower, np.arange(len(lower)) + np.repeat(first - before, counts)


def _roots(parents: Indices) -> Indices:
    """Follow parents to the root; each round halves the distance."""
    while True:
        grandparents = parents[parents]
        if np.array_equal(grandparents, parents):
            return parents
        parents = grandparents


_CELLS: Final = 64
"""Number of cells of a coarse mask along the longer side."""


def cell_side_px(size: tuple[int, int]) -> int:
    """
    Return the side of the cells of coarse masks.

    :param size: (H, W) of the image in pixels.
    :return: in pixels.
    """
    return -(-max(size) // _CELLS)


def coarse_masks(
    owners: NDArray[np.intp],
    rows: NDArray[np.intp],
    starts: NDArray[np.intp],
    ends: NDArray[np.intp],
    size: tuple[int, int],
) -> NDArray[np.float64]:
    """
    Count the pixels of runs in square cells.

    :param owners: (n,) which mask each run belongs to; ascending, from 0.
    :param rows: (n,) row of each run.
    :param starts: (n,) first column.
    :param ends: (n,) column behind the last.
    :param size: (H, W) of the image in pixels.
    :return: (masks, rows, columns), each mask a vector of norm 1.
    """
    side = cell_side_px(size)
    shape = owners[-1] + 1, -(-size[0] // side), -(-size[1] // side)
    first = starts // side
    counts = (ends - 1) // side - first + 1
    of_run = np.repeat(np.arange(len(counts)), counts)
    columns = np.arange(len(of_run)) - np.repeat(np.cumsum(counts) - counts - first, counts)
    pixels = np.minimum(ends[of_run], (columns + 1) * side)
    pixels -= np.maximum(starts[of_run], columns * side)
    cell = (owners[of_run] * shape[1] + rows[of_run] // side) * shape[2] + columns
    found = np.bincount(cell, pixels, int(np.prod(shape))).reshape(shape)
    return np.asarray(found / np.sqrt((found**2).sum(axis=(1, 2), keepdims=True)))
