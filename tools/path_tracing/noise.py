# SPDX-License-Identifier: Apache-2.0
"""Random maps of the tissue: noise, distortions of it, and transitions between values."""

from typing import Final

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

Map = NDArray[np.float32]
"""(MAP_SIDE, MAP_SIDE) float32 value at each point of the tissue; colours have 3 channels."""

MAP_SIDE: Final = 1664
"""Side of the tissue's maps in samples: 55 per cm, about one per pixel of the image."""

Distortion = tuple[Map, Map]
"""Column and row from which each sample is taken."""


def fractal_noise(
    rng: Generator,
    frequency: float,
    octaves: int = 5,
    decay: float = 0.5,
    *,
    side: int = MAP_SIDE,
    distortion: Distortion | None = None,
) -> Map:
    """
    Sum octaves of noise, each twice as fine as the one before.

    :param rng: source of the values at the grids' knots.
    :param frequency: number of cells of the coarsest octave along a side.
    :param octaves: their number, as far as they are coarser than the samples.
    :param decay: strength of an octave relative to the coarser one.
    :param side: side of the map in samples.
    :param distortion: from where each sample is taken.
    :return: (side, side) with a standard deviation of 1 before the distortion.
    """
    total = np.zeros((side, side), np.float32)
    strength = 1.0
    for octave in range(octaves):
        knots = int(frequency * 2**octave) + 3
        if knots > side:
            break
        grid = rng.normal(0, 1, (knots, knots)).astype(np.float32)
        total += strength * cv2.resize(grid, (side, side), interpolation=cv2.INTER_CUBIC)
        strength *= decay
    total /= total.std() + 1e-6
    return total if distortion is None else distorted(total, distortion)


def distorted(values: Map, distortion: Distortion) -> Map:
    """
    Distort a map.

    :param values: the map.
    :param distortion: from where each sample is taken; beyond the border, the map is mirrored.
    :return: the distorted map.
    """
    columns, rows = distortion
    result = cv2.remap(values, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return np.asarray(result, np.float32)


def draw_distortion(rng: Generator, frequency: float, strength: float) -> Distortion:
    """
    Draw a random smooth distortion.

    :param rng: source of random numbers.
    :param frequency: number of cells of its coarsest octave along a side.
    :param strength: standard deviation of the displacement in samples.
    :return: the distortion of a whole map.
    """
    rows, columns = np.mgrid[:MAP_SIDE, :MAP_SIDE].astype(np.float32)
    return (
        columns + strength * fractal_noise(rng, frequency, 3),
        rows + strength * fractal_noise(rng, frequency, 3),
    )


def smooth_step(values: Map, low: float, high: float) -> Map:
    """
    Rise smoothly from 0 to 1.

    :param values: of any shape.
    :param low: value at which the rise starts.
    :param high: value at which it ends.
    :return: 0 to 1, of the same shape.
    """
    share = np.clip((values - low) / (high - low), 0, 1)
    return np.asarray(share * share * (3 - 2 * share))


def blend(below: Map, above: ArrayLike, cover: Map) -> Map:
    """
    Cover colours with others.

    :param below: (H, W, 3).
    :param above: (H, W, 3), or one colour.
    :param cover: (H, W) opacity of the colours above, 0 to 1.
    :return: (H, W, 3).
    """
    return np.asarray(below + (np.asarray(above, np.float32) - below) * cover[..., None])
