# SPDX-License-Identifier: Apache-2.0
"""The colours of the tissue on its relief: patches, fat, fascia, vessels, blood and char."""

import math
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from tools.path_tracing.noise import MAP_SIDE, Map, blend, fractal_noise, smooth_step
from tools.path_tracing.tissue_relief import Relief

_FAT: Final = ((0.84, 0.52, 0.22), (0.88, 0.63, 0.34), (0.75, 0.38, 0.15), (0.93, 0.77, 0.56))
_FASCIA: Final = (0.85, 0.68, 0.66)
_VESSELS: Final = ((0.45, 0.05, 0.08), (0.35, 0.12, 0.25), (0.55, 0.04, 0.05))
_CHAR: Final = (0.08, 0.04, 0.03)
"""sRGB, 0 to 1."""

_VESSEL_STEP: Final = 9.0
"""Distance between the points of a vessel in samples."""

_BRANCHINGS: Final = 3
"""How often a vessel on the surface and its branches may branch."""


class Colours(NamedTuple):
    """
    The surface of the tissue; the maps are (MAP_SIDE, MAP_SIDE).

    :param base: sRGB, 0 to 1, of its prevailing colour.
    :param colour: sRGB, 0 to 1.
    :param wetness: 0 to 1.
    :param blood: opacity of the blood on it.
    :param grain: the finest noise.
    """

    base: NDArray[np.float64]
    colour: Map
    wetness: Map
    blood: Map
    grain: Map


def draw_colours(rng: Generator, relief: Relief) -> Colours:
    """
    Draw the colours of a relief.

    :param rng: source of random numbers.
    :param relief: the relief.
    :return: its colours.
    """
    base = np.array([rng.uniform(*span) for span in relief.site.base])
    colour = _patches(rng, relief, base)
    colour = colour * (1 + 0.05 * relief.fibres * (1 - relief.organs))[..., None]
    colour = blend(colour, relief.organ_colours, relief.organs)
    grain = fractal_noise(rng, float(rng.uniform(120, 260)), 3, 0.6)
    grainy = 1 + 0.05 * relief.fine + float(rng.uniform(0.02, 0.08)) * grain
    colour = colour * grainy[..., None]
    colour = _with_fat(rng, relief, colour)
    colour = blend(colour, _FASCIA, relief.fascia)
    colour = _with_vessels(rng, colour)
    blood = _blood(rng, relief)
    colour = blend(colour, (rng.uniform(0.28, 0.48), 0.02, 0.02), blood)
    charred = fractal_noise(rng, 12, 5, 0.6) + relief.fine_folds * 0.3
    colour = blend(colour, _CHAR, 0.8 * smooth_step(charred, rng.uniform(2.2, 3.2), 3.8))
    wetness = 0.25 + 0.75 * smooth_step(fractal_noise(rng, 7, 4), -1, 1.2) + blood
    limited = np.clip(colour, 0, 1).astype(np.float32)
    return Colours(base, limited, np.clip(wetness, 0, 1).astype(np.float32), blood, grain)


def _patches(rng: Generator, relief: Relief, base: NDArray[np.float64]) -> Map:
    """Mix the base colour with a darker or redder one, and a lighter one."""
    distortion = relief.distortion
    tone = fractal_noise(rng, 6, 5, 0.6, distortion=distortion)
    colour = np.ones((MAP_SIDE, MAP_SIDE, 3), np.float32) * base.astype(np.float32)
    level = rng.uniform(0.5, 1.35)
    other = base * (rng.uniform(0.65, 1.1), level, level * rng.uniform(0.85, 1.2))
    other[1:] = np.minimum(other[1:], other[0])  # no tissue is green or blue
    colour = blend(colour, other, smooth_step(tone, -0.3, 1.2))
    white = np.array((0.92, rng.uniform(0.55, 0.75), rng.uniform(0.45, 0.7)))
    light = base + (white - base) * rng.uniform(0.1, 0.6)
    spots = fractal_noise(rng, 16, 4, 0.6, distortion=distortion)
    return blend(colour, light, smooth_step(spots, 0.3, 1.8) * 0.7)


def _with_fat(rng: Generator, relief: Relief, colour: Map) -> Map:
    """Cover with fat, which is redder in its grooves."""
    fat = np.array(_FAT[rng.integers(len(_FAT))]) * rng.uniform(0.85, 1.05)
    colour = blend(colour, fat, relief.fat * 0.92)
    grooves = smooth_step(relief.fine + relief.lumps, 0.8, 2.2)
    return blend(colour, fat * (0.92, 0.6, 0.45), relief.fat * grooves * 0.6)


def _with_vessels(rng: Generator, colour: Map) -> Map:
    """Draw vessels that shine through the surface."""
    drawn = np.zeros((MAP_SIDE, MAP_SIDE), np.uint8)
    for _ in range(int(rng.integers(4, 40))):
        start, aim = rng.uniform(0, MAP_SIDE, 2), rng.uniform(0, 2 * np.pi)
        _draw_vessel(rng, drawn, start, aim, int(rng.integers(1, 5)), _BRANCHINGS)
    blurred = cv2.GaussianBlur(drawn, (0, 0), 1.2).astype(np.float32)
    vessel = _VESSELS[rng.integers(len(_VESSELS))]
    cover = blurred * np.float32(rng.uniform(0.2, 0.75) / 255)
    return blend(colour, vessel, cover)


def _draw_vessel(
    rng: Generator,
    drawn: NDArray[np.uint8],
    start: NDArray[np.float64],
    aim: float,
    width: int,
    branchings: int,
) -> None:
    """Draw a vessel from a point in a direction (radians), and its branches."""
    point, points = start, [start]
    for _ in range(int(rng.integers(20, 70))):
        aim += rng.normal(0, 0.18)
        point = point + _VESSEL_STEP * np.array([math.cos(aim), math.sin(aim)])
        points.append(point)
        if branchings and rng.random() < 0.05:
            side = aim + rng.choice([-0.7, 0.7])
            _draw_vessel(rng, drawn, point, side, max(1, width - 1), branchings - 1)
    eighths = (np.array(points) * 8).astype(np.int32)
    cv2.polylines(drawn, [eighths], False, (255,), width, cv2.LINE_AA, 3)


def _blood(rng: Generator, relief: Relief) -> Map:
    """Return the opacity of blood, which collects in hollows and in the cavity."""
    frequency = float(rng.uniform(4, 10))
    noise = fractal_noise(rng, frequency, 6, 0.6, distortion=relief.distortion)
    hollow = cv2.GaussianBlur(relief.height_cm, (0, 0), 25) - relief.height_cm
    low = float(rng.uniform(0.6, 1.6)) - relief.site.bleeding * float(rng.uniform(0.3, 1.0))
    spread = float(rng.uniform(0.1, 0.8))
    blood = smooth_step(noise + 1.4 * hollow + 1.2 * relief.pit, low, low + spread)
    return blood * float(rng.uniform(0.6, 1))
