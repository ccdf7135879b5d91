# SPDX-License-Identifier: Apache-2.0
"""What all things in a scene share, and how instruments reach in from the border."""

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.random import Generator

from surgseg_ros.training.scenes.drawing import Patch, Points, View
from surgseg_ros.training.scenes.motion import still
from surgseg_ros.training.scenes.ribbon import Shade, ribbon

Place = tuple[float, float]


class Item(Protocol):
    """
    Something in the scene.

    `lift` is its height above the tissue in units: what its shadow is shifted by.
    """

    lift: float

    def draw(self, time_s: float) -> list[Patch]:
        """Return what is seen of it, from the back to the front."""

    def anchor(self, time_s: float) -> Place:
        """Return the point in units whose motion blurs it."""


def outline(*points: Place) -> Points:
    """Make a polygon of its corners, in units."""
    return np.array(points, np.float64)


def forward(start: Place, angle: float, length: float) -> Place:
    """Go some way from a point."""
    return start[0] + length * math.cos(angle), start[1] + length * math.sin(angle)


class ToolMotion:
    """
    How a straight instrument comes in: from a port beyond the border to a wandering tip.

    :param rng: where port and motion come from.
    :param view: the image.
    :param bearing: direction of the port from the image's middle, in radians.
    :param depth: (least, greatest) distance of the tip from the middle towards the port, as a
        share of the way to the border; negative lies beyond the middle.
    """

    def __init__(
        self, rng: Generator, view: View, bearing: float, depth: tuple[float, float] = (-0.15, 0.6)
    ) -> None:
        middle = view.aspect / 2
        cosine, sine = math.cos(bearing), math.sin(bearing)
        border = min(middle / max(abs(cosine), 1e-6), 0.5 / max(abs(sine), 1e-6))
        self._port = (middle + (border + 0.9) * cosine, 0.5 + (border + 0.9) * sine)
        self._start = (middle, 0.5)
        self._bearing = bearing
        period = float(rng.uniform(4, 9))
        self._depth = still(rng, depth[0] * border, depth[1] * border, 0.6, period)
        self._sideways = still(rng, -0.36, 0.36, 0.5, period * 0.9)

    def pose(self, time_s: float) -> tuple[Place, float]:
        """Return the tip, and the angle at which the instrument points."""
        tip = forward(self._start, self._bearing, self._depth(time_s))
        tip = forward(tip, self._bearing + math.pi / 2, self._sideways(time_s))
        return tip, math.atan2(tip[1] - self._port[1], tip[0] - self._port[0])


def shank(
    view: View,
    end: Place,
    angle: float,
    half: float,
    taper: float,
    shade: Shade,
    label: int,
    flat: bool = True,
) -> Patch | None:
    """Draw the straight part of an instrument, from its end in the image out to the border."""
    far = forward(end, angle + math.pi, 2.2 * view.aspect)
    halves = np.array([half, half * (1 + taper * 2.2 * view.aspect)])
    return ribbon(view, np.array([end, far]), halves, shade, label, flat)


def seen(patches: Sequence[Patch | None]) -> list[Patch]:
    """Leave out what lies outside the image."""
    return [patch for patch in patches if patch is not None]
