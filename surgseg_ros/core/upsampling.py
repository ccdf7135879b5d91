# SPDX-License-Identifier: Apache-2.0
"""
Upsamples logits from the network's grid to the class and confidence of each pixel of the image.

On a CPU, interpolation and argmax are fused: if the four grid points around a pixel have the same
class, the pixel also has this class; only the other pixels are interpolated.
"""

from functools import lru_cache
from typing import Final, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Planes = NDArray[np.float32]
Classes = NDArray[np.uint8]
Indices = NDArray[np.intp]

_AT_ONCE: Final = 1 << 17
"""Maximum number of pixels to interpolate together, so that they fit into the CPU cache."""


_MANY: Final = 0.3
"""Share of mixed quads above which whole planes are faster than individual quads."""


class AxisMap(NamedTuple):
    """
    Maps the pixels of a row or column to the intervals between the points of the grid.

    Each of the n + 1 intervals extends from one point to the next; the first lies before all
    points, the last after them. k is the largest number of pixels in an interval; intervals with
    fewer repeat their last pixel.

    :param intervals: (length,) index of the interval of each pixel.
    :param counts: (n + 1,) number of pixels of each interval.
    :param pixels: (k, n + 1) the pixels of each interval.
    :param weights: (k, n + 1) position of the pixels between the two points, 0 to 1.
    :param points: (n + 1,) the point before each interval; for the first one, the point after it.
    :param steps: (n + 1,) offset to the point after the interval: 1, or 0 at both ends.
    """

    intervals: Indices
    counts: Indices
    pixels: Indices
    weights: Planes
    points: Indices
    steps: Indices


class Grid(NamedTuple):
    """
    The values at the points of the network's grid.

    :param logits: (C, h, w).
    :param top: (h, w) class with the largest logit.
    :param largest: (h, w) largest logit.
    :param probabilities: (h, w) its probability, if requested.
    :param inverse_temperature: factor of the logits before the softmax: 1 / temperature.
    :param rows: maps rows of the grid to rows of the image.
    :param columns: maps columns likewise.
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
    Map the pixels of a row to the points of the grid, as for `align_corners=False`.

    :param pixels: number of pixels.
    :param points: number of points.
    :return: the map; it is cached and must not be modified.
    """
    position = (np.arange(pixels) + 0.5) * (points / pixels) + 0.5  # of the first point: 1
    intervals = position.astype(np.intp)
    counts = np.bincount(intervals, minlength=points + 1)
    within = np.minimum(np.arange(counts.max())[:, None], counts - 1)
    of_intervals = (np.cumsum(counts) - counts + within).clip(0)  # empty ones are not used
    weights = (position[of_intervals] - np.arange(points + 1)).astype(np.float32)
    before = (np.arange(points + 1) - 1).clip(0)
    steps = np.minimum(np.arange(points + 1), points - 1) - before
    return AxisMap(intervals, counts, of_intervals, weights, before, steps)


def interpolate_mixed(grid: Grid, mask: Classes, confidence: Classes | None) -> None:
    """
    Interpolate the pixels between points of different classes.

    The unit of work is a quad: the pixels between four neighbouring points. In most quads, only
    two classes are compared; all classes only if a third could be the largest.

    :param grid: the network's grid.
    :param mask: (H, W) class, written to.
    :param confidence: (H, W) probability of that class times 255, written to.
    """
    mixed = _mixed(grid)
    if len(mixed) > _MANY * grid.top.size:
        _interpolate_planes(grid, mask, confidence)
        return
    remaining = []
    for quads in _batches(grid, mixed):
        corners = _corners(grid, quads)
        logits = _logits_at(grid, corners)  # (C, 4, m)
        tops = grid.top.reshape(-1).take(corners)
        two = np.stack([tops.min(0), tops.max(0)])  # (2, m)
        of_two = np.take_along_axis(logits, two[:, None].astype(np.intp), 0)  # (2, 4, m)
        only_two = _only_two_can_win(logits, of_two)
        chosen = np.flatnonzero(only_two)  # `take` keeps the quads next to one another in memory
        _interpolate_quads(
            grid, quads[chosen], of_two.take(chosen, 2), two.take(chosen, 1), (mask, confidence)
        )
        remaining.append(quads[~only_two])
    every = np.arange(len(grid.logits), dtype=np.uint8)[:, None]
    for quads in _batches(grid, np.concatenate(remaining)):
        logits = _logits_at(grid, _corners(grid, quads))
        _interpolate_quads(grid, quads, logits, every, (mask, confidence))


