# SPDX-License-Identifier: Apache-2.0
"""Things that lie in the scene: needle, thread, clamps and catheter."""

import math

import numpy as np
from numpy.random import Generator

from surgseg_ros.core import labels
from surgseg_ros.training.scenes.drawing import Patch, Points, Sprite, View, ribbon
from surgseg_ros.training.scenes.instruments import Place, Tool, seen
from surgseg_ros.training.scenes.materials import Colour, Gloss, Relief, metal_look, rod
from surgseg_ros.training.scenes.motion import Wander, still
from surgseg_ros.training.scenes.noise import FloatImage
from surgseg_ros.training.scenes.tissue import Tissue

_THREADS: tuple[Colour, ...] = (
    (96, 62, 190), (64, 84, 205), (52, 150, 120), (226, 222, 232), (60, 190, 225),
)  # fmt: skip
_CATHETERS: tuple[Colour, ...] = (
    (226, 158, 52), (214, 120, 40), (232, 206, 150), (226, 190, 84),
)  # fmt: skip
_PLASTICS: tuple[Colour, ...] = (
    (238, 236, 240), (150, 96, 205), (70, 185, 105), (80, 140, 235),
)  # fmt: skip


class Needle:
    """
    A curved needle, held between a tool's jaws or standing in the tissue.

    :param rng: where its form comes from.
    :param view: the picture.
    :param tissue: what it stands in.
    :param tool: what holds it, or None.
    """

    lift = 0.03

    def __init__(self, rng: Generator, view: View, tissue: Tissue, tool: Tool | None) -> None:
        self._view = view
        self._tissue = tissue
        self._tool = tool
        self._half = float(rng.uniform(0.0050, 0.0068))
        radius = float(rng.uniform(0.075, 0.13))
        angles = np.linspace(0, float(rng.uniform(2.5, 3.4)), 36)
        lean = float(rng.uniform(0.6, 1.0))
        arc = np.stack([np.cos(angles), np.sin(angles) * lean], axis=1) * radius
        held_at = int(rng.integers(7, 16)) if tool else 0
        self._arc = arc - arc[held_at]
        if tool is None:
            self._arc = self._arc[: int(rng.integers(24, 37))]
        side = float(rng.choice([-1, 1]))
        tangent = arc[held_at + 1] - arc[held_at]
        across = math.atan2(tangent[1], tangent[0]) - side * math.pi / 2 if tool else 0.0
        self._turn = still(rng, -across - 0.5, -across + 0.5, 0.4, 7)
        self._angle = float(rng.uniform(0, 2 * np.pi))
        self._rest = np.array([rng.uniform(0.2, 0.8) * view.aspect, rng.uniform(0.2, 0.8)])

    def _curve(self, time_s: float) -> Points:
        """Return the needle from its tail to its tip."""
        turn = self._turn(time_s)
        if self._tool:
            at, angle = self._tool.grip(time_s)
            turn += angle
        else:
            at = tuple(self._tissue.place(self._rest[None], time_s)[0])
            turn += self._angle
        cosine, sine = math.cos(turn), math.sin(turn)
        return np.asarray(self._arc @ np.array([[cosine, sine], [-sine, cosine]]) + at)

    def tail(self, time_s: float) -> Place:
        """Return where the thread is fastened."""
        x, y = self._curve(time_s)[0]
        return float(x), float(y)

    def anchor(self, time_s: float) -> Place:
        """Return its middle."""
        x, y = self._curve(time_s)[len(self._arc) // 2]
        return float(x), float(y)

    def draw(self, time_s: float) -> list[Patch]:
        """Return the needle; its highlight lies where it runs across the light."""

        def shade(along: FloatImage, across: FloatImage, facing: FloatImage) -> FloatImage:
            light = 165 + 45 * np.sin(3 * facing + 1) - 75 * np.abs(across + 0.2)
            light += 90 * np.exp(-9 * (across + 0.25) ** 2)
            return np.asarray(light[:, None] * np.array([0.97, 1.0, 1.04]), np.float32)

        halves = np.full(len(self._arc), self._half)
        halves[-5:] *= (1, 0.9, 0.8, 0.65, 0.45)
        return seen([ribbon(self._view, self._curve(time_s), halves, shade, labels.NEEDLE)])


class Thread:
    """
    A suture thread: a soft curve, from a needle's tail or from the tissue.

    :param rng: where its form comes from.
    :param view: the picture.
    :param tissue: what it lies on.
    :param needle: what it is fastened to, or None.
    """

    lift = 0.012

    def __init__(self, rng: Generator, view: View, tissue: Tissue, needle: Needle | None) -> None:
        self._view = view
        self._tissue = tissue
        self._needle = needle
        self._half = float(rng.uniform(0.0046, 0.0066))
        self._colour = _THREADS[rng.integers(len(_THREADS))]
        self._rest = _soft_curve(rng, view)
        self._waves = [Wander(rng, -0.02, 0.02, 5) for _ in range(4)]
        self._hidden = None
        if rng.random() < 0.4:
            start = int(rng.integers(25, 60))
            self._hidden = (start, start + int(rng.integers(3, 8)))

    def _curve(self, time_s: float) -> Points:
        curve = self._tissue.place(self._rest, time_s)
        share = np.linspace(0, 1, len(curve))
        swing = np.array([wave(time_s) for wave in self._waves]).reshape(2, 2)
        curve = curve + np.sin(np.pi * share)[:, None] * swing[0]
        curve = curve + np.sin(2 * np.pi * share)[:, None] * swing[1]
        if self._needle:
            pull = np.array(self._needle.tail(time_s)) - curve[0]
            curve = curve + (1 - share)[:, None] ** 2 * pull
        return np.asarray(curve)

    def anchor(self, time_s: float) -> Place:
        """Return a point near its free part."""
        x, y = self._curve(time_s)[20]
        return float(x), float(y)

    def draw(self, time_s: float) -> list[Patch]:
        """Return the thread, in two pieces where it runs through tissue."""
        base = np.array(self._colour, np.float32)

        def shade(along: FloatImage, across: FloatImage, facing: FloatImage) -> FloatImage:
            twist = 1 + 0.16 * np.sin(along * 380 + 2.5 * across)
            light = (1.08 - 0.5 * across**2) * twist
            gloss = 55 * np.exp(-6 * (across + 0.2) ** 2)
            return np.asarray(light[:, None] * base + gloss[:, None], np.float32)

        curve = self._curve(time_s)
        pieces = [curve]
        if self._hidden:
            pieces = [curve[: self._hidden[0]], curve[self._hidden[1] :]]
        halves = np.full(len(curve), self._half)
        return seen(
            [
                ribbon(self._view, piece, halves[: len(piece)], shade, labels.THREAD)
                for piece in pieces
            ]
        )


def _soft_curve(rng: Generator, view: View, length: float | None = None) -> Points:
    """Walk with a slowly changing curvature, so that the curve stays about the picture."""
    count = 90
    stride = (length or float(rng.uniform(0.7, 1.6))) / count
    point = np.array([rng.uniform(0.25, 0.75) * view.aspect, rng.uniform(0.25, 0.75)])
    heading = float(rng.uniform(0, 2 * np.pi))
    bends = [Wander(rng, -0.10, 0.10, float(rng.uniform(25, 70))) for _ in range(2)]
    points = []
    for i in range(count):
        points.append(point.copy())
        heading += bends[0](i)
        point = point + stride * np.array([math.cos(heading), math.sin(heading)])
    return np.array(points)


class Clamp:
    """
    A clamp that lies on the tissue: a plastic clip or a metal bulldog.

    :param rng: where its form comes from.
    :param view: the picture.
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
        """Return where it lies."""
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

    :param rng: where its form comes from.
    :param view: the picture.
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
    """Bend a smooth curve from a tip in the picture to a point well beyond its border."""
    middle = np.array([view.aspect / 2, 0.5])
    bearing = float(rng.uniform(0, 2 * np.pi))
    out = np.array([math.cos(bearing), math.sin(bearing)])
    aside = np.array([-out[1], out[0]])
    tip = middle + rng.uniform(-0.3, 0.1) * out + rng.uniform(-0.3, 0.3) * aside
    bends = rng.uniform(-0.45, 0.45, 2)
    first, second = (tip + 0.4 * out + bends[0] * aside, tip + 0.9 * out + bends[1] * aside)
    last = middle + (view.aspect / 2 + 0.6) * out
    at = np.linspace(0, 1, 26)[:, None]  # pieces longer than the tube is wide
    return np.asarray(
        (1 - at) ** 3 * tip
        + 3 * at * (1 - at) ** 2 * first
        + 3 * at**2 * (1 - at) * second
        + at**3 * last
    )
