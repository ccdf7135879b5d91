# SPDX-License-Identifier: Apache-2.0
"""Smooth noise from resized random grids: the same pattern at every resolution."""

import math

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

FloatImage = NDArray[np.float32]


def smooth_noise(
    rng: Generator, extent: tuple[float, float], scale_px: float, cells: tuple[float, float]
) -> FloatImage:
    """
    Draw one octave of noise.

    :param rng: where the grid's values come from.
    :param extent: (height, width) of the area, in units.
    :param scale_px: pixels to the unit.
    :param cells: cells to the unit, down and across.
    :return: (H, W) float32, normally distributed at the grid's knots.
    """
    grid_size = [math.ceil(side * rate) + 3 for side, rate in zip(extent, cells)]
    grid = rng.standard_normal(grid_size, dtype=np.float32)
    height, width = (round(side * scale_px) for side in extent)
    zoom_y, zoom_x = (rate / scale_px for rate in cells)
    matrix = np.array([[zoom_x, 0, 1 + zoom_x / 2], [0, zoom_y, 1 + zoom_y / 2]])
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(grid, matrix, (width, height), flags=flags), np.float32)


def fractal_noise(
    rng: Generator,
    extent: tuple[float, float],
    scale_px: float,
    cells: float,
    octaves: int,
    decay: float = 0.5,
) -> FloatImage:
    """
    Add octaves of noise, each twice as fine as the one before and weaker by `decay`.

    :param rng: where the grids' values come from.
    :param extent: (height, width) of the area, in units.
    :param scale_px: pixels to the unit.
    :param cells: cells to the unit in the coarsest octave.
    :param octaves: how many; those finer than the pixels are drawn and left out.
    :param decay: the strength of an octave relative to the coarser one.
    :return: (H, W) float32 of about unit deviation.
    """
    total = smooth_noise(rng, extent, scale_px, (cells, cells))
    power = 1.0
    for octave in range(1, octaves):
        rate, weight = cells * 2**octave, decay**octave
        layer_rng = np.random.default_rng(rng.integers(2**63))
        if rate < scale_px / 2:
            total += weight * smooth_noise(layer_rng, extent, scale_px, (rate, rate))
            power += weight**2
    return np.asarray(total * np.float32(1.4 / math.sqrt(power)), np.float32)


def step(values: FloatImage, low: float, high: float) -> FloatImage:
    """
    Rise smoothly from 0 at `low` to 1 at `high`.

    :param values: any shape.
    :param low: where the rise begins.
    :param high: where it ends; it may be below `low`, for a fall.
    :return: float32 of the same shape, 0 to 1.
    """
    share = np.clip((values - np.float32(low)) / np.float32(high - low), 0, 1)
    return np.asarray(share * share * (3 - 2 * share), np.float32)


def mix(first: FloatImage, second: tuple[float, ...] | FloatImage, share: FloatImage) -> FloatImage:
    """
    Blend a colour picture towards a colour or another picture.

    :param first: (H, W, 3) float32.
    :param second: a colour, or (H, W, 3) float32.
    :param share: (H, W) float32, how much of the second.
    :return: (H, W, 3) float32.
    """
    target = np.asarray(second, np.float32)
    return np.asarray(first + (target - first) * share[..., None], np.float32)
