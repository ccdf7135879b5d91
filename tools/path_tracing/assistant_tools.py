# SPDX-License-Identifier: Apache-2.0
"""
Straight instruments of the assistant: a suction tube and a laparoscopic needle holder.

Lengths are in diameters of the shaft. The tip is at the origin, and x points to it.
"""

import numpy as np
from numpy.random import Generator

from surgseg_ros.core.labels import HOLDER, SUCTION
from tools.path_tracing import materials
from tools.path_tracing.shapes import Part, Plate, disk, lathe, strip
from tools.path_tracing.transforms import rotation, translation


def draw_suction_tube(rng: Generator) -> list[Part]:
    """
    Draw a suction tube of metal or plastic, half of them with holes near the tip.

    :param rng: source of random numbers.
    :return: its parts.
    """
    if rng.random() < 0.5:
        surface = materials.metal(rng, float(rng.uniform(0, 0.7)))
    else:
        grey = rng.uniform(0.3, 0.9)
        colour = (grey, grey * rng.uniform(0.9, 1), grey * rng.uniform(0.75, 1))
        surface = materials.plain(rng, colour, 0.35, float(rng.uniform(0, 0.7)))
    dark = materials.plain(rng, (0.01, 0.004, 0.004), 0.6, 0)
    outside = [(-50, 0.5), (-8, 0.5), (-0.15, 0.5), (-0.03, 0.45), (0, 0.38)]
    inside = [(-0.02, 0.34), (-1.5, 0.33)]
    parts = [Part(lathe([*outside, *inside], 48), surface, SUCTION, 35)]
    if rng.random() < 0.5:
        hole = Part(disk('z', (0, 0, 0.49), 0.11, 0.02, 14), dark, SUCTION, 30)
        for row in range(int(rng.integers(3, 9))):
            for third in (0, 2.1, 4.2):  # of a turn
                turn = rotation('x', third + (row % 2) * 1.0)
                parts.append(hole.moved(translation(-0.5 - 0.45 * row) @ turn))
    return parts


def draw_needle_holder(rng: Generator) -> list[Part]:
    """
    Draw a laparoscopic instrument with two jaws, closed or open.

    :param rng: source of random numbers.
    :return: its parts.
    """
    surface = materials.metal(rng, float(rng.uniform(0, 0.5)), polished=bool(rng.random() < 0.7))
    length, base = rng.uniform(1.6, 3.0), rng.uniform(0.3, 0.45)
    profile = [(-60, 0.5), (-length - 0.5, 0.5), (-length - 0.2, 0.48), (-length + 0.1, 0.3)]
    parts = [Part(lathe(profile, 48), surface, HOLDER, 35)]
    opening = float(rng.choice([0.02, rng.uniform(0.05, 0.4)]))
    x = np.linspace(0, length, 10)
    jaw = Part(
        Plate(strip(x, 0 * x, base * (1 - 0.6 * x / length)), 0.22, 0.06), surface, HOLDER, 30
    )
    for side in (-1, 1):
        turned = rotation('x', 0 if side > 0 else np.pi)
        parts.append(jaw.moved(translation(-length) @ rotation('z', side * opening) @ turned))
    return parts
