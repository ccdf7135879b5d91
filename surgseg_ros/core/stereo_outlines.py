# SPDX-License-Identifier: Apache-2.0
"""
Disparity between the outlines of an instrument in two rectified images.

Two tips that are found independently differ by several pixels. The outlines, which are nearly the
same in both images, differ by a fraction of a pixel.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.detections import Instrument
from surgseg_ros.core.labels import ROBOTIC_TOOL, ROBOTIC_TOOL_PARTS
from surgseg_ros.core.segmentation import Points

_BLUR_PX: Final = 2.0
_TURN_PX: Final = 20.0
"""Distance that counts as much as an angle of one radian between two normals."""

_MAX_POINTS: Final = 600
_MIN_POINTS: Final = 12
_ROUNDS: Final = 8
_MIN_PX: Final = 0.5
_NORMAL: Final = 1.4826
"""Standard deviation over median absolute deviation of a normal distribution."""

_AGREE: Final = 3.0
"""Largest difference between the disparities of outlines and tips, in standard deviations."""

_MIN_SHARE: Final = 0.5
"""Share of the outline that must be visible in both images."""

_MAX_CONDITION: Final = 1e12

_CORRELATED: Final = 10.0
"""Number of neighbouring points of an outline whose errors are correlated."""


class Outline(NamedTuple):
    """
    Points on the outlines of an instrument's parts.

    :param points: (n, 2) x and y in pixels.
    :param normals: (n, 2) unit vectors that point out of the part.
    """

    points: Points
    normals: Points


class Disparity(NamedTuple):
    """
    The disparity between two outlines.

    :param px: disparity at the tip, in pixels.
    :param sigma_px: its standard deviation.
    """

    px: float
    sigma_px: float


def find_outline(
    mask: NDArray[np.uint8], instrument: Instrument, point: Points, radius_px: float
) -> Outline:
    """
    Find the outlines of the parts of an instrument around a point.

    :param mask: (H, W) uint8 class index.
    :param instrument: an instrument of the mask.
    :param point: (2,) x and y in pixels.
    :param radius_px: largest distance from that point.
    :return: the outline, without points at the border of the image.
    """
    height, width = mask.shape
    low = np.maximum(np.floor(point - radius_px).astype(int), 0)
    high = np.minimum(np.ceil(point + radius_px).astype(int) + 1, (width, height))
    if instrument.runs is None or not (low < high).all():
        return Outline(np.empty((0, 2)), np.empty((0, 2)))
    part = mask[low[1] : high[1], low[0] : high[0]]
    own = np.zeros(part.shape, np.uint8)
    runs = instrument.runs
    near = (runs.rows >= low[1]) & (runs.rows < high[1])
    for row, start, end in zip(runs.rows[near], runs.starts[near], runs.ends[near]):
        own[row - low[1], max(0, start - low[0]) : max(0, end - low[0])] = 1
    labels = ROBOTIC_TOOL_PARTS if instrument.label == ROBOTIC_TOOL else (instrument.label,)
    found = [_outline_of(own & (part == label).astype(np.uint8)) for label in labels]
    points = np.concatenate([points for points, _ in found])
    normals = np.concatenate([normals for _, normals in found])
    near = np.hypot(*(points + low - point).T) <= radius_px
    return Outline(points[near] + low, normals[near])


def _outline_of(area: NDArray[np.uint8]) -> Outline:
    """Find the boundary of an area, between two pixels, and its normals."""
    soft = cv2.GaussianBlur(area.astype(np.float32), (0, 0), _BLUR_PX)
    slopes = [cv2.Sobel(soft, cv2.CV_32F, *axis) for axis in ((1, 0), (0, 1))]
    found = []
    for axis, shift in ((1, (0.5, 0.0)), (0, (0.0, 0.5))):
        rows, columns = np.nonzero(np.diff(area.astype(np.int8), axis=axis))
        found.append((np.stack([columns, rows], 1) + np.array(shift), rows, columns))
    points = np.concatenate([points for points, _, _ in found])
    rows, columns = (np.concatenate([each[k] for each in found]) for k in (1, 2))
    normals = -np.stack([slope[rows, columns] for slope in slopes], 1).astype(np.float64)
    lengths = np.hypot(*normals.T)
    sharp = lengths > 0.1 * lengths.max(initial=0.0)
    return Outline(points[sharp], normals[sharp] / lengths[sharp, None])


def fit_disparity(
    first: Outline,
    second: Outline,
    point: Points,
    direction: Points,
    prior_px: tuple[float, float],
    slope_sigma: float,
) -> Disparity | None:
    """
    Fit the disparity of an outline, which may change linearly in one direction.

    Least squares of the distances along the normals, as in point-to-line ICP (Chen and Medioni,
    1992).
    :param first: outline in the first image.
    :param second: outline in the second image.
    :param point: (2,) x and y in the first image of the point whose disparity is returned.
    :param direction: (2,) unit vector in which the disparity may change.
    :param prior_px: initial disparity, and its standard deviation.
    :param slope_sigma: expected standard deviation of the relative change, per pixel.
    :return: the disparity; None if the outlines do not determine it, or contradict the prior.
    """
    from scipy.spatial import cKDTree

    if min(len(first.points), len(second.points)) < _MIN_POINTS:
        return None
    step = -(-len(first.points) // _MAX_POINTS)
    sample = Outline(first.points[::step], first.normals[::step])
    tree = cKDTree(np.hstack([second.points, _TURN_PX * second.normals]))
    along = np.stack([np.ones(len(sample.points)), (sample.points - point) @ direction], 1)
    slope = slope_sigma * max(1.0, abs(prior_px[0]))
    state = _Fit(np.array([prior_px[0], 0.0]), np.diag([0.0, slope**-2]), prior_px[1])
    for _ in range(_ROUNDS):
        moved = sample.points - np.outer(along @ state.values, [1.0, 0.0])
        _, nearest = tree.query(np.hstack([moved, _TURN_PX * sample.normals]))
        rest = np.einsum('ij,ij->i', sample.normals, moved - second.points[nearest])
        kept = np.abs(rest) < 3 * max(state.sigma_px, _MIN_PX)
        if not state.improve(sample.normals[kept, :1] * along[kept], rest[kept], step):
            return None
    off = abs(state.values[0] - prior_px[0]) > _AGREE * prior_px[1]
    return None if off or kept.mean() < _MIN_SHARE else state.disparity()


class _Fit:
    """Least squares with a prior, for the disparity and its change."""

    def __init__(self, values: Points, prior: Points, sigma_px: float) -> None:
        self.values = values
        self.sigma_px = sigma_px
        self._prior = prior
        self._information = prior

    def improve(self, design: Points, rest: Points, step: int) -> bool:
        """Do one iteration with every `step`-th point; False if the disparity is undetermined."""
        if len(design) < _MIN_POINTS:
            return False
        self.sigma_px = max(_MIN_PX, _NORMAL * float(np.median(np.abs(rest))))
        weight = 1 / (self.sigma_px**2 * max(1.0, _CORRELATED / step))
        self._information = weight * design.T @ design + self._prior
        if np.linalg.cond(self._information) > _MAX_CONDITION:
            return False
        slopes = weight * design.T @ rest - self._prior @ self.values
        self.values = self.values + np.linalg.solve(self._information, slopes)
        return True

    def disparity(self) -> Disparity:
        """Return the disparity and its standard deviation."""
        variance = float(np.linalg.inv(self._information)[0, 0])
        return Disparity(float(self.values[0]), math.sqrt(variance))
