# SPDX-License-Identifier: Apache-2.0
"""Objects that rest on the tissue: clips, clamps and a catheter."""

import math

import numpy as np
from numpy.random import Generator

from surgseg_ros.core import labels
from surgseg_ros.synthetic.drawing import Patch, Place, Points, Sprite, View, ribbon, seen
from surgseg_ros.synthetic.materials import Colour, Gloss, Relief, metal_look, rod
from surgseg_ros.synthetic.noise import FloatImage, Wander, still
from surgseg_ros.synthetic.tissue import Tissue

_CATHETERS: tuple[Colour, ...] = (
    (226, 158, 52), (214, 120, 40), (232, 206, 150), (226, 190, 84),
)  # fmt: skip
_PLASTICS: tuple[Colour, ...] = (
    (238, 236, 240), (150, 96, 205), (70, 185, 105), (80, 140, 235),
)  # fmt: skip


class Clamp:
    """
    A clamp that lies on the tissue: a plastic clip or a metal bulldog.

    :param rng: source of its random form.
    :param view: the image.
    :param tissue: what it lies on.
    """

    lift = 0.02

    def __init__(self, rng: Generator, view: View, tissue: Tissue) -> None:
        self._view = view
        self._tissue = tissue
        self._rest = np.array([rng.uniform(0.15, 0.85) * view.aspect, rng.uniform(0.15, 0.85)])
        self._angle = still(rng, 0, 2 * np.pi, 0.04, 6)
        length = float(rng.uniform(0.20, 0.32))
        make = _clip if rng.random() < 0.6 else _bulldog
        self._sprite = make(rng, length, float(view.height))

    def anchor(self, time_s: float) -> Place:
        """Return its position."""
        x, y = self._tissue.place(self._rest[None], time_s)[0]
        return float(x), float(y)

    def draw(self, time_s: float) -> list[Patch]:
        """Return the clamp."""
        return seen([self._sprite.place(self._view, self.anchor(time_s), self._angle(time_s))])


def _bar(length: float, half: float, angle: float) -> Points:
    ends = np.linspace(np.pi / 2, 3 * np.pi / 2, 10)
    near = np.stack([np.cos(ends) * half, np.sin(ends) * half], axis=1)
    far = np.stack([length - np.cos(ends) * half, -np.sin(ends) * half], axis=1)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return np.asarray(np.concatenate([near, far]) @ turn)


def _clip(rng: Generator, length: float, scale: float) -> Sprite:
    """Make a plastic clip: two ribbed bars from one hinge, with a boss at each tip."""
    look = metal_look(rng, _PLASTICS[rng.integers(len(_PLASTICS))], 0.15)
    look = np.asarray(np.clip(look * 1.25 + 12, 0, 255), np.float32)
    half, gape = length * 0.075, float(rng.uniform(0.10, 0.26))
    relief = Relief(rng, (length * 1.25, length * 0.8), (length * 0.12, length * 0.4), scale)
    for angle in (-gape, gape):
        relief.plate(_bar(length, half, angle), 0.03, half)
        tip = (length * math.cos(angle), length * math.sin(angle))
        relief.disk(tip, half * 1.45, 0.02, half * 0.8)
        for at in np.linspace(0.25, 0.8, 7):
            groove = _bar(length * 0.025, half * 0.7, angle)
            shift = at * length * np.array([math.cos(angle), math.sin(angle)])
            relief.dark(groove + shift, 0.8)
    relief.disk((0.0, 0.0), half * 1.5, 0.02, half)
    return relief.finish(look, labels.CLAMPS, 0.01)


