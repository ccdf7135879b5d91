# SPDX-License-Identifier: Apache-2.0
"""Bands along curves, with exact coverage."""

import math
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from surgseg_ros.training.scenes.drawing import Patch, Points, View
from surgseg_ros.training.scenes.noise import FloatImage

Shade = Callable[[FloatImage, FloatImage, FloatImage], FloatImage]
"""(along, across, facing), each (N,), to (N, 3) colours: distance along the curve in units, place
across from -1 to 1, and the curve's direction as an angle in radians."""


def ribbon(
    view: View, points: Points, half_width: Points, shade: Shade, label: int, flat: bool = False
) -> Patch | None:
    """
    Draw a band of given width along a curve, with exact coverage.

    :param view: the image.
    :param points: (N, 2) the curve, x and y in units.
    :param half_width: (N,) half of the band's width at each point, in units.
    :param shade: gives the colours.
    :param label: the class.
    :param flat: cut the near end straight; else it is round.
    :return: the patch, or None outside the image.
    """
    centres = view.to_pixels(points)
    halves = half_width * view.height
    box = view.clip(centres, float(halves.max()) + 2)
    if box is None:
        return None
    left, top, right, bottom = box
    centres = centres - (left, top)
    rows, columns, segments = _near(centres, halves, (bottom - top, right - left))
    if not len(rows):
        return None
    along, offset, gap, facing = _project(centres, halves, columns, rows, segments, flat)
    coverage = np.clip(0.5 - gap, 0, 1)
    along /= view.height
    colours = np.clip(shade(along, offset, facing), 0, 255)
    rgba = np.zeros((bottom - top, right - left, 4), np.uint8)
    rgba[rows, columns, :3] = np.rint(colours * coverage[:, None])
    rgba[rows, columns, 3] = np.rint(coverage * 255)
    return Patch(left, top, rgba, label)


def _near(
    centres: Points, halves: Points, size: tuple[int, int]
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Find the pixels near the curve, and for each the last segment that passes it."""
    nearest = np.zeros(size, np.uint16)
    fixed = np.rint(centres * 16).astype(int)
    for i in range(len(centres) - 1):
        thickness = math.ceil(2 * max(halves[i], halves[i + 1])) + 3
        ends = (tuple(map(int, fixed[i])), tuple(map(int, fixed[i + 1])))
        cv2.line(nearest, *ends, (i + 1,), thickness, cv2.LINE_8, 4)
    rows, columns = np.nonzero(nearest)
    return rows, columns, nearest[rows, columns].astype(np.intp) - 1


def _project(
    centres: Points,
    halves: Points,
    columns: NDArray[np.intp],
    rows: NDArray[np.intp],
    segments: NDArray[np.intp],
    flat: bool,
) -> tuple[FloatImage, FloatImage, FloatImage, FloatImage]:
    """Measure along and across the curve: (along_px, across -1..1, px outside the edge, angle)."""
    starts = centres[:-1].astype(np.float32)
    steps = np.diff(centres, axis=0).astype(np.float32)
    lengths = np.maximum(np.hypot(steps[:, 0], steps[:, 1]), np.float32(1e-6))
    units = steps / lengths[:, None]
    travelled = np.concatenate([[0], np.cumsum(lengths)]).astype(np.float32)
    half = halves.astype(np.float32)
    last = len(starts) - 1
    best: list[FloatImage] = []
    for shift in (0, -1, 1) if last else (0,):
        seg = np.clip(segments + shift, 0, last)
        dx, dy = columns - starts[seg, 0], rows - starts[seg, 1]
        unit = units[seg]
        free = dx * unit[:, 0] + dy * unit[:, 1]
        foot = np.clip(free, 0, lengths[seg])
        side = dy * unit[:, 0] - dx * unit[:, 1]
        share = foot / lengths[seg]
        width = np.maximum(half[seg] * (1 - share) + half[seg + 1] * share, np.float32(1e-3))
        beyond = free - foot
        gap = np.hypot(beyond, side) - width
        if flat:
            gap = np.where(seg == 0, np.maximum(-free, np.abs(side) - width), gap)
        angle = np.arctan2(unit[:, 1], unit[:, 0])
        found = [travelled[seg] + foot, np.clip(side / width, -1, 1), gap, angle]
        if not best:
            best = found
        else:
            nearer = gap < best[2]
            best = [np.where(nearer, new, old) for new, old in zip(found, best)]
    return best[0], best[1], best[2], best[3]
