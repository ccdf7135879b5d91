# SPDX-License-Identifier: Apache-2.0
"""The parts of a robotic tool: surface of the shaft, collar, clevis and jaws."""

import numpy as np
from numpy.random import Generator

from surgseg_ros.core import labels
from surgseg_ros.training.scenes.drawing import Points, Sprite
from surgseg_ros.training.scenes.materials import Gloss, Relief, rod
from surgseg_ros.training.scenes.noise import FloatImage
from surgseg_ros.training.scenes.ribbon import Shade
from surgseg_ros.training.scenes.tool_motion import outline


def shaft_shade(rng: Generator, width: float) -> Shade:
    """Choose between a dark composite shaft and a grey metal one."""
    rings: list[tuple[float, float, float]] = [(0.0, 0.02, 0.45)]
    if rng.random() < 0.7:
        level = rng.uniform(34, 80)
        base = (level, level * rng.uniform(0.98, 1.06), level * rng.uniform(0.9, 1.0))
        gloss = Gloss(
            base, 0.35, float(rng.uniform(15, 60)), 5, float(rng.uniform(-0.4, 0.4)), 0.22
        )
    else:
        level = rng.uniform(105, 150)
        gloss = Gloss(
            (level, level, level * 1.03), 0.3, 60, 4, float(rng.uniform(-0.3, 0.3)), 0.10
        )
        rings.append((0.3 * width, 0.34 * width, 0.6))
    return rod(rng, gloss, rings)


def collar_of(
    rng: Generator, width: float, length: float, scale: float, look: FloatImage, blood: float
) -> Sprite:
    """Make the metal ring at the shaft's end; its origin is the middle of the shaft's end."""
    half = width / 2
    relief = Relief(rng, (length + 0.04, width + 0.04), (0.02, half + 0.02), scale)
    tip = 0.42 * half
    bend, rim = 0.6 * length, 0.8 * half
    upper, lower = ((0, -half), (bend, -half), (length, -rim)), ((bend, half), (0, half))
    relief.barrel(outline(*upper, (length, rim), *lower), half)
    tongue = outline((0.55 * length, -tip), (length, -tip), (length, tip), (0.55 * length, tip))
    relief.plate(tongue, 0.01, 0.01)
    for at in (0.08, 0.3, 0.5):
        start, stop = at * length, (at + 0.05) * length
        relief.dark(outline((start, -half), (stop, -half), (stop, half), (start, half)), 0.55)
    return relief.finish(look, labels.WRIST, 0.05, blood)


def clevis_of(
    rng: Generator, width: float, length: float, scale: float, look: FloatImage, blood: float
) -> Sprite:
    """Make the fork that carries the jaws; its origin is the joint at the collar."""
    half = width * float(rng.uniform(0.38, 0.48))
    back = 0.35 * width
    relief = Relief(
        rng, (length + back + 0.06, 2 * half + 0.06), (back + 0.02, half + 0.03), scale
    )
    relief.plate(_rounded(-back, length, half, 0.75 * half), 0.8 * half, 0.7 * half)
    relief.plate(_rounded(-0.7 * back, 0.95 * length, 0.78 * half, 0.55 * half), 0.012, 0.02)
    slot = 0.1 * half
    relief.dark(
        outline((0.35 * length, -slot), (length, -slot), (length, slot), (0.35 * length, slot)),
        0.35,
    )
    for x, radius in ((0.0, 0.42), (0.88 * length, 0.34)):
        relief.disk((x, 0.0), radius * half, 0.012, 0.012)
        relief.disk((x, 0.0), 0.5 * radius * half, 0.008, 0.006)
    for _ in range(int(rng.integers(1, 4))):
        spot = (float(rng.uniform(0.2, 0.7)) * length, float(rng.uniform(-0.6, 0.6)) * half)
        relief.disk(spot, 0.14 * half, 0.008, 0.006)
    return relief.finish(look, labels.WRIST, 0.05, blood)


def _rounded(start: float, stop: float, half_start: float, half_stop: float) -> Points:
    """Make a tapered bar whose far end is round."""
    angles = np.linspace(-np.pi / 2, np.pi / 2, 16)
    cap = np.stack([np.cos(angles) * half_stop + stop - half_stop, np.sin(angles) * half_stop], 1)
    corner = 0.3 * half_start
    near = outline(
        (start, half_start - corner), (start, corner - half_start), (start + corner, -half_start)
    )
    return np.concatenate([near, cap, outline((start + corner, half_start))])


def jaw_of(
    rng: Generator,
    width: float,
    length: float,
    scale: float,
    look: FloatImage,
    blood: float,
    label: int = labels.CLASPER,
) -> Sprite:
    """Make one jaw, which closes towards negative y; its origin is the pivot."""
    base, tip = 0.27 * width, width * float(rng.uniform(0.09, 0.15))
    bulge = float(rng.uniform(0.85, 1.1))
    relief = Relief(
        rng,
        (length + base + 0.04, base + 0.3 * width + 0.04),
        (base + 0.02, 0.2 * width + 0.02),
        scale,
    )
    relief.disk((0.0, 0.0), 0.8 * base, 0.03, 0.03)
    finger = outline(
        (-0.2 * base, -0.2 * base),
        (0.25 * length, -0.01 * width),
        (length, 0.0),
        (length * 1.01, 0.6 * tip),
        (0.96 * length, tip),
        (0.45 * length, base * bulge),
        (0.1 * length, base * 1.1),
    )
    relief.plate(finger, 0.35 * width, 0.16 * width)
    if rng.random() < 0.45 and label == labels.CLASPER:
        _fenestrate(relief, length, base, tip)
    _serrate(relief, rng, length, base)
    return relief.finish(look, label, 0.04, blood)


def _fenestrate(relief: Relief, length: float, base: float, tip: float) -> None:
    """Cut the hole that grasping forceps have in each jaw."""
    hole = outline(
        (0.5 * length, 0.45 * base),
        (0.75 * length, 0.5 * tip),
        (0.74 * length, 0.9 * tip),
        (0.5 * length, 0.66 * base),
    )
    relief.cut(hole)


def _serrate(relief: Relief, rng: Generator, length: float, base: float) -> None:
    """Darken grooves across the edge that grips."""
    edges = np.linspace(0.4, 0.97, int(rng.integers(8, 14))) * length
    depth = 0.22 * base
    for start, stop in zip(edges[:-1:2], edges[1::2]):
        groove = outline((start, -0.01), (stop, -0.01), (stop, depth), (start, depth))
        relief.dark(groove, 0.7)
