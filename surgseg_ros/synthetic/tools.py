# SPDX-License-Identifier: Apache-2.0
"""
Instruments that reach in from the border.

Robotic tools with shaft, wrist and clasper; suction tube and needle holder, held by an assistant.
"""

import math

import numpy as np
from numpy.random import Generator

from surgseg_ros.core import labels
from surgseg_ros.synthetic.drawing import (
    Item,
    Patch,
    Place,
    Points,
    Shade,
    Sprite,
    View,
    forward,
    outline,
    ribbon,
    seen,
)
from surgseg_ros.synthetic.materials import Gloss, Relief, metal_look, rod
from surgseg_ros.synthetic.noise import FloatImage, Wander, still


class ToolMotion:
    """
    The pose of a straight instrument, from a port beyond the border to a moving tip.

    :param rng: source of port and motion.
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


class Tool:
    """
    A robotic tool: shaft, wrist of a collar and a clevis, clasper of two jaws.

    :param rng: source of its form and motion.
    :param view: the image.
    :param bearing: direction of its port from the image's centre, in radians.
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
        """Return half the angle between the jaws, which stay closed while they hold something."""
        return 0.05 if self.held else max(0.03, self._opening(time_s))

    def grip(self, time_s: float) -> tuple[Place, float]:
        """Return the point between the jaws that holds things, and their direction."""
        _, _, pivot, angle = self._joints(time_s)
        return forward(pivot, angle, 0.82 * self.jaw_length * self._short(time_s)), angle

    def anchor(self, time_s: float) -> Place:
        """Return the pivot of the jaws."""
        return self._joints(time_s)[2]

    def draw(self, time_s: float) -> list[Patch]:
        """Return shaft, wrist, one jaw, the held object, and the other jaw."""
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


