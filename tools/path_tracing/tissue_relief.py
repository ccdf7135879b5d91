# SPDX-License-Identifier: Apache-2.0
"""The relief of the tissue: a basin with a cavity, organs, folds, fat, fibres and fascia."""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.random import Generator

from tools.path_tracing.noise import (
    MAP_SIDE,
    Distortion,
    Map,
    blend,
    distorted,
    draw_distortion,
    fractal_noise,
    smooth_step,
)

HALF_SIDE_CM: Final = 15.0
"""Half of the side of the maps: three times the area that the camera sees."""

Range = tuple[float, float]


class Site(NamedTuple):
    """
    The kind of tissue that prevails in a scene.

    :param roughness: relative height of its folds.
    :param fat_from: range of the noise above which there is fat.
    :param base: ranges of red, green and blue (sRGB, 0 to 1) of its colour.
    :param bleeding: tendency to bleed.
    """

    roughness: float
    fat_from: Range
    base: tuple[Range, Range, Range]
    bleeding: float


SITES: Final[Mapping[str, Site]] = {
    'pelvis': Site(1.0, (0.1, 0.9), ((0.42, 0.62), (0.05, 0.12), (0.04, 0.09)), 0.75),
    'red': Site(0.7, (0.6, 2.0), ((0.5, 0.7), (0.1, 0.2), (0.08, 0.17)), 0.1),
    'pink': Site(0.35, (0.8, 2.2), ((0.68, 0.85), (0.33, 0.5), (0.3, 0.46)), -0.6),
    'pale': Site(0.3, (0.5, 2.0), ((0.8, 0.92), (0.6, 0.75), (0.52, 0.7)), -0.8),
    'white': Site(0.25, (0.8, 2.2), ((0.84, 0.96), (0.74, 0.9), (0.68, 0.86)), -1.0),
    'organ': Site(0.3, (0.2, 1.5), ((0.5, 0.75), (0.18, 0.35), (0.15, 0.33)), -0.3),
}

_SITE_WEIGHTS: Final = (
    *('pelvis', 'pelvis', 'pelvis', 'pelvis', 'red', 'pink'),
    *('pink', 'pale', 'pale', 'white', 'organ', 'organ'),
)
"""Names from which the site is drawn: the pelvis, where SAR-RARP50 was recorded, most often."""

BARE_SITES: Final = ('white', 'white', 'pale', 'pale', 'pink', 'organ', 'pelvis', 'red')
"""The same for tissue without instruments: the network takes pale tissue for a shaft."""

_WITH_ORGANS: Final = ('organ', 'pale', 'white')
"""Sites with two to six organs; others have three at most."""

_ORGAN_COLOURS: Final = (
    *((0.42, 0.07, 0.06), (0.55, 0.16, 0.13), (0.32, 0.05, 0.07)),
    *((0.70, 0.38, 0.34), (0.75, 0.50, 0.28), (0.5, 0.28, 0.3)),
    *((0.86, 0.74, 0.68), (0.72, 0.62, 0.6), (0.9, 0.84, 0.8)),
    *((0.48, 0.36, 0.48), (0.62, 0.44, 0.52), (0.5, 0.45, 0.52)),
)
"""sRGB, 0 to 1: liver, spleen, bowel, kidney and the like."""


class Relief(NamedTuple):
    """
    Height of the tissue, and what grows where; all maps are (MAP_SIDE, MAP_SIDE).

    :param site: the kind of tissue.
    :param height_cm: height above the average of the basin's floor.
    :param detail_cm: relief too fine for the mesh.
    :param distortion: shared by the maps, so that they follow each other.
    :param pit: 1 in the cavity.
    :param organs: 1 on organs.
    :param organ_colours: sRGB, 0 to 1.
    :param fine_folds: height of fine folds.
    :param lumps: noise of the size of lobules of fat.
    :param fat: opacity of the fat.
    :param fibres: noise that is stretched into fibres.
    :param fascia: opacity of the fascia.
    :param fine: the finest noise.
    """

    site: Site
    height_cm: Map
    detail_cm: Map
    distortion: Distortion
    pit: Map
    organs: Map
    organ_colours: Map
    fine_folds: Map
    lumps: Map
    fat: Map
    fibres: Map
    fascia: Map
    fine: Map


