# SPDX-License-Identifier: Apache-2.0
"""Needle and thread."""

import math

import numpy as np
from numpy.random import Generator

from surgseg_ros.core import labels
from surgseg_ros.core.curves import fit_circle, resample
from surgseg_ros.core.keypoints import KeypointKind
from surgseg_ros.synthetic.drawing import Patch, Points, View, ribbon, visible
from surgseg_ros.synthetic.materials import Colour
from surgseg_ros.synthetic.noise import Drift, FloatImage, slight_drift
from surgseg_ros.synthetic.tissue import Tissue
from surgseg_ros.synthetic.tools import Tool
from surgseg_ros.synthetic.truth import Position, Truth

_THREADS: tuple[Colour, ...] = (
    (96, 62, 190), (64, 84, 205), (52, 150, 120), (226, 222, 232), (60, 190, 225),
    (150, 110, 170), (196, 160, 200), (34, 26, 40), (52, 36, 74), (20, 18, 20), (110, 84, 70),
)  # fmt: skip


_SHARP = 0.45
"""Width of a needle at its point, relative to the width of its body."""


class Needle:
    """
    A curved needle, held by the jaws of a tool or stuck in the tissue.

    :param rng: source of its random form.
    :param view: the image.
    :param tissue: the tissue in which it is stuck.
    :param tool: the tool that holds it, or None.
    """

    lift = 0.03
    defocus = 0.0

    def __init__(self, rng: Generator, view: View, tissue: Tissue, tool: Tool | None) -> None:
        self._view = view
        self._tissue = tissue
        self._tool = tool
        self.has_thread = False
        self._half = float(rng.uniform(0.0048, 0.013))
        radius = float(rng.uniform(0.07, 0.19))
        angles = np.linspace(0, float(rng.uniform(2.5, 3.4)), 36)
        flattening = float(rng.uniform(0.6, 1.0))
        arc = np.stack([np.cos(angles), np.sin(angles) * flattening], axis=1) * radius
        held_at = int(rng.integers(7, 16)) if tool else 0
        self._arc = arc - arc[held_at]
        if tool is None:
            self._arc = self._arc[: int(rng.integers(24, 37))]
        side = float(rng.choice([-1, 1]))
        tangent = arc[held_at + 1] - arc[held_at]
        across = math.atan2(tangent[1], tangent[0]) - side * math.pi / 2 if tool else 0.0
        self._turn = slight_drift(rng, -across - 0.5, -across + 0.5, 0.4, 7)
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

    def tail(self, time_s: float) -> Position:
        """Return the point to which the thread is tied."""
        x, y = self._curve(time_s)[0]
        return float(x), float(y)

    def anchor(self, time_s: float) -> Position:
        """Return its middle."""
        x, y = self._curve(time_s)[len(self._arc) // 2]
        return float(x), float(y)

    def truth(self, time_s: float) -> Truth:
        """Return its ends, its middle, and the centre of the circle through it."""
        kinds, curve = KeypointKind, self._curve(time_s)
        fitted = fit_circle(curve)
        middle = curve[len(curve) // 2]
        ends = [(curve[-2], curve[-1], _SHARP * self._half), (curve[1], curve[0], self._half)]
        point, tail = (  # the round ends extend the curve
            (_position(end + half * (end - near) / math.dist(end, near)), _heading(near, end))
            for near, end, half in ends
        )
        points = [
            (kinds.NEEDLE_POINT, *point),
            (kinds.NEEDLE_TAIL, *tail),
            (kinds.NEEDLE_MIDDLE, _position(middle), _heading(curve[0], curve[-1])),
        ]
        if fitted:
            points.append((kinds.NEEDLE_CENTRE, _position(fitted[0]), 0.0))
        if self.has_thread:
            points.append((kinds.NEEDLE_THREAD_END, *points[1][1:]))
        return Truth(labels.NEEDLE, points, radius=fitted[1] if fitted else None)

    def draw(self, time_s: float) -> list[Patch]:
        """Return the needle; its highlight is where it runs across the light."""

        def shade(along: FloatImage, across: FloatImage, facing: FloatImage) -> FloatImage:
            light = 165 + 45 * np.sin(3 * facing + 1) - 75 * np.abs(across + 0.2)
            light += 90 * np.exp(-9 * (across + 0.25) ** 2)
            return np.asarray(light * np.array([[0.97], [1.0], [1.04]]), np.float32)

        half_widths = np.full(len(self._arc), self._half)
        half_widths[-5:] *= (1, 0.9, 0.8, 0.65, _SHARP)
        return visible(
            [ribbon(self._view, self._curve(time_s), half_widths, shade, labels.NEEDLE)]
        )


class Thread:
    """
    A suture thread: a soft curve, from a needle's tail or from the tissue.

    :param rng: source of its random form.
    :param view: the image.
    :param tissue: on which it lies.
    :param needle: the needle to which it is tied, or None.
    """

    lift = 0.012
    defocus = 0.0

    def __init__(self, rng: Generator, view: View, tissue: Tissue, needle: Needle | None) -> None:
        self._view = view
        self._tissue = tissue
        self._needle = needle
        if needle:
            needle.has_thread = True
        self._half = float(rng.uniform(0.0032, 0.0095))
        self._colour = _THREADS[rng.integers(len(_THREADS))]
        self._rest = _soft_curve(rng, view)
        self._waves = [Drift(rng, -0.02, 0.02, 5) for _ in range(4)]
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

    def anchor(self, time_s: float) -> Position:
        """Return a point near its free part."""
        x, y = self._curve(time_s)[20]
        return float(x), float(y)

    def truth(self, time_s: float) -> Truth:
        """Return its ends, and its line."""
        kinds, curve = KeypointKind, self._curve(time_s)
        ends = [
            (kinds.THREAD_END, _position(curve[0]), _heading(curve[1], curve[0])),
            (kinds.THREAD_END, _position(curve[-1]), _heading(curve[-2], curve[-1])),
        ]
        line = resample(curve)
        steps = np.diff(line, axis=0, append=line[-1:] * 2 - line[-2:-1])
        along = [
            (kinds.THREAD_LINE, _position(point), math.atan2(step[1], step[0]))
            for point, step in zip(line, steps)
        ]
        return Truth(labels.THREAD, [*ends, *along])

    def draw(self, time_s: float) -> list[Patch]:
        """Return the thread, in two pieces where it runs through tissue."""
        base = np.array(self._colour, np.float32)[:, None]

        def shade(along: FloatImage, across: FloatImage, facing: FloatImage) -> FloatImage:
            twist = 1 + 0.16 * np.sin(along * 380 + 2.5 * across)
            light = (1.08 - 0.5 * across**2) * twist
            gloss = 55 * np.exp(-6 * (across + 0.2) ** 2)
            return np.asarray(light * base + gloss, np.float32)

        curve = self._curve(time_s)
        pieces = [curve]
        if self._hidden:
            pieces = [curve[: self._hidden[0]], curve[self._hidden[1] :]]
        half_widths = np.full(len(curve), self._half)
        return visible(
            [
                ribbon(self._view, piece, half_widths[: len(piece)], shade, labels.THREAD)
                for piece in pieces
            ]
        )


def _position(point: Points) -> Position:
    return float(point[0]), float(point[1])


def _heading(start: Points, stop: Points) -> float:
    return math.atan2(float(stop[1] - start[1]), float(stop[0] - start[0]))


def _soft_curve(rng: Generator, view: View) -> Points:
    """Walk with a slowly changing curvature, so that the curve stays near the image."""
    count = 90
    stride = float(rng.uniform(0.7, 1.6)) / count
    point = np.array([rng.uniform(0.25, 0.75) * view.aspect, rng.uniform(0.25, 0.75)])
    heading = float(rng.uniform(0, 2 * np.pi))
    maximum = float(rng.choice([0.1, 0.24]))  # the second makes loops
    bends = [Drift(rng, -maximum, maximum, float(rng.uniform(25, 70))) for _ in range(2)]
    points = []
    for i in range(count):
        points.append(point.copy())
        heading += bends[0](i)
        point = point + stride * np.array([math.cos(heading), math.sin(heading)])
    return np.array(points)
