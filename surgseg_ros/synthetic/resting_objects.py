# SPDX-License-Identifier: Apache-2.0
"""
Objects that rest on the tissue: clips, clamps, a catheter, and objects without a class.

The latter also occur in operations. They are drawn so that a network does not learn that all
metal is a tool.
"""

import math

import numpy as np
from numpy.random import Generator

from surgseg_ros.core import labels
from surgseg_ros.synthetic.drawing import Patch, Points, Sprite, View, ribbon, visible
from surgseg_ros.synthetic.materials import Colour, Gloss, Relief, bar, metal_texture, rod
from surgseg_ros.synthetic.noise import Drift, FloatImage, slight_drift
from surgseg_ros.synthetic.tissue import RestingObject, Tissue
from surgseg_ros.synthetic.truth import Position, Truth

_CATHETERS: tuple[Colour, ...] = (
    (226, 158, 52), (214, 120, 40), (232, 206, 150), (226, 190, 84),
    (250, 248, 246), (244, 240, 250), (240, 226, 196), (228, 226, 236),
)  # fmt: skip
_CLIP_PLASTICS: tuple[Colour, ...] = (
    (238, 236, 240), (150, 96, 205), (70, 185, 105), (80, 140, 235),
)  # fmt: skip


class Clamp(RestingObject):
    """
    A small clip of metal or plastic in the tissue: one bar, or two that meet.

    :param rng: source of its random form.
    :param view: the image.
    :param tissue: the tissue on which it lies.
    """

    lift = 0.008
    defocus = 0.0

    def __init__(self, rng: Generator, view: View, tissue: Tissue) -> None:
        super().__init__(rng, view, tissue, 0.1)
        self._angle = slight_drift(rng, 0, 2 * np.pi, 0.04, 6)
        self._sprite = _clip(rng, float(rng.uniform(0.02, 0.1)), float(view.height))

    def truth(self, time_s: float) -> Truth:
        """Return its class; its keypoint is the centre of its pixels."""
        return Truth(labels.CLAMPS, [])

    def draw(self, time_s: float) -> list[Patch]:
        """Return the clamp."""
        return visible([self._sprite.place(self._view, self.anchor(time_s), self._angle(time_s))])


def _clip(rng: Generator, length: float, scale: float) -> Sprite:
    """Make a clip, bright or dark."""
    if rng.random() < 0.6:
        level = float(rng.uniform(40, 250))
        texture = metal_texture(rng, (level, level, level), 0.5)
    else:
        texture = metal_texture(rng, _CLIP_PLASTICS[rng.integers(len(_CLIP_PLASTICS))], 0.15)
        texture = np.asarray(np.clip(texture * 1.25 + 12, 0, 255), np.float32)
    half = max(0.0035, length * float(rng.uniform(0.08, 0.16)))
    opening = float(rng.uniform(0.05, 0.25)) if rng.random() < 0.5 else 0.0
    size = (length + 6 * half + 0.02, 2 * length * math.sin(opening) + 6 * half + 0.02)
    relief = Relief(rng, size, (3 * half, size[1] / 2), scale)
    for angle in (-opening, opening) if opening else (0.0,):
        relief.plate(bar(length, half, angle), 0.02, half)
        tip = (length * math.cos(angle), length * math.sin(angle))
        relief.disk(tip, half * 1.3, 0.01, half * 0.8)
    return relief.finish(texture, labels.CLAMPS, 0.02, float(rng.uniform(0, 0.4)))