def _bulldog(rng: Generator, length: float, scale: float) -> Sprite:
    """Make a metal bulldog clamp: two serrated jaws, crossed before a coil spring."""
    look = metal_look(rng, (250, 250, 250), 0.5)
    half, gape = length * 0.062, float(rng.uniform(0.06, 0.16))
    relief = Relief(rng, (length * 1.5, length * 0.9), (length * 0.4, length * 0.45), scale)
    for side in (-1, 1):
        arm = _bar(length * 0.34, half, math.pi + side * 0.55)
        relief.plate(arm, 0.02, half)
        relief.plate(_bar(length, half, side * gape), 0.025, half)
        for at in np.linspace(0.3, 0.95, 10):
            turn = side * gape
            shift = at * length * np.array([math.cos(turn), math.sin(turn)])
            relief.dark(_bar(length * 0.012, half * 0.9, turn) + shift, 0.6)
    for radius, factor in ((0.13, 1.0), (0.085, 0.35), (0.055, 1.0)):
        angles = np.linspace(0, 2 * np.pi, 30, endpoint=False)
        ring = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radius * length
        relief.plate(ring, 0.012, 0.01)
        relief.dark(ring, factor)
    return relief.finish(look, labels.CLAMPS, 0.03)


class Catheter:
    """
    A soft tube, from beyond the border to a round tip with an eye.

    :param rng: source of its random form.
    :param view: the image.
    :param tissue: what it lies on.
    """

    lift = 0.03

    def __init__(self, rng: Generator, view: View, tissue: Tissue) -> None:
        self._view = view
        self._tissue = tissue
        self._half = float(rng.uniform(0.026, 0.05))
        self._rest = _tube_curve(rng, view)
        colour = _CATHETERS[rng.integers(len(_CATHETERS))]
        self._body = rod(rng, Gloss(colour, 0.5, 75, 18, float(rng.uniform(-0.45, 0.45))))
        self._line = float(rng.uniform(-0.5, 0.5)) if rng.random() < 0.5 else 9.0
        self._sway = [Wander(rng, -0.05, 0.05, 6) for _ in range(2)]

    def _curve(self, time_s: float) -> Points:
        curve = self._tissue.place(self._rest, time_s)
        share = np.linspace(1, 0, len(curve))[:, None] ** 1.5
        return np.asarray(curve + share * [sway(time_s) for sway in self._sway])

    def anchor(self, time_s: float) -> Place:
        """Return the tip."""
        x, y = self._curve(time_s)[0]
        return float(x), float(y)

    def draw(self, time_s: float) -> list[Patch]:
        """Return the tube."""
        half = self._half

        def shade(along: FloatImage, across: FloatImage, facing: FloatImage) -> FloatImage:
            colours = self._body(along, across, facing)
            colours[np.abs(across - self._line) < 0.1] *= np.float32(0.55)
            eye = np.hypot((along - 1.6 * half) / half, (across - 0.25) * 1.7) < 0.55
            colours[eye] = (70, 34, 22)
            return colours

        curve = self._curve(time_s)
        halves = np.full(len(curve), half)
        return seen([ribbon(self._view, curve, halves, shade, labels.CATHETER)])


def _tube_curve(rng: Generator, view: View) -> Points:
    """Bend a smooth curve from a tip in the image to a point well beyond its border."""
    middle = np.array([view.aspect / 2, 0.5])
    bearing = float(rng.uniform(0, 2 * np.pi))
    out = np.array([math.cos(bearing), math.sin(bearing)])
    sideways = np.array([-out[1], out[0]])
    tip = middle + rng.uniform(-0.3, 0.1) * out + rng.uniform(-0.3, 0.3) * sideways
    bends = rng.uniform(-0.45, 0.45, 2)
    first, second = (tip + 0.4 * out + bends[0] * sideways, tip + 0.9 * out + bends[1] * sideways)
    last = middle + (view.aspect / 2 + 0.6) * out
    at = np.linspace(0, 1, 26)[:, None]  # segments longer than the tube is wide
    return np.asarray(
        (1 - at) ** 3 * tip
        + 3 * at * (1 - at) ** 2 * first
        + 3 * at**2 * (1 - at) * second
        + at**3 * last
    )