class Suction:
    """
    A suction tube: polished, with holes near its round tip.

    :param rng: source of its form and motion.
    :param view: the image.
    :param bearing: direction of its port from the image's centre, in radians.
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
    A manual needle holder: a thin steel rod and golden jaws, without a wrist.

    :param rng: source of its form and motion.
    :param view: the image.
    :param bearing: direction of its port from the image's centre, in radians.
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
        """Return the rod and both jaws, one of which is fixed."""
        _, angle = self._motion.pose(time_s)
        pivot = self.anchor(time_s)
        opening = max(0.03, self._opening(time_s))
        rod_patch = shank(self._view, pivot, angle, self._half, 0.05, self._shade, labels.HOLDER)
        fixed = self._jaw.place(self._view, pivot, angle)
        moving = self._jaw.place(self._view, pivot, angle - opening, (1.0, -1.0))
        return seen([moving, rod_patch, fixed])


def shaft_shade(rng: Generator, width: float) -> Shade:
    """Choose between a dark composite shaft and a grey metal one."""
    rings: list[tuple[float, float, float]] = [(0.0, 0.02, 0.45)]
    if rng.random() < 0.7:
        level = rng.uniform(34, 80)
        base = (level, level * rng.uniform(0.98, 1.06), level * rng.uniform(0.9, 1.0))
        gloss = Gloss(
            base, 0.35, float(rng.uniform(15, 60)), 5, float(rng.uniform(-0.4, 0.4)), 0.22
        )
    else:
        level = rng.uniform(105, 150)
        gloss = Gloss(
            (level, level, level * 1.03), 0.3, 60, 4, float(rng.uniform(-0.3, 0.3)), 0.10
        )
        rings.append((0.3 * width, 0.34 * width, 0.6))
    return rod(rng, gloss, rings)


def collar_of(
    rng: Generator, width: float, length: float, scale: float, look: FloatImage, blood: float
) -> Sprite:
    """Make the metal ring at the shaft's end; its origin is the middle of the shaft's end."""
    half = width / 2
    relief = Relief(rng, (length + 0.04, width + 0.04), (0.02, half + 0.02), scale)
    tip = 0.42 * half
    bend, rim = 0.6 * length, 0.8 * half
    upper, lower = ((0, -half), (bend, -half), (length, -rim)), ((bend, half), (0, half))
    relief.barrel(outline(*upper, (length, rim), *lower), half)
    tongue = outline((0.55 * length, -tip), (length, -tip), (length, tip), (0.55 * length, tip))
    relief.plate(tongue, 0.01, 0.01)
    for at in (0.08, 0.3, 0.5):
        start, stop = at * length, (at + 0.05) * length
        relief.dark(outline((start, -half), (stop, -half), (stop, half), (start, half)), 0.55)
    return relief.finish(look, labels.WRIST, 0.05, blood)


def clevis_of(
    rng: Generator, width: float, length: float, scale: float, look: FloatImage, blood: float
) -> Sprite:
    """Make the fork that carries the jaws; its origin is the joint at the collar."""
    half = width * float(rng.uniform(0.38, 0.48))
    back = 0.35 * width
    relief = Relief(
        rng, (length + back + 0.06, 2 * half + 0.06), (back + 0.02, half + 0.03), scale
    )
    relief.plate(_rounded(-back, length, half, 0.75 * half), 0.8 * half, 0.7 * half)
    relief.plate(_rounded(-0.7 * back, 0.95 * length, 0.78 * half, 0.55 * half), 0.012, 0.02)
    slot = 0.1 * half
    relief.dark(
        outline((0.35 * length, -slot), (length, -slot), (length, slot), (0.35 * length, slot)),
        0.35,
    )
    for x, radius in ((0.0, 0.42), (0.88 * length, 0.34)):
        relief.disk((x, 0.0), radius * half, 0.012, 0.012)
        relief.disk((x, 0.0), 0.5 * radius * half, 0.008, 0.006)
    for _ in range(int(rng.integers(1, 4))):
        spot = (float(rng.uniform(0.2, 0.7)) * length, float(rng.uniform(-0.6, 0.6)) * half)
        relief.disk(spot, 0.14 * half, 0.008, 0.006)
    return relief.finish(look, labels.WRIST, 0.05, blood)


def _rounded(start: float, stop: float, half_start: float, half_stop: float) -> Points:
    """Make a tapered bar whose far end is round."""
    angles = np.linspace(-np.pi / 2, np.pi / 2, 16)
    cap = np.stack([np.cos(angles) * half_stop + stop - half_stop, np.sin(angles) * half_stop], 1)
    corner = 0.3 * half_start
    near = outline(
        (start, half_start - corner), (start, corner - half_start), (start + corner, -half_start)
    )
    return np.concatenate([near, cap, outline((start + corner, half_start))])


def jaw_of(
    rng: Generator,
    width: float,
    length: float,
    scale: float,
    look: FloatImage,
    blood: float,
    label: int = labels.CLASPER,
) -> Sprite:
    """Make one jaw, which closes towards negative y; its origin is the pivot."""
    base, tip = 0.27 * width, width * float(rng.uniform(0.09, 0.15))
    bulge = float(rng.uniform(0.85, 1.1))
    relief = Relief(
        rng,
        (length + base + 0.04, base + 0.3 * width + 0.04),
        (base + 0.02, 0.2 * width + 0.02),
        scale,
    )
    relief.disk((0.0, 0.0), 0.8 * base, 0.03, 0.03)
    finger = outline(
        (-0.2 * base, -0.2 * base),
        (0.25 * length, -0.01 * width),
        (length, 0.0),
        (length * 1.01, 0.6 * tip),
        (0.96 * length, tip),
        (0.45 * length, base * bulge),
        (0.1 * length, base * 1.1),
    )
    relief.plate(finger, 0.35 * width, 0.16 * width)
    if rng.random() < 0.45 and label == labels.CLASPER:
        _fenestrate(relief, length, base, tip)
    _serrate(relief, rng, length, base)
    return relief.finish(look, label, 0.04, blood)


def _fenestrate(relief: Relief, length: float, base: float, tip: float) -> None:
    """Cut the hole that grasping forceps have in each jaw."""
    hole = outline(
        (0.5 * length, 0.45 * base),
        (0.75 * length, 0.5 * tip),
        (0.74 * length, 0.9 * tip),
        (0.5 * length, 0.66 * base),
    )
    relief.cut(hole)


def _serrate(relief: Relief, rng: Generator, length: float, base: float) -> None:
    """Darken grooves across the edge that grips."""
    edges = np.linspace(0.4, 0.97, int(rng.integers(8, 14))) * length
    depth = 0.22 * base
    for start, stop in zip(edges[:-1:2], edges[1::2]):
        groove = outline((start, -0.01), (stop, -0.01), (stop, depth), (start, depth))
        relief.dark(groove, 0.7)
