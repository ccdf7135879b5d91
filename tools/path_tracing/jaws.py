# SPDX-License-Identifier: Apache-2.0
"""
The jaws of robotic instruments.

Lengths are in diameters of the shaft. A jaw extends from its pivot at the origin along x, and
closes towards -y. The shapes follow photographs of da Vinci instruments, not drawings.
"""

import math
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import numpy as np
from numpy.random import Generator

from surgseg_ros.core.labels import CLASPER
from tools.path_tracing.materials import Surface
from tools.path_tracing.shapes import Part, Plate, dense, disk, lathe, rounded, strip, sweep
from tools.path_tracing.transforms import Points

_HOOK_BEND: Final = 0.12
"""Radius of the bend of a hook."""


class Surfaces(NamedTuple):
    """The materials of jaws, and of the insulator behind a hook."""

    metal: Surface
    insulator: Surface


class Jaw(NamedTuple):
    """
    A jaw.

    :param parts: its parts, of the class CLASPER; its holes are parts of the mask only.
    :param length: from the pivot to the tip.
    """

    parts: list[Part]
    length: float


def driver_jaw(rng: Generator, surfaces: Surfaces) -> Jaw:
    """
    Make a jaw of a needle driver: short, thick, with teeth.

    :param rng: source of random numbers.
    :param surfaces: its materials.
    :return: the jaw.
    """
    length, base = rng.uniform(0.75, 1.25), rng.uniform(0.24, 0.34)
    tip, half = rng.uniform(0.12, 0.2), rng.uniform(0.13, 0.2)
    teeth = [(x, 0.012 * (i % 2)) for i, x in enumerate(np.linspace(0.3, length - 0.02, 24))]
    back = [(length, 0.03), (length, tip), (0.55 * length, 0.5 * (base + tip)), (0.05, base)]
    taper = rng.uniform(0.0, 0.4)

    def narrow(points: Points) -> Points:
        width = 1 - taper * np.clip(points[:, 0] / length, 0, 1)
        return np.column_stack([points[:, :2], points[:, 2] * width])

    plate = Plate(np.array([(0, 0), *teeth, *back]), half, 0.03)
    return Jaw([Part(plate, surfaces.metal, CLASPER, 30, deformation=narrow)], length)


def fenestrated_jaw(rng: Generator, surfaces: Surfaces) -> Jaw:
    """
    Make a jaw of a fenestrated bipolar forceps: a long, bowed plate with a window.

    :param rng: source of random numbers.
    :param surfaces: its materials.
    :return: the jaw.
    """
    return _window_jaw(rng, surfaces.metal, rng.uniform(1.4, 2.3), 1.0)


def prograsp_jaw(rng: Generator, surfaces: Surfaces) -> Jaw:
    """
    Make a jaw of a ProGrasp forceps: as that of a fenestrated one, but shorter and thicker.

    :param rng: source of random numbers.
    :param surfaces: its materials.
    :return: the jaw.
    """
    return _window_jaw(rng, surfaces.metal, rng.uniform(1.2, 1.8), 1.5)


def _window_jaw(rng: Generator, metal: Surface, length: float, thickness: float) -> Jaw:
    """Make a plate with a window, whose wide side faces the other jaw."""
    wide = rng.uniform(0.24, 0.36)
    half, bow = rng.uniform(0.05, 0.09) * thickness, rng.uniform(0.05, 0.22)
    tips = wide * rng.uniform(0.75, 1), -wide * rng.uniform(0.75, 1)
    corners = [(0.0, 0.17), (0.0, -0.17), (0.35, -wide)]
    corners += [(length, tips[1]), (length, tips[0]), (0.35, wide)]
    rim = rng.uniform(0.3, 0.5) * wide
    start, end = rng.uniform(0.4, 0.6), length - rng.uniform(1.2, 1.8) * rim
    side = wide - rim
    window = dense(rounded([(start, -side), (end, -side), (end, side), (start, side)], wide, 7))

    def bend(points: Points) -> Points:
        arch = bow * np.sin(np.clip(points[:, 0] / length, 0, 1) * np.pi) * 0.8
        return np.column_stack([points[:, 0], half + points[:, 2] + arch + 0.02, -points[:, 1]])

    plate = Plate(dense(rounded(corners, wide * 0.9, 7)), half, 0.02, (window,))
    pane = Plate(window, half * 0.3, 0.005)
    parts = [
        Part(plate, metal, CLASPER, 35, deformation=bend),
        Part(pane, metal, CLASPER, 35, mask_only=True, deformation=bend),
    ]
    for z in (-(wide - rim * 0.5), wide - rim * 0.5) if rng.random() < 0.7 else ():
        for x in np.arange(start, length - 0.1, 0.09):
            y = 0.02 + bow * math.sin(x / length * np.pi) * 0.8
            parts.append(Part(disk('y', (x, y, z), 0.04, 0.025, 8), metal, CLASPER, 30))
    return Jaw(parts, length)


