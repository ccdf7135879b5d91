# SPDX-License-Identifier: Apache-2.0
"""
Smooth noise over an area and over time.

The pattern is the same at every resolution, and any frame can be drawn without the others.
"""

import math

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

FloatImage = NDArray[np.float32]

_SMOOTH_PX = 16
"""Pixels per cell from which on noise can be computed at a lower resolution and enlarged."""


def spawn_rng(rng: Generator) -> Generator:
    """Create another generator, so that its use does not change later random numbers."""
    return np.random.default_rng(rng.integers(2**63))


def smooth_noise(
    rng: Generator, extent: tuple[float, float], scale_px: float, frequency: tuple[float, float]
) -> FloatImage:
    """
    Draw one octave of noise.

    :param rng: source of the grid's values.
    :param extent: (height, width) of the area, in units.
    :param scale_px: pixels per unit.
    :param frequency: cells per unit, vertically and horizontally.
    :return: (H, W) float32, normally distributed at the grid's knots.
    """
    height, width = (round(side * scale_px) for side in extent)
    if scale_px > 2 * _SMOOTH_PX * max(frequency):
        coarse = smooth_noise(rng, extent, _SMOOTH_PX * max(frequency), frequency)
        return enlarge(coarse, (height, width))
    grid_size = [math.ceil(side * rate) + 3 for side, rate in zip(extent, frequency)]
    grid = rng.standard_normal(grid_size, dtype=np.float32)
    full = [round(count * scale_px / rate) for count, rate in zip(grid_size, frequency)]
    smooth = cv2.resize(grid, (full[1], full[0]), interpolation=cv2.INTER_CUBIC)
    top, left = (round(scale_px / rate) for rate in frequency)
    return np.asarray(smooth[top : top + height, left : left + width], np.float32)


def enlarge(values: FloatImage, size: tuple[int, int]) -> FloatImage:
    """
    Enlarge without the ripples that cubic interpolation causes on slopes.

    :param values: (h, w) float32.
    :param size: (H, W) of the result.
    :return: (H, W) float32.
    """
    large = cv2.resize(values, size[::-1], interpolation=cv2.INTER_LINEAR)
    box = (math.ceil(size[1] / values.shape[1]), math.ceil(size[0] / values.shape[0]))
    return np.asarray(cv2.blur(cv2.blur(large, box), box), np.float32)


def soften(values: FloatImage, sigma_px: float) -> FloatImage:
    """
    Apply a Gaussian blur, a broad one at a lower resolution, where it takes a tenth of the time.

    :param values: (H, W) float32.
    :param sigma_px: standard deviation in pixels.
    :return: (H, W) float32.
    """
    shrink = 4 if sigma_px > 16 else 2 if sigma_px > 8 else 1
    size = [math.ceil(side / shrink) for side in values.shape]
    small = cv2.resize(values, size[::-1], interpolation=cv2.INTER_AREA)
    soft = cv2.GaussianBlur(small, (0, 0), sigma_px / shrink)
    return np.asarray(cv2.resize(soft, values.shape[::-1]), np.float32)


def fractal_noise(
    rng: Generator,
    extent: tuple[float, float],
    scale_px: float,
    frequency: float,
    octaves: int,
    decay: float = 0.5,
) -> FloatImage:
    """
    Sum octaves of noise, each twice as fine as the previous one and weaker by `decay`.

    :param rng: source of the grids' values.
    :param extent: (height, width) of the area, in units.
    :param scale_px: pixels per unit.
    :param frequency: cells per unit in the coarsest octave.
    :param octaves: their number; those finer than the pixels are drawn but not added.
    :param decay: the strength of an octave relative to the coarser one.
    :return: (H, W) float32 with a standard deviation of about 1.
    """
    total = smooth_noise(spawn_rng(rng), extent, scale_px, (frequency, frequency))
    power = 1.0
    for octave in range(1, octaves):
        rate, weight = frequency * 2**octave, decay**octave
        layer_rng = spawn_rng(rng)
        if rate < scale_px / 2:
            total += weight * smooth_noise(layer_rng, extent, scale_px, (rate, rate))
            power += weight**2
    return np.asarray(total * np.float32(1.4 / math.sqrt(power)), np.float32)


def smoothstep(values: FloatImage, low: float, high: float) -> FloatImage:
    """
    Interpolate smoothly from 0 at `low` to 1 at `high`.

    :param values: any shape.
    :param low: start of the rise.
    :param high: its end; it may be below `low`, for a fall.
    :return: float32 of the same shape, 0 to 1.
    """
    share = values - np.float32(low)
    share /= np.float32(high - low)
    np.clip(share, 0, 1, out=share)
    slope = 3 - 2 * share
    share *= share
    share *= slope
    return np.asarray(share, np.float32)


def mix(
    first: FloatImage, second: tuple[float, ...] | FloatImage, share: FloatImage
) -> FloatImage:
    """
    Blend a colour image towards a colour or another image.

    :param first: (H, W, 3) float32.
    :param second: a colour, or (H, W, 3) float32.
    :param share: (H, W) float32, weight of the second.
    :return: (H, W, 3) float32.
    """
    # Rows of numbers, since NumPy is slow where it repeats three values.
    rows = first.reshape(len(first), -1)
    target = np.asarray(second, np.float32)
    target = target.reshape(len(first), -1) if target.ndim > 1 else np.tile(target, first.shape[1])
    mixed = target - rows
    mixed *= rgb(share).reshape(rows.shape)
    mixed += rows
    return mixed.reshape(first.shape)


def rgb(plane: FloatImage) -> FloatImage:
    """
    Repeat a plane for each colour.

    :param plane: (H, W) float32.
    :return: (H, W, 3) float32.
    """
    return np.asarray(cv2.cvtColor(plane, cv2.COLOR_GRAY2RGB), np.float32)


class Drift:
    """
    A value that drifts smoothly between two bounds.

    :param rng: source of its amplitudes, periods and phases.
    :param low: the minimum.
    :param high: the maximum.
    :param period_s: approximate duration of one cycle.
    """

    def __init__(self, rng: Generator, low: float, high: float, period_s: float = 6.0) -> None:
        self._middle = (low + high) / 2
        self._amplitude = (high - low) / 2
        self._waves = [
            (weight, 2 * math.pi / (period_s * spread), float(rng.uniform(0, 2 * math.pi)))
            for weight, spread in (
                (0.6, float(rng.uniform(0.8, 1.4))),
                (0.3, float(rng.uniform(0.4, 0.6))),
                (0.1, float(rng.uniform(0.18, 0.25))),
            )
        ]

    def __call__(self, time_s: float) -> float:
        """Return the value at a time, in seconds."""
        waves = sum(
            weight * math.sin(rate * time_s + phase) for weight, rate, phase in self._waves
        )
        return self._middle + self._amplitude * waves


def slight_drift(
    rng: Generator, low: float, high: float, share: float, period_s: float = 8.0
) -> Drift:
    """
    Choose a value between two bounds that drifts within only a share of the range.

    :param rng: source of the choice.
    :param low: the minimum.
    :param high: the maximum.
    :param share: how much of the range the motion takes, 0 to 1.
    :param period_s: approximate duration of one cycle.
    :return: the moving value.
    """
    amplitude = (high - low) * share / 2
    middle = float(rng.uniform(low + amplitude, high - amplitude))
    return Drift(rng, middle - amplitude, middle + amplitude, period_s)
