# SPDX-License-Identifier: Apache-2.0
"""
Random materials: the parameters from which `shaders` makes the nodes of a Blender material.

Colours are linear RGB from 0 to 1; lengths of patterns are in the units of the part's vertices.
"""

from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Colour = tuple[float, float, float]
"""Linear RGB, 0 to 1."""

BLOOD: Final[Colour] = (0.045, 0.003, 0.003)
"""Drying blood."""

PATTERN_SIZE: Final = (192, 1024)
"""Height (around) and width (along) of the image on a shaft in pixels."""

PATTERN_LENGTH: Final = 6.0
"""Length of a shaft that the image covers, in diameters; then it repeats."""

_ALONG: Final = (0.06, 1.0, 1.0)
_ACROSS: Final = (6.0, 0.5, 0.5)
"""Stretching of noise into streaks along or across a part."""

_FLESH: Final[tuple[Colour, ...]] = ((0.5, 0.35, 0.33), (0.25, 0.08, 0.14), (0.4, 0.03, 0.03))
"""Nerves, veins and arteries."""

_SHAFT_SHARES: Final = (0.24, 0.2, 0.41, 0.15)
"""Shares of black, dark grey, light grey and white shafts."""


class Smear(NamedTuple):
    """
    Blood on a surface: where noise exceeds a threshold.

    :param noise_scale: spatial frequency of the noise.
    :param noise_roughness: weight of its fine octaves, 0 to 1.
    :param threshold: noise above it is blood.
    :param width: range of the noise over which blood becomes opaque.
    :param drops_scale: spatial frequency of drops; None for none.
    """

    noise_scale: float
    noise_roughness: float
    threshold: float
    width: float
    drops_scale: float | None


@dataclass(frozen=True, eq=False)
class Surface:
    """
    Metal, plastic or tissue, worn and smeared with blood.

    :param colour: its colour where it is clean and unworn.
    :param metallic: 0 for plastic, 1 for metal.
    :param roughness: 0 for a mirror, 1 for chalk.
    :param seed: offset of its noise, so that no two surfaces are equal.
    :param wear_scale: spatial frequency of wear.
    :param wear: how much darker the colour is where it is worn, 0 to 1.
    :param smear: blood on it; None for none.
    :param brushed: strength of streaks; 0 for none.
    :param streaks: stretching of the noise of the streaks along x, y and z.
    :param pattern: (192, 1024) float32 factors of the colour, around and along; None for none.
    :param coat: strength of a clear coat on it, 0 to 1.
    :param scattering: share of light that is scattered below the surface, 0 to 1.
    """

    colour: Colour
    metallic: float
    roughness: float
    seed: float
    wear_scale: float
    wear: float = 0.25
    smear: Smear | None = None
    brushed: float = 0.0
    streaks: Colour = _ALONG
    pattern: NDArray[np.float32] | None = None
    coat: float = 0.0
    scattering: float = 0.0


@dataclass(frozen=True, eq=False)
class Cloth:
    """
    Gauze with stains of blood.

    :param stain_scale: spatial frequency of the noise of the stains.
    :param stain_threshold: noise above it is blood.
    """

    stain_scale: float
    stain_threshold: float


def surface(
    rng: Generator,
    colour: Colour,
    metallic: float,
    roughness: float,
    blood: float = 0.3,
    *,
    brushed: float = 0.0,
    wear: float = 0.25,
    coat: float = 0.0,
) -> Surface:
    """
    Draw the random parameters of a surface.

    :param rng: source of random numbers.
    :param colour: its colour.
    :param metallic: 0 for plastic, 1 for metal.
    :param roughness: 0 for a mirror, 1 for chalk.
    :param blood: how much of it is smeared with blood, 0 to 1.
    :param brushed: strength of streaks.
    :param wear: how much darker the colour is where it is worn, 0 to 1.
    :param coat: strength of a clear coat on it, 0 to 1.
    :return: the surface.
    """
    seed = float(rng.uniform(0, 50))
    wear_scale = float(rng.uniform(3, 8))
    made = Surface(colour, metallic, roughness, seed, wear_scale, wear, coat=coat)
    if brushed > 0:
        streaks = _ALONG if rng.random() < 0.8 else _ACROSS
        made = replace(made, brushed=brushed, streaks=streaks)
    return replace(made, smear=_smear(rng, blood)) if blood > 0 else made


def _smear(rng: Generator, blood: float) -> Smear:
    scale, roughness = float(rng.uniform(1.5, 5)), float(rng.uniform(0.5, 0.75))
    width = float(rng.uniform(0.02, 0.12))
    drops_scale = float(rng.uniform(3, 9)) if rng.random() < 0.35 else None
    return Smear(scale, roughness, 0.74 - 0.26 * blood, width, drops_scale)


