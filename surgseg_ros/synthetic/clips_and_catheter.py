# SPDX-License-Identifier: Apache-2.0
"""Objects that rest on the tissue: clips, clamps and a catheter."""

import math

import numpy as np
from numpy.random import Generator

from surgseg_ros.core import labels
from surgseg_ros.synthetic.drawing import Patch, Place, Points, Sprite, View, ribbon, seen
from surgseg_ros.synthetic.materials import Colour, Gloss, Relief, bar, metal_look, rod
from surgseg_ros.synthetic.noise import FloatImage, Wander, still
from surgseg_ros.synthetic.tissue import Resting, Tissue

_CATHETERS: tuple[Colour, ...] = (
    (226, 158, 52), (214, 120, 40), (232, 206, 150), (226, 190, 84),
    (250, 248, 246), (244, 240, 250), (240, 226, 196), (228, 226, 236),
)  # fmt: skip
_PLASTICS: tuple[Colour, ...] = (
    (238, 236, 240), (150, 96, 205), (70, 185, 105), (80, 140, 235),
)  # fmt: skip


class Clamp(Resting):
    """
    A small clip of metal or plastic in the tissue: one bar, or two that meet.

    :param rng: source of its random form.
    :param view: the image.
    :param tissue: what it lies on.
    """

    lift = 0.008
    defocus = 0.0

    def __init__(self, rng: Generator, view: View, tissue: Tissue) -> None:
        super().__init__(rng, view, tissue, 0.1)
        self._angle = still(rng, 0, 2 * np.pi, 0.04, 6)
        self._sprite = _clip(rng, float(rng.uniform(0.02, 0.1)), float(view.height))

    def draw(self, time_s: float) -> list[Patch]:
        """Return the clamp."""
        return seen([self._sprite.place(self._view, self.anchor(time_s), self._angle(time_s))])


def _clip(rng: Generator, length: float, scale: float) -> Sprite:
    """Make a clip, bright or dark."""
    if rng.random() < 0.6:
        level = float(rng.uniform(40, 250))
        look = metal_look(rng, (level, level, level), 0.5)
    else:
        look = metal_look(rng, _PLASTICS[rng.integers(len(_PLASTICS))], 0.15)
        look = np.asarray(np.clip(look * 1.25 + 12, 0, 255), np.float32)
    half = max(0.0035, length * float(rng.uniform(0.08, 0.16)))
    gape = float(rng.uniform(0.05, 0.25)) if rng.random() < 0.5 else 0.0
    size = (length + 6 * half + 0.02, 2 * length * math.sin(gape) + 6 * half + 0.02)
    relief = Relief(rng, size, (3 * half, size[1] / 2), scale)
    for angle in (-gape, gape) if gape else (0.0,):
        relief.plate(bar(length, half, angle), 0.02, half)
        tip = (length * math.cos(angle), length * math.sin(angle))
        relief.disk(tip, half * 1.3, 0.01, half * 0.8)
    return relief.finish(look, labels.CLAMPS, 0.02, float(rng.uniform(0, 0.4)))


class Catheter:
    """
    A soft tube with a round tip: often little more than the tip looks out of the tissue.

    :param rng: source of its random form.
    :param view: the image.
    :param tissue: what it lies on.
    """

    lift = 0.012
    defocus = 0.0

    def __init__(self, rng: Generator, view: View, tissue: Tissue) -> None:
        self._view = view
        self._tissue = tissue
        short = rng.random() < 0.7
        self._half = float(rng.uniform(0.01, 0.035) if short else rng.uniform(0.022, 0.05))
        self._rest = _stub_curve(rng, view, self._half) if short else _tube_curve(rng, view)
        colour = _CATHETERS[rng.integers(len(_CATHETERS))]
        self._body = rod(rng, Gloss(colour, 0.5, 75, 18, float(rng.uniform(-0.45, 0.45))))
        self._line = float(rng.uniform(-0.5, 0.5)) if rng.random() < 0.3 else 9.0
        self._eye = rng.random() < 0.4
        sway_width = 0.01 if short else 0.05
        self._sway = [Wander(rng, -sway_width, sway_width, 6) for _ in range(2)]

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
            if not self._eye:
                return colours
            eye = np.hypot((along - 1.6 * half) / half, (across - 0.25) * 1.7) < 0.55
            colours[eye] = (70, 34, 22)
            return colours

        curve = self._curve(time_s)
        halves = np.full(len(curve), half)
        return seen([ribbon(self._view, curve, halves, shade, labels.CATHETER)])


def _stub_curve(rng: Generator, view: View, half: float) -> Points:
    """Draw a short piece from its tip to where the tissue hides it."""
    tip = np.array([rng.uniform(0.2, 0.8) * view.aspect, rng.uniform(0.2, 0.8)])
    bearing = float(rng.uniform(0, 2 * np.pi))
    out = np.array([math.cos(bearing), math.sin(bearing)])
    at = np.linspace(0, half * float(rng.uniform(0.3, 5)), 6)[:, None]
    return np.asarray(tip + at * out)


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