def maryland_jaw(rng: Generator, surfaces: Surfaces) -> Jaw:
    """
    Make a jaw of a Maryland forceps: curved and pointed, half of them with a window.

    :param rng: source of random numbers.
    :param surfaces: its materials.
    :return: the jaw.
    """
    length, base = rng.uniform(1.3, 2.0), rng.uniform(0.2, 0.28)
    tip, bow, lift = rng.uniform(0.05, 0.09), rng.uniform(-0.5, 0.5), rng.uniform(0.0, 0.3)
    x = np.linspace(0, length, 16)
    low = lift * 0.5 * (x / length) ** 2
    high = low + base + (tip - base) * (x / length) ** 0.8
    windows: tuple[Points, ...] = ()
    if rng.random() < 0.5:
        middle = slice(5, 12)
        rim = (high - low)[middle] * 0.27
        windows = (strip(x[middle], low[middle] + rim, high[middle] - rim),)
    half = rng.uniform(0.1, 0.16)

    def bend(points: Points) -> Points:
        share = np.clip(points[:, 0] / length, 0, 1)
        z = points[:, 2] * (1.1 - 0.6 * share) + bow * share**2
        return np.column_stack([points[:, :2], z])

    plate = Plate(dense(strip(x, low, high), 0.1), half, 0.03, windows)
    panes = [
        Part(Plate(window, 0.02, 0.005), surfaces.metal, CLASPER, mask_only=True, deformation=bend)
        for window in windows
    ]
    return Jaw([Part(plate, surfaces.metal, CLASPER, 35, deformation=bend), *panes], length)


def scissors_jaw(rng: Generator, surfaces: Surfaces) -> Jaw:
    """
    Make a blade of curved scissors.

    :param rng: source of random numbers.
    :param surfaces: its materials.
    :return: the jaw.
    """
    length, base = rng.uniform(1.1, 1.7), rng.uniform(0.22, 0.3)
    tip, bow = rng.uniform(0.04, 0.08), rng.uniform(0.0, 0.4)
    x = np.linspace(0, length, 14)
    low = -0.05 * np.sin(x / length * np.pi)
    high = base + (tip - base) * (x / length) ** 1.4

    def bend(points: Points) -> Points:
        z = points[:, 2] + bow * np.clip(points[:, 0] / length, 0, 1) ** 2
        return np.column_stack([points[:, :2], z])

    plate = Plate(dense(strip(x, low, high), 0.1), rng.uniform(0.05, 0.09), 0.02)
    return Jaw([Part(plate, surfaces.metal, CLASPER, 30, deformation=bend)], length)


def hook_jaw(rng: Generator, surfaces: Surfaces) -> Jaw:
    """
    Make a cautery hook, the only jaw of its instrument.

    :param rng: source of random numbers.
    :param surfaces: its materials.
    :return: the jaw.
    """
    length, height = rng.uniform(0.9, 1.4), rng.uniform(0.25, 0.45)
    angles = np.linspace(0, np.pi / 2, 6)[1:]
    start = length - _HOOK_BEND
    bend = [start + _HOOK_BEND * np.sin(angles), _HOOK_BEND - _HOOK_BEND * np.cos(angles)]
    path = np.concatenate([[(0, 0), (length * 0.3, 0), (start, 0)], np.stack(bend, 1)])
    path = np.column_stack([np.concatenate([path, [(length, height)]]), np.zeros(len(path) + 1)])
    wire = sweep(path, rng.uniform(0.06, 0.09), 14, rng.uniform(0.6, 1))
    insulator = lathe([(-0.1, 0.2), (0.1, 0.22), (0.3, 0.15), (0.36, 0.1)])
    return Jaw(
        [Part(wire, surfaces.metal, CLASPER), Part(insulator, surfaces.insulator, CLASPER)], length
    )


class Kind(NamedTuple):
    """
    A kind of robotic instrument.

    :param share: its share of all instruments.
    :param make_jaw: makes a jaw from random numbers and its materials.
    :param is_mirrored: whether its second jaw is the mirror image of the first, so that both bend
        to the same side; otherwise it is the first one turned over.
    """

    share: float
    make_jaw: Callable[[Generator, Surfaces], Jaw]
    is_mirrored: bool = False


DRIVER: Final = 'driver'
SCISSORS: Final = 'scissors'
HOOK: Final = 'hook'

KINDS: Final[Mapping[str, Kind]] = {
    DRIVER: Kind(0.42, driver_jaw),
    'fenestrated': Kind(0.14, fenestrated_jaw),
    'prograsp': Kind(0.13, prograsp_jaw),
    'maryland': Kind(0.12, maryland_jaw, is_mirrored=True),
    SCISSORS: Kind(0.14, scissors_jaw, is_mirrored=True),
    HOOK: Kind(0.05, hook_jaw),
}
"""Instruments by name. Needle drivers prevail, since SAR-RARP50 shows suturing."""
