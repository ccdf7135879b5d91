# SPDX-License-Identifier: Apache-2.0
"""Robotic tools of shaft, wrist and clasper."""

import math

from numpy.random import Generator

from surgseg_ros.core import labels
from surgseg_ros.training.scenes.drawing import Patch, View
from surgseg_ros.training.scenes.materials import metal_look
from surgseg_ros.training.scenes.motion import Wander, still
from surgseg_ros.training.scenes.tool_motion import Item, Place, ToolMotion, forward, seen, shank
from surgseg_ros.training.scenes.tool_parts import clevis_of, collar_of, jaw_of, shaft_shade


class Tool:
    """
    A robotic tool: shaft, wrist of a collar and a clevis, clasper of two jaws.

    :param rng: where its form and motion come from.
    :param view: the image.
    :param bearing: where it comes from, in radians from the image's middle.
    """

    lift = 0.06

    def __init__(self, rng: Generator, view: View, bearing: float) -> None:
        self._view = view
        self._motion = ToolMotion(rng, view, bearing)
        self.width = float(rng.uniform(0.10, 0.24))
        self._taper = float(rng.uniform(0.02, 0.35))
        self._shade = shaft_shade(rng, self.width)
        look = metal_look(rng, (238, 240, 245), float(rng.uniform(0.5, 1.2)))
        blood = float(rng.uniform(0, 0.5))
        self._collar_length = self.width * float(rng.uniform(0.35, 0.7))
        self._clevis_length = self.width * float(rng.uniform(0.9, 1.3))
        self.jaw_length = self.width * float(rng.uniform(0.8, 1.5))
        scale = float(view.height)
        self._collar = collar_of(rng, self.width, self._collar_length, scale, look, blood)
        self._clevis = clevis_of(rng, self.width, self._clevis_length, scale, look, blood)
        self._jaw = jaw_of(rng, self.width, self.jaw_length, scale, look, blood)
        self._bends = [still(rng, -0.7, 0.7, 0.5, 5), still(rng, -0.6, 0.6, 0.5, 4)]
        self._opening = Wander(rng, -0.25, 0.45, float(rng.uniform(3, 7)))
        self._short = still(rng, 0.65, 1.0, 0.4, 6)
        self.held: Item | None = None

    def opening(self, time_s: float) -> float:
        """Return half the angle between the jaws, which hold tight while they hold something."""
        return 0.05 if self.held else max(0.03, self._opening(time_s))

    def grip(self, time_s: float) -> tuple[Place, float]:
        """Return the point between the jaws where something is held, and their direction."""
        _, _, pivot, angle = self._joints(time_s)
        return forward(pivot, angle, 0.82 * self.jaw_length * self._short(time_s)), angle

    def anchor(self, time_s: float) -> Place:
        """Return the pivot of the jaws."""
        return self._joints(time_s)[2]

    def draw(self, time_s: float) -> list[Patch]:
        """Return shaft, wrist, one jaw, what is held, and the other jaw."""
        view, short = self._view, self._short(time_s)
        end, angle, pivot, jaw_angle = self._joints(time_s)
        joint = forward(end, angle, self._collar_length)
        clevis_angle = math.atan2(pivot[1] - joint[1], pivot[0] - joint[0])
        opening = self.opening(time_s)
        half = self.width / 2
        shaft = shank(view, end, angle, half, self._taper, self._shade, labels.SHAFT)
        lower = self._jaw.place(view, pivot, jaw_angle - opening, (short, -1.0))
        upper = self._jaw.place(view, pivot, jaw_angle + opening, (short, 1.0))
        between = self.held.draw(time_s) if self.held else []
        clevis = self._clevis.place(view, joint, clevis_angle, (short, 1.0))
        collar = self._collar.place(view, end, angle)
        return seen([shaft, lower, *between, upper, clevis, collar])

    def _joints(self, time_s: float) -> tuple[Place, float, Place, float]:
        """Return the shaft's end and angle, the jaws' pivot and angle."""
        tip, angle = self._motion.pose(time_s)
        short = self._short(time_s)
        length = self._collar_length + (self._clevis_length + self.jaw_length / 2) * short
        end = forward(tip, angle, -length)
        bend = angle + self._bends[0](time_s)
        joint = forward(end, angle, self._collar_length)
        pivot = forward(joint, bend, 0.88 * self._clevis_length * short)
        return end, angle, pivot, bend + self._bends[1](time_s)