class _Area(NamedTuple):
    """Position of each sample in cm, from the middle of the area."""

    x: Map
    y: Map


class _Organs(NamedTuple):
    """The height with organs, where they are, and their colours."""

    height: Map
    cover: Map
    colours: Map


class _Folds(NamedTuple):
    """Height of all folds in cm, noise of the fine ones, and relative height at this site."""

    height: Map
    fine: Map
    roughness: float


def draw_relief(rng: Generator, depth_cm: float, sites: Sequence[str] = _SITE_WEIGHTS) -> Relief:
    """
    Draw the relief of a random site.

    :param rng: source of random numbers.
    :param depth_cm: distance from the camera to the floor of the basin.
    :param sites: names from which the site is drawn.
    :return: the relief.
    """
    rows, columns = np.mgrid[:MAP_SIDE, :MAP_SIDE].astype(np.float32)
    to_cm = 2 / (MAP_SIDE - 1)
    area = _Area((columns * to_cm - 1) * HALF_SIDE_CM, (rows * to_cm - 1) * HALF_SIDE_CM)
    name = str(rng.choice(sites))
    site = SITES[name]
    distortion = draw_distortion(rng, 5, float(rng.uniform(10, 45)))
    height = _basin(rng, area, depth_cm)
    pit = np.zeros_like(height)
    if name == 'pelvis' or rng.random() < 0.4:
        pit = _pit(rng, area, distortion)
        height -= pit * float(rng.uniform(0.8, 3.2))
    count = int(rng.integers(2, 7)) if name in _WITH_ORGANS else int(rng.integers(0, 4))
    organs = _organs(rng, area, height, count)
    soft = 1 - 0.8 * organs.cover
    folds = _folds(rng, site, distortion)
    lumps = fractal_noise(rng, float(rng.uniform(20, 40)), 4)
    fat = _fat(rng, site, distortion, lumps - 10 * pit) * (1 - organs.cover)
    fibres = _fibres(rng)
    fascia = _fascia(rng, distortion, fibres, pit)
    height = organs.height + soft * folds.height + fat * (0.15 + 0.07 * lumps)
    fine = fractal_noise(rng, 40, 4, 0.6)
    detail = (
        soft * (0.025 * folds.roughness * fine + 0.006 * fibres * (1 - fat)) + fat * 0.01 * fine
    )
    return Relief(
        *(site, height, detail, distortion, pit, organs.cover, organs.colours, folds.fine),
        *(lumps, fat, fibres, fascia, fine),
    )


def _basin(rng: Generator, area: _Area, depth_cm: float) -> Map:
    """Raise the ground towards the border, with a slope."""
    x = area.x - rng.uniform(-1, 1)
    y = (area.y - rng.uniform(-1, 1)) * rng.uniform(0.8, 1.2)
    distance = np.hypot(x, y) + 0.5 * fractal_noise(rng, 4, 3)
    rise = depth_cm * float(rng.uniform(0.35, 0.85))
    low, high = float(rng.uniform(2.5, 5)), float(rng.uniform(10, 16))
    height = rise * smooth_step(distance, low, high)
    slope = area.x * float(rng.normal(0, 0.1)) - area.y * float(rng.uniform(-0.45, 0.1))
    return np.asarray(height + slope, np.float32)


def _pit(rng: Generator, area: _Area, distortion: Distortion) -> Map:
    """Return 1 in the middle of a cavity, and 0 outside."""
    x, y, size = rng.uniform(-1.2, 1.2), rng.uniform(-1.5, 1), rng.uniform(1.2, 2.6)
    distance = np.hypot(area.x - x, (area.y - y) * rng.uniform(0.8, 1.4))
    distance = distance + 0.35 * fractal_noise(rng, 9, 4, distortion=distortion)
    return 1 - smooth_step(distance, size * 0.35, size * 1.3)


