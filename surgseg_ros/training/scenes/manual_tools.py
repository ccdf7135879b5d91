# SPDX-License-Identifier: Apache-2.0
"""Instruments that an assistant holds by hand: suction and needle holder."""

import numpy as np
from numpy.random import Generator

from surgseg_ros.core import labels
from surgseg_ros.training.scenes.drawing import Patch, View
from surgseg_ros.training.scenes.materials import Gloss, metal_look, rod
from surgseg_ros.training.scenes.motion import Wander
from surgseg_ros.training.scenes.noise import FloatImage
from surgseg_ros.training.scenes.tool_motion import Place, ToolMotion, forward, seen, shank
from surgseg_ros.training.scenes.tool_parts import jaw_of


class Suction:
    """
    A suction tube: polished, with holes before its round tip.

    :param rng: where its form and motion come from.
    :param view: the image.
    :param bearing: where it comes from, in radians from the image's middle.
    """

    lift = 0.04

    def __init__(self, rng: Generator, view: View, bearing: float) -> None:
        self._view = view
        self._motion = ToolMotion(rng, view, bearing, (-0.2, 0.5))
        self._half = float(rng.uniform(0.026, 0.042))
        tint = rng.uniform(140, 185)
        base = (tint * 0.86, tint * 0.95, tint * 1.04)
        body = rod(rng, Gloss(base, 0.2, 150, 14, float(rng.uniform(-0.35, 0.35)), 0.03))
        pitch, count = (self._half * float(rng.uniform(1.3, 1.8)), int(rng.integers(4, 8)))
        half = self._half

        def shade(along: FloatImage, across: FloatImage, facing: FloatImage) -> FloatImage:
            colours = body(along, across, facing)
            place = along / pitch - 0.7
            row = np.rint(place)
            shift = np.where(row % 2 == 0, -0.42, 0.42)
            gap = np.hypot((place - row) * pitch / half, across - shift)
            hole = (gap < 0.34) & (row >= 0) & (row < count)
            return np.asarray(np.where(hole[:, None], (26, 12, 14), colours), np.float32)

        self._shade = shade

    def anchor(self, time_s: float) -> Place:
        """Return the tip."""
        return self._motion.pose(time_s)[0]

    def draw(self, time_s: float) -> list[Patch]:
        """Return the tube."""
        tip, angle = self._motion.pose(time_s)
        tube = shank(
            self._view, tip, angle, self._half, 0.05, self._shade, labels.SUCTION, flat=False
        )
        return seen([tube])


class NeedleHolder:
    """
    A needle holder held by hand: a thin steel rod and golden jaws, without a wrist.

    :param rng: where its form and motion come from.
    :param view: the image.
    :param bearing: where it comes from, in radians from the image's middle.
    """

    lift = 0.05

    def __init__(self, rng: Generator, view: View, bearing: float) -> None:
        self._view = view
        self._motion = ToolMotion(rng, view, bearing, (-0.15, 0.5))
        self._half = float(rng.uniform(0.02, 0.03))
        self._shade = rod(
            rng,
            Gloss((150, 152, 158), 0.25, 90, 10, 0.2, 0.04),
            ((0.012, 0.022, 0.5), (0.034, 0.044, 0.5)),
        )
        gold = metal_look(rng, (246, 196, 84), 0.6)
        width = self._half * float(rng.uniform(4.2, 5.2))
        self._length = float(rng.uniform(0.16, 0.24))
        scale = float(view.height)
        self._jaw = jaw_of(rng, width, self._length, scale, gold, 0.15, labels.HOLDER)
        self._opening = Wander(rng, -0.2, 0.4, 5)

    def anchor(self, time_s: float) -> Place:
        """Return the jaws' pivot."""
        tip, angle = self._motion.pose(time_s)
        return forward(tip, angle, -self._length)

    def draw(self, time_s: float) -> list[Patch]:
        """Return the rod and both jaws, of which one is fixed."""
        _, angle = self._motion.pose(time_s)
        pivot = self.anchor(time_s)
        opening = max(0.03, self._opening(time_s))
        rod_patch = shank(self._view, pivot, angle, self._half, 0.05, self._shade, labels.HOLDER)
        fixed = self._jaw.place(self._view, pivot, angle)
        moving = self._jaw.place(self._view, pivot, angle - opening, (1.0, -1.0))
        return seen([moving, rod_patch, fixed])