class Catheter:
    """
    A soft tube with a round tip; often little more than the tip sticks out of the tissue.

    :param rng: source of its random form.
    :param view: the image.
    :param tissue: the tissue on which it lies.
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
        self._hole = rng.random() < 0.4
        sway_width = 0.01 if short else 0.05
        self._sway = [Drift(rng, -sway_width, sway_width, 6) for _ in range(2)]

    def _curve(self, time_s: float) -> Points:
        curve = self._tissue.place(self._rest, time_s)
        share = np.linspace(1, 0, len(curve))[:, None] ** 1.5
        return np.asarray(curve + share * [sway(time_s) for sway in self._sway])

    def anchor(self, time_s: float) -> Position:
        """Return the tip."""
        x, y = self._curve(time_s)[0]
        return float(x), float(y)

    def truth(self, time_s: float) -> Truth:
        """Return its class; its keypoint is the centre of its pixels."""
        return Truth(labels.CATHETER, [])

    def draw(self, time_s: float) -> list[Patch]:
        """Return the tube."""
        half = self._half

        def shade(along: FloatImage, across: FloatImage, facing: FloatImage) -> FloatImage:
            colours = self._body(along, across, facing)
            colours[:, np.abs(across - self._line) < 0.1] *= np.float32(0.55)
            if not self._hole:
                return colours
            hole = np.hypot((along - 1.6 * half) / half, (across - 0.25) * 1.7) < 0.55
            colours[:, hole] = [[70], [34], [22]]
            return colours

        curve = self._curve(time_s)
        half_widths = np.full(len(curve), half)
        return visible([ribbon(self._view, curve, half_widths, shade, labels.CATHETER)])


def _stub_curve(rng: Generator, view: View, half: float) -> Points:
    """Create a short curve from the tip to where the tissue hides the tube."""
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


_TUBES: tuple[Colour, ...] = (
    (236, 232, 226), (226, 196, 150), (190, 60, 56), (120, 190, 226), (40, 40, 44),
)  # fmt: skip
_PLASTICS: tuple[Colour, ...] = (
    (240, 238, 242), (246, 246, 250), (150, 96, 205), (70, 185, 105), (80, 140, 235), (30, 30, 32),
)  # fmt: skip


class Distractor(RestingObject):
    """
    An object without a class: gauze, bulldog clamp, plastic strip, ultrasound probe or drain.

    :param rng: source of its random form.
    :param view: the image.
    :param tissue: the tissue on which it lies.
    """

    lift = 0.02
    defocus = 0.0

    def __init__(self, rng: Generator, view: View, tissue: Tissue) -> None:
        super().__init__(rng, view, tissue, 0.0)
        self._angle = slight_drift(rng, 0, 2 * np.pi, 0.04, 6)
        self._sprite: Sprite | None = None
        kind = rng.random()
        scale = float(view.height)
        if kind < 0.22:
            self._sprite = _gauze(rng, scale)
        elif kind < 0.5:
            self._sprite = _bulldog(rng, float(rng.uniform(0.16, 0.34)), scale)
        elif kind < 0.7:
            self._sprite = _probe(rng, scale)
        else:
            colour = _TUBES[rng.integers(len(_TUBES))]
            shine = float(rng.uniform(10, 90))
            self._shade = rod(rng, Gloss(colour, 0.5, shine, 12, float(rng.uniform(-0.4, 0.4))))
            self._half = float(rng.uniform(0.008, 0.04))
            self._curve = _bent(rng, float(rng.uniform(0.3, 1.2)))

    def truth(self, time_s: float) -> None:
        """Return nothing: it is not an instrument."""

    def draw(self, time_s: float) -> list[Patch]:
        """Return it."""
        angle, at = self._angle(time_s), self.anchor(time_s)
        if self._sprite:
            return visible([self._sprite.place(self._view, at, angle)])
        turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        curve = self._curve @ turn + at
        half_widths = np.full(len(curve), self._half)
        return visible([ribbon(self._view, curve, half_widths, self._shade, labels.BACKGROUND)])


def _bent(rng: Generator, length: float) -> Points:
    """Bend a line of some length at random, from the origin."""
    headings = np.cumsum(np.cumsum(rng.normal(0, 0.035, 20)) + rng.normal(0, 0.08))
    steps = np.stack([np.cos(headings), np.sin(headings)], axis=1) * length / 20
    return np.asarray(np.cumsum(steps, axis=0))


def _gauze(rng: Generator, scale: float) -> Sprite:
    """Make a ragged piece of gauze, white or soaked with blood."""
    radius = float(rng.uniform(0.1, 0.3))
    texture = metal_texture(rng, (236, 232, 226), 0.1)
    texture = np.asarray(np.clip(texture * 0.5 + rng.uniform(70, 130), 0, 255), np.float32)
    relief = Relief(rng, (2.6 * radius, 2.6 * radius), (1.3 * radius, 1.3 * radius), scale)
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    ragged = radius * (1 + 0.16 * rng.standard_normal(24).clip(-1.6, 1.6))
    ring = np.stack([np.cos(angles), np.sin(angles) * rng.uniform(0.5, 1)], axis=1)
    relief.plate(ring * ragged[:, None], 0.03, 0.05)
    for at in np.arange(-radius, radius, 0.012):  # the weave
        for line in ((at, -radius, at + 0.004, radius), (-radius, at, radius, at + 0.004)):
            left, top, right, bottom = line
            corners = ((left, top), (right, top), (right, bottom), (left, bottom))
            relief.dark(np.array(corners), 0.93)
    return relief.finish(texture, labels.BACKGROUND, 0.05, float(rng.uniform(0, 0.9)))


def _bulldog(rng: Generator, length: float, scale: float) -> Sprite:
    """Make a bulldog clamp of metal or plastic: two serrated jaws, crossed before a spring."""
    plastic = rng.random() < 0.5
    tint = _PLASTICS[rng.integers(len(_PLASTICS))] if plastic else (250.0, 250.0, 250.0)
    texture = metal_texture(rng, tint, 0.15 if plastic else 0.5)
    if plastic:
        texture = np.asarray(np.clip(texture * 1.25 + 12, 0, 255), np.float32)
    half, opening = length * float(rng.uniform(0.06, 0.1)), float(rng.uniform(0.06, 0.2))
    relief = Relief(rng, (length * 1.5, length * 0.9), (length * 0.4, length * 0.45), scale)
    for side in (-1, 1):
        relief.plate(bar(length * 0.34, half, math.pi + side * 0.55), 0.02, half)
        relief.plate(bar(length, half, side * opening), 0.025, half)
        for at in np.linspace(0.3, 0.95, 10):
            turn = side * opening
            shift = at * length * np.array([math.cos(turn), math.sin(turn)])
            relief.dark(bar(length * 0.012, half * 0.9, turn) + shift, 0.6)
    for radius, factor in ((0.13, 1.0), (0.085, 0.35), (0.055, 1.0)):
        angles = np.linspace(0, 2 * np.pi, 30, endpoint=False)
        ring = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radius * length
        relief.plate(ring, 0.012, 0.01)
        relief.dark(ring, factor)
    return relief.finish(texture, labels.BACKGROUND, 0.03, float(rng.uniform(0, 0.5)))


def _probe(rng: Generator, scale: float) -> Sprite:
    """Make a drop-in probe: a smooth dark or white body with a fin."""
    length, half = float(rng.uniform(0.2, 0.45)), float(rng.uniform(0.03, 0.07))
    level = float(rng.choice([rng.uniform(20, 60), rng.uniform(180, 245)]))
    texture = metal_texture(rng, (level, level, level * 1.02), 0.2)
    relief = Relief(rng, (length + 3 * half, 4 * half), (1.2 * half, 2 * half), scale)
    relief.plate(bar(length, half, 0.0), half, half)
    fin = bar(0.3 * length, 0.3 * half, 0.0) + np.array([0.35 * length, 0.0])
    relief.plate(fin, 0.02, 0.02)
    return relief.finish(texture, labels.BACKGROUND, 0.01, float(rng.uniform(0, 0.3)))