def _organs(rng: Generator, area: _Area, height: Map, count: int) -> _Organs:
    """Add domes of tissue with colours of their own."""
    cover = np.zeros_like(height)
    colours = np.zeros((MAP_SIDE, MAP_SIDE, 3), np.float32)
    for _ in range(count):
        bearing, distance = rng.uniform(0, 2 * np.pi), rng.uniform(1.5, 8)
        x, y = area.x - distance * np.cos(bearing), area.y - distance * np.sin(bearing)
        half_x, half_y, turn = rng.uniform(1, 5), rng.uniform(0.8, 3), rng.uniform(0, np.pi)
        along = (x * np.cos(turn) + y * np.sin(turn)) / half_x
        across = (y * np.cos(turn) - x * np.sin(turn)) / half_y
        level = 1 - along * along - across * across - 0.12 * fractal_noise(rng, 7, 3)
        dome = np.sqrt(np.clip(level, 0, 1)) * half_y * float(rng.uniform(0.5, 1.1))
        height = np.maximum(height, height + dome)
        own = smooth_step(level, 0, 0.06)
        cover = np.maximum(cover, own)
        colour = np.array(_ORGAN_COLOURS[rng.integers(len(_ORGAN_COLOURS))])
        colours = blend(colours, colour * rng.uniform(0.7, 1.2), own)
    return _Organs(height, cover, colours)


def _folds(rng: Generator, site: Site, distortion: Distortion) -> _Folds:
    noises = [
        np.abs(
            fractal_noise(rng, float(rng.uniform(*span)), octaves, decay, distortion=distortion)
        )
        for span, octaves, decay in (((4, 12), 4, 0.5), ((14, 30), 4, 0.55), ((5, 16), 5, 0.55))
    ]
    coarse, fine, grooves = noises
    roughness = site.roughness * float(rng.uniform(0.6, 1.3))
    height = float(rng.uniform(0.2, 0.6)) * np.minimum(coarse, 1.4)
    height = height - float(rng.uniform(0.05, 0.4)) * np.minimum(grooves, 1.2)
    height = height + float(rng.uniform(0.08, 0.22)) * np.minimum(fine, 1.5)
    return _Folds(np.asarray(roughness * height, np.float32), fine, roughness)


def _fat(rng: Generator, site: Site, distortion: Distortion, bias: Map) -> Map:
    """Return the opacity of the fat; it grows less where `bias` is low."""
    noise = fractal_noise(rng, float(rng.uniform(3, 6)), 4, distortion=distortion)
    low = float(rng.uniform(*site.fat_from))
    return smooth_step(noise + 0.12 * bias, low, low + float(rng.uniform(0.2, 0.6)))


def _fibres(rng: Generator) -> Map:
    """Draw noise with long cells along one direction, distorted and only in places."""
    distortion = draw_distortion(rng, float(rng.uniform(3, 8)), float(rng.uniform(50, 120)))
    knots = rng.normal(0, 1, (int(rng.uniform(18, 50)), int(rng.uniform(500, 800))))
    size = (MAP_SIDE, MAP_SIDE)
    straight = cv2.resize(knots.astype(np.float32), size, interpolation=cv2.INTER_CUBIC)
    if rng.random() < 0.5:
        straight = straight.T.copy()
    fibres = distorted(np.asarray(straight, np.float32), distortion)
    fibres *= smooth_step(fractal_noise(rng, 6, 3), -0.3, 1.2) * float(rng.uniform(0.2, 1))
    return fibres


def _fascia(rng: Generator, distortion: Distortion, fibres: Map, pit: Map) -> Map:
    """Return the opacity of whitish fascia."""
    noise = fractal_noise(rng, float(rng.uniform(3, 8)), 4, distortion=distortion)
    low, high = float(rng.uniform(0.7, 1.6)), float(rng.uniform(1.7, 2.4))
    cover = smooth_step(noise + 0.25 * fibres - 0.6 * pit, low, high)
    return cover * float(rng.uniform(0.2, 0.9))