def _interpolate_planes(grid: Grid, mask: Classes, confidence: Classes | None) -> None:
    """Compare all classes for all pixels, plane by plane: faster if most quads are mixed."""
    size = (mask.shape[1], mask.shape[0])
    best = cv2.resize(grid.logits[0], size)
    other, better = np.empty_like(best), np.ones(best.shape, bool)
    mask[:] = 0
    for number, plane in enumerate(grid.logits):
        if number:
            cv2.resize(plane, size, dst=other)
            np.greater(other, best, out=better)
            np.maximum(mask, better.view(np.uint8) * np.uint8(number), out=mask)
            np.maximum(best, other, out=best)
        if confidence is not None and grid.probabilities is not None:
            of_class = (
                np.exp(np.float32(grid.inverse_temperature) * (plane - grid.largest))
                * grid.probabilities
            )
            scaled = cv2.convertScaleAbs(cv2.resize(of_class, size, dst=other), alpha=255)
            cv2.copyTo(scaled, better.view(np.uint8), confidence)


def _batches(grid: Grid, quads: Indices) -> list[Indices]:
    """Split quads into portions of at most about `_AT_ONCE` pixels."""
    pixels = len(quads) * len(grid.rows.pixels) * len(grid.columns.pixels)
    return np.array_split(quads, 1 + pixels // _AT_ONCE)


def _corners(grid: Grid, quads: Indices) -> Indices:
    """Return (4, m) flat indices of the corners of quads: upper left, right; lower left, right."""
    y, x = np.divmod(quads, len(grid.columns.counts))
    width = grid.top.shape[1]
    above = grid.rows.points[y] * width + grid.columns.points[x]
    right, down = grid.columns.steps[x], grid.rows.steps[y] * width
    return np.stack([above, above + right, above + down, above + right + down])


def _logits_at(grid: Grid, points: Indices) -> Planes:
    """Return (C, *points.shape) logits; `take` of all planes at once could copy them first."""
    return np.stack([plane.reshape(-1).take(points) for plane in grid.logits])


def _mixed(grid: Grid) -> Indices:
    """Return the flat indices of the quads whose four points differ and that have pixels."""
    around = np.asarray(cv2.copyMakeBorder(grid.top, 1, 1, 1, 1, cv2.BORDER_REPLICATE))
    first = around[:-1, :-1]
    mixed = first != around[1:, 1:]
    for other in (around[:-1, 1:], around[1:, :-1]):
        mixed |= first != other
    mixed[grid.rows.counts == 0] = False
    mixed[:, grid.columns.counts == 0] = False
    return np.flatnonzero(mixed)


def _interpolate_quads(
    grid: Grid,
    quads: Indices,
    logits: Planes,
    names: Classes,
    planes: tuple[Classes, Classes | None],
) -> None:
    """Compare K classes, with (K, 4, m) logits at the corners, for all pixels of m quads."""
    y, x = np.divmod(quads, len(grid.columns.counts))
    weights = grid.rows.weights.take(y, 1), grid.columns.weights.take(x, 1)
    mask, confidence = planes
    starts = grid.rows.pixels.take(y, 1) * mask.shape[1]
    pixels = starts[:, None] + grid.columns.pixels.take(x, 1)  # (rows, columns, m)
    probabilities = None
    if grid.probabilities is not None:
        corners = _corners(grid, quads)
        probabilities = logits - grid.largest.reshape(-1).take(corners)
        probabilities *= np.float32(grid.inverse_temperature)
        np.exp(probabilities, out=probabilities)
        probabilities *= 255 * grid.probabilities.reshape(-1).take(corners)
        probabilities += 0.5  # so that truncation after the interpolation rounds
    mask.reshape(-1)[pixels], probability = _argmax(logits, names, probabilities, weights)
    if confidence is not None and probability is not None:
        confidence.reshape(-1)[pixels] = probability


def _only_two_can_win(logits: Planes, of_two: Planes) -> NDArray[np.bool_]:
    """
    Find the quads in which no third class can be the largest.

    This holds if every other class is, at all four points, at most one of the two, or at most the
    mean of both. What holds at all four points also holds after interpolation, and the mean of two
    values is not above the larger one.
    """
    dominated = np.zeros((len(logits), logits.shape[2]), bool)
    for bound in (of_two[0], of_two[1], of_two.mean(0)):
        dominated |= np.logical_and.reduce(logits <= bound, axis=1)
    return np.asarray(dominated.all(0))


def _argmax(
    logits: Planes, names: Classes, probabilities: Planes | None, weights: tuple[Planes, Planes]
) -> tuple[Classes, Planes | None]:
    """
    Find the largest of K classes for the pixels of m quads.

    :param logits: (K, 4, m) at the corners.
    :param names: (K, m) the classes, ascending: of equal logits, the first wins.
    :param probabilities: (K, 4, m) their probabilities at the corners, or None.
    :param weights: (k, m) weights of rows and columns.
    :return: (k, k, m) class, and its probability.
    """
    margins = logits[1:] - logits[0]
    best: Planes = np.zeros(1, np.float32)
    winners = names[0]
    probability = None if probabilities is None else _interpolate(probabilities[0], weights)
    for number, corners in enumerate(margins, 1):
        other = _interpolate(corners, weights)
        better = other > best
        # Names ascend, so the later index is larger; np.where would be slower, as it branches.
        winners = np.maximum(winners, better.view(np.uint8) * names[number])
        best = np.maximum(other, best)
        if probability is not None and probabilities is not None:
            probability = np.where(
                better, _interpolate(probabilities[number], weights), probability
            )
    return winners, probability


def _interpolate(corners: Planes, weights: tuple[Planes, Planes]) -> Planes:
    """Interpolate (4, m) corners to (rows, columns, m) pixels."""
    down, right = weights
    left_end = corners[0] + down * (corners[2] - corners[0])
    right_end = corners[1] + down * (corners[3] - corners[1])
    between: Planes = left_end[:, None] + right * (right_end - left_end)[:, None]
    return between


class Upsampled(NamedTuple):
    """
    Classes and confidence of an image, on the device of the logits.

    :param classes: (H, W) uint8 class index.
    :param confidence: (H, W) uint8 probability of that class times 255, if requested.
    :param grid_confidence: (h, w) uint8 probability of the likeliest class times 255, if either
        is requested.
    """

    classes: Tensor
    confidence: Tensor | None
    grid_confidence: Tensor | None


def upsample(
    logits: Tensor,
    size: tuple[int, int],
    confidence: bool,
    temperature: float = 1.0,
    grid_confidence: bool = False,
) -> Upsampled:
    """
    Compute the class of each pixel of the image: the argmax of bilinearly interpolated logits.

    Confidence is the probability of that class, interpolated from the network's grid in the same
    way, times 255. Pixel centres are half a pixel inward (`align_corners=False`).

    :param logits: (C, h, w) float, without the padding of the image, on any device.
    :param size: (H, W) of the image in pixels.
    :param confidence: whether to compute the confidence.
    :param temperature: divisor of the logits for probabilities; it does not change the classes.
    :param grid_confidence: whether to compute the grid confidence; it is included with the
        confidence anyway.
    :return: the classes, and what was requested.
    """
    if logits.is_cuda:
        return _upsample_device(logits, size, confidence, temperature, grid_confidence)
    mask, *others = _upsample_cpu(logits, size, confidence, temperature, grid_confidence)
    requested = (None if array is None else torch.from_numpy(array) for array in others)
    return Upsampled(torch.from_numpy(mask), *requested)


def _upsample_device(
    logits: Tensor,
    size: tuple[int, int],
    confidence: bool,
    temperature: float,
    grid_confidence: bool,
) -> Upsampled:
    """Interpolate full-size planes, which is fast on a GPU."""
    planes = F.interpolate(logits[None].float(), size, mode='bilinear')[0]
    classes = planes.argmax(0)
    mask, chosen, likeliest = classes.to(torch.uint8), None, None
    if confidence or grid_confidence:
        probabilities = (logits[None].float() / temperature).softmax(1)
        likeliest = _to_bytes(probabilities[0].amax(0))
        if confidence:
            full = F.interpolate(probabilities, size, mode='bilinear')[0]
            chosen = _to_bytes(full.gather(0, classes[None])[0])
    return Upsampled(mask, chosen, likeliest)


def _to_bytes(probabilities: Tensor) -> Tensor:
    return (255 * probabilities).round_().to(torch.uint8)


def _upsample_cpu(
    logits: Tensor,
    size: tuple[int, int],
    confidence: bool,
    temperature: float,
    grid_confidence: bool,
) -> tuple[Classes, Classes | None, Classes | None]:
    """
    Interpolate only where it is necessary.

    If the four grid points around a pixel have the same largest class, so has every weighted mean
    of them. Such pixels are copied, and only those between different classes are interpolated.
    """
    planes = _planes(logits)
    top, largest = _largest(planes)
    inverse_temperature = 1 / temperature
    probabilities = likeliest = None
    if confidence or grid_confidence:  # the largest class contributes exp(0) to the sum
        probabilities = np.reciprocal(_sum_of_exp(planes, largest, inverse_temperature))
        likeliest = np.asarray(cv2.convertScaleAbs(probabilities, alpha=255), np.uint8)
    if not confidence:
        probabilities = None
    rows, columns = (make_axis_map(*lengths) for lengths in zip(size, top.shape, strict=True))
    nearest_row, nearest_column = (axis.points[axis.intervals] for axis in (rows, columns))
    mask: Classes = top.take(nearest_column, 1).take(nearest_row, 0)
    chosen = None if probabilities is None else _resize(probabilities, size)
    if size != top.shape:
        interpolate_mixed(
            Grid(planes, top, largest, probabilities, inverse_temperature, rows, columns),
            mask,
            chosen,
        )
    return mask, chosen, likeliest


def _planes(logits: Tensor) -> Planes:
    """Return (C, h, w) float32, each plane contiguous; the input may be channels last."""
    logits = logits.float()
    if logits.stride(0) != 1:
        planes = logits.numpy()  # of OpenVINO: without the rows of the padding, if there are any
        return planes if planes[0].flags.c_contiguous else np.ascontiguousarray(planes)
    rows = logits.permute(1, 2, 0).reshape(-1, len(logits))  # (h * w, C)
    planes = np.asarray(cv2.transpose(rows.numpy()), np.float32)
    return planes.reshape(logits.shape)


def _largest(planes: Planes) -> tuple[Classes, Planes]:
    """Return index and value of the largest of C planes; torch's argmax takes 20 times as long."""
    largest, index = planes[0].copy(), np.zeros(planes[0].shape, np.uint8)
    larger = np.empty(largest.shape, bool)
    for number, plane in enumerate(planes[1:], 1):
        np.greater(plane, largest, out=larger)
        np.maximum(index, larger.view(np.uint8) * np.uint8(number), out=index)  # numbers ascend
        np.maximum(largest, plane, out=largest)
    return index, largest


def _sum_of_exp(planes: Planes, largest: Planes, inverse_temperature: float) -> Planes:
    """Sum exp(inverse_temperature * (plane - largest)) over C planes, one by one."""
    total, term = np.zeros_like(largest), np.empty_like(largest)
    for plane in planes:
        np.subtract(plane, largest, out=term)
        cv2.exp(np.multiply(term, np.float32(inverse_temperature), out=term), dst=term)
        np.add(total, term, out=total)
    return total


def _resize(plane: Planes, size: tuple[int, int]) -> Classes:
    """Bilinear resize of (h, w) in 0..1 to (H, W) uint8 in 0..255."""
    full = cv2.resize(plane, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.convertScaleAbs(full, alpha=255), np.uint8)
