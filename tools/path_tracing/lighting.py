# SPDX-License-Identifier: Apache-2.0
"""The lamps at the tip of the endoscope, the light of the surroundings, and the camera's lens."""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.random import Generator

from tools.path_tracing.materials import Colour
from tools.path_tracing.transforms import Matrix, rotation, translation
from tools.path_tracing.view import View

POWER_W: Final = 1000.0
"""Power of all lamps; arbitrary, since the exposure follows the light."""

USUAL_DISTANCE_SQUARED: Final = 12.0
"""Square of the distance in cm at which limits of light, and the surroundings' light, are 1."""

_LENS_RADII_CM: Final = (0.01, 0.03, 0.06)
_LENS_SHARES: Final = (0.4, 0.4, 0.2)
"""Radii of the lens, and their shares: the larger, the more is blurred out of focus."""


@dataclass(frozen=True, eq=False)
class Lamp:
    """
    A lamp that shines along -z of its pose.

    :param pose: (4, 4) from its coordinates to those of the tissue.
    :param power_w: its power.
    :param radius_cm: its radius, which makes shadows soft.
    """

    pose: Matrix
    power_w: float
    radius_cm: float


@dataclass(frozen=True, eq=False)
class Lighting:
    """
    The light and the lens.

    :param focus_cm: distance in focus.
    :param lens_radius_cm: radius of the lens.
    :param cone: angle of the lamps' cones in radians.
    :param lamps: one or two lamps.
    :param surroundings: colour of the light that comes from everywhere: that of the tissue.
    :param surroundings_strength: its strength.
    """

    focus_cm: float
    lens_radius_cm: float
    cone: float
    lamps: tuple[Lamp, ...]
    surroundings: Colour
    surroundings_strength: float


def draw_lighting(rng: Generator, view: View) -> Lighting:
    """
    Draw the lamps and the lens of a camera.

    :param rng: source of random numbers.
    :param view: the camera.
    :return: its light and lens.
    """
    focus = view.focus_cm * rng.uniform(0.6, 1.05)
    lens_radius = float(rng.choice(_LENS_RADII_CM, p=_LENS_SHARES))
    count = int(rng.choice([1, 2], p=(0.4, 0.6)))
    cone = math.radians(rng.choice([rng.uniform(66, 85), rng.uniform(85, 120)]))
    distance, bearing = rng.uniform(0.25, 0.6), rng.uniform(0, np.pi)
    offset = distance * np.array([math.cos(bearing), math.sin(bearing)])
    lamps = []
    for side in (-1, 1) if count == 2 else (1,):
        radius = rng.uniform(0.08, 0.25)
        pose = translation(side * offset[0], side * offset[1], 0.1)
        turns = rotation('x', rng.normal(0, 0.08)) @ rotation('y', rng.normal(0, 0.08))
        lamps.append(Lamp(view.pose @ pose @ turns, POWER_W / count, radius))
    red, green, blue = (float(level) for level in view.tissue.base * rng.uniform(0.7, 1.1, 3))
    strength = USUAL_DISTANCE_SQUARED / view.focus_cm**2 * rng.uniform(0.02, 0.2)
    return Lighting(focus, lens_radius, cone, tuple(lamps), (red, green, blue), strength)