def metal(rng: Generator, blood: float = 0.3, polished: bool | None = None) -> Surface:
    """
    Draw a surface of steel.

    :param rng: source of random numbers.
    :param blood: how much of it is smeared with blood, 0 to 1.
    :param polished: whether it mirrors; by default, half of the surfaces do.
    :return: the surface.
    """
    polished = rng.random() < 0.5 if polished is None else polished
    level = float(rng.uniform(0.65, 0.95) if polished else rng.uniform(0.3, 0.75))
    warmth = float(rng.uniform(-0.04, 0.06))
    roughness = float(rng.uniform(0.06, 0.22) if polished else rng.uniform(0.22, 0.5))
    brushed = float(rng.choice([0, 0.15]))
    colour = _tinted(level, warmth)
    return surface(rng, colour, 1.0, roughness, blood, brushed=brushed, wear=0.35)


def plain(rng: Generator, colour: Colour, roughness: float = 0.4, blood: float = 0.1) -> Surface:
    """
    Draw a surface of plastic or ceramic.

    :param rng: source of random numbers.
    :param colour: its colour.
    :param roughness: 0 for a mirror, 1 for chalk.
    :param blood: how much of it is smeared with blood, 0 to 1.
    :return: the surface.
    """
    return surface(rng, colour, 0.0, roughness, blood)


def shaft(rng: Generator, blood: float) -> Surface:
    """
    Draw the surface of a shaft: black, grey or white, with letters and streaks.

    :param rng: source of random numbers.
    :param blood: how much of it is smeared with blood, 0 to 1.
    :return: the surface.
    """
    kind = rng.choice(4, p=_SHAFT_SHARES)
    if kind == 0:  # black composite
        level, metallic, roughness = rng.uniform(0.012, 0.05), 0.0, rng.uniform(0.3, 0.6)
    elif kind == 1:
        level, metallic = rng.uniform(0.05, 0.16), rng.uniform(0, 0.5)
        roughness = rng.uniform(0.3, 0.55)
    elif kind == 2:
        level, metallic = rng.uniform(0.2, 0.5), rng.uniform(0.3, 1)
        roughness = rng.uniform(0.25, 0.5)
    else:
        level, metallic = rng.uniform(0.5, 0.8), rng.uniform(0, 0.8)
        roughness = rng.uniform(0.25, 0.5)
    colour = _tinted(float(level), float(rng.uniform(-0.06, 0.06)))
    brushed, pattern = float(rng.uniform(0.05, 0.3)), _shaft_pattern(rng)
    coat = float(rng.choice([0, 0.2]))
    levels = float(metallic), float(roughness), blood
    return replace(surface(rng, colour, *levels, brushed=brushed, coat=coat), pattern=pattern)


def flesh(rng: Generator, base: NDArray[np.float64]) -> Surface:
    """
    Draw a surface of tissue that hangs or lies apart: a vessel, a strand.

    :param rng: source of random numbers.
    :param base: (3,) prevailing colour of the tissue, sRGB from 0 to 1.
    :return: the surface, which is wet and translucent.
    """
    factors = rng.uniform(0.6, 1.3), rng.uniform(0.5, 2), rng.uniform(0.5, 2)
    red, green, blue = (float(value) for value in base**2.2 * factors)
    colour: Colour = (red, green, blue)
    if rng.random() < 0.35:
        colour = _FLESH[rng.integers(len(_FLESH))]
    roughness, blood = float(rng.uniform(0.15, 0.4)), float(rng.uniform(0, 0.7))
    return replace(surface(rng, colour, 0.0, roughness, blood, coat=0.7), scattering=0.4)


def _tinted(level: float, warmth: float) -> Colour:
    return level * (1 + warmth), level, level * (1 - warmth)


def _shaft_pattern(rng: Generator) -> NDArray[np.float32]:
    """Draw letters, on opposite sides of the shaft, and streaks along it."""
    height, width = PATTERN_SIZE
    pattern = np.ones(PATTERN_SIZE, np.float32)
    if rng.random() < 0.45:
        text = ''.join(chr(code) for code in rng.integers(65, 91, int(rng.integers(3, 10))))
        size = float(rng.uniform(0.8, 2.2))
        ink = np.zeros(PATTERN_SIZE, np.uint8)
        for row in (height // 4, 3 * height // 4):
            origin = (int(rng.integers(50, 700)), row)
            cv2.putText(ink, text, origin, cv2.FONT_HERSHEY_DUPLEX, size, (255,), 3, cv2.LINE_AA)
        pattern *= 1 + (ink / 255) * (float(rng.choice([-0.75, 2.0])))
    knots = rng.normal(0, 1, (height, 24)).astype(np.float32)
    streaks = cv2.resize(knots, (width, height), interpolation=cv2.INTER_CUBIC)
    pattern *= 1 + float(rng.uniform(0.02, 0.16)) * streaks
    brightest = 1.0 if rng.random() < 0.5 else 3.0
    return np.asarray(np.clip(pattern, 0, brightest), np.float32)
