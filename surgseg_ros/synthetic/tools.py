# SPDX-License-Identifier: Apache-2.0
"""
Instruments that enter the image at its border.

Robotic tools with shaft, wrist and clasper; suction tubes and needle holders of an assistant.
"""

import math
from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from numpy.random import Generator

from surgseg_ros.core import labels
from surgseg_ros.core.keypoints import KeypointKind
from surgseg_ros.synthetic.drawing import Item, Patch, Shader, View, forward, ribbon, visible
from surgseg_ros.synthetic.materials import Gloss, metal_texture, rod
from surgseg_ros.synthetic.noise import Drift, FloatImage, slight_drift
from surgseg_ros.synthetic.tool_parts import (
    KINDS,
    TipCover,
    choose_kind,
    fork_of,
    jaw_of,
    shaft_colour,
    shaft_shade,
    wrist_of,
)
from surgseg_ros.synthetic.truth import Position, Truth

_ROD_TAPER: Final = 0.05  # growth of a rod's width per unit, towards its port


class ToolMotion:
    """
    The pose of a straight instrument, from a port beyond the border to a moving tip.

    :param rng: source of the port and the motion.
    :param view: the image.
    :param bearing: direction of the port from the image's middle, in radians.
    :param depth: (minimum, maximum) distance of the tip from the middle towards the port, as a
        share of the way to the border; negative values are beyond the middle.
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
        self._depth = slight_drift(rng, depth[0] * border, depth[1] * border, 0.6, period)
        self._sideways = slight_drift(rng, -0.36, 0.36, 0.5, period * 0.9)
        self.aim: Callable[[float], Position] | None = None  # replaces the path of the tip

    def pose(self, time_s: float) -> tuple[Position, float]:
        """Return the tip, and the angle at which the instrument points."""
        if self.aim:
            tip = self.aim(time_s)
        else:
            tip = forward(self._start, self._bearing, self._depth(time_s))
            tip = forward(tip, self._bearing + math.pi / 2, self._sideways(time_s))
        return tip, math.atan2(tip[1] - self._port[1], tip[0] - self._port[0])


def shank(
    view: View,
    end: Position,
    angle: float,
    half: float,
    taper: float,
    shade: Shader,
    label: int,
    flat: bool = True,
) -> Patch | None:
    """Draw the straight part of an instrument, from its end in the image out to the border."""
    far = forward(end, angle + math.pi, 2.2 * view.aspect)
    half_widths = np.array([half, half * (1 + taper * 2.2 * view.aspect)])
    return ribbon(view, np.array([end, far]), half_widths, shade, label, flat)


def shank_points(
    view: View, end: Position, angle: float, half: float, taper: float
) -> list[tuple[KeypointKind, Position, float]]:
    """
    Find where the straight part of an instrument enters the image.

    :param view: the image.
    :param end: its end in the image, in units.
    :param angle: at which it points to the tip.
    :param half: half of its width at the end, in units.
    :param taper: as for `shank`.
    :return: axis, entry, left and right edge at the entry.
    """
    kinds = KeypointKind
    found = [(kinds.SHAFT_AXIS, end, angle), (kinds.SHAFT_ENTRY, _entry(view, end, angle), angle)]
    for kind, side in ((kinds.LEFT_SHAFT_EDGE, -1), (kinds.RIGHT_SHAFT_EDGE, 1)):
        start = forward(end, angle + side * math.pi / 2, half)
        edge_angle = angle - side * math.atan(half * taper)
        found.append((kind, _entry(view, start, edge_angle), angle))
    return found


def _entry(view: View, start: Position, angle: float) -> Position:
    """Follow a line back from a point to the image's border."""
    steps = []
    for at, out, limit in (
        (start[0], -math.cos(angle), view.aspect),
        (start[1], -math.sin(angle), 1.0),
    ):
        if abs(out) > 1e-9:
            steps.append(((limit if out > 0 else 0.0) - at) / out)
    return forward(start, angle + math.pi, max(0.0, min(steps)))


class ToolLengths(NamedTuple):
    """Lengths of a tool's parts beyond the tube, in units: forked end, wrist and jaws."""

    fork: float
    wrist: float
    jaw: float


def local_to_image(origin: Position, angle: float, point: Position) -> Position:
    """Convert a point from the frame of an origin and a direction to the frame of the image."""
    return forward(forward(origin, angle, point[0]), angle + math.pi / 2, point[1])


def _side(origin: Position, angle: float, point: Position) -> float:
    """Return how far to the right of a direction a point lies, as seen in the image."""
    return math.cos(angle) * (point[1] - origin[1]) - math.sin(angle) * (point[0] - origin[0])


class Tool:
    """
    A robotic tool: shaft with a forked end, wrist, and one or two jaws.

    :param rng: source of the form and the motion.
    :param view: the image.
    :param bearing: direction of its port from the image's centre, in radians.
    """

    lift = 0.06

    def __init__(self, rng: Generator, view: View, bearing: float) -> None:
        self._view = view
        self.kind = choose_kind(rng)
        depth = ((-0.15, 0.6), (0.55, 1.1), (-0.6, 0.0))[rng.choice(3, p=(0.72, 0.1, 0.18))]
        self._motion = ToolMotion(rng, view, bearing, depth)
        widths = ((0.09, 0.2), (0.18, 0.4), (0.05, 0.1))[rng.choice(3, p=(0.47, 0.43, 0.1))]
        self.width = float(rng.uniform(*widths))
        self._taper = float(rng.choice([rng.uniform(0.02, 0.3), rng.uniform(0.3, 0.9)]))
        self._lengths = ToolLengths(
            self.width * float(rng.uniform(0.3, 1.3)),
            self.width * float(rng.uniform(0.8, 1.8)),
            self.width * float(rng.uniform(*self.kind.length)),
        )
        self._make_parts(rng)
        self._bends = [slight_drift(rng, -0.7, 0.7, 0.5, 5), slight_drift(rng, -0.6, 0.6, 0.5, 4)]
        self._opening = Drift(rng, -0.25, 0.5, float(rng.uniform(3, 7)))
        self._short = slight_drift(rng, float(rng.choice([0.35, 0.7])), 1.0, 0.4, 6)
        self.held: Item | None = None
        self.defocus = float(rng.uniform(0.0015, 0.009)) if rng.random() < 0.35 else 0.0

    def _make_parts(self, rng: Generator) -> None:
        width, lengths, scale = self.width, self._lengths, float(self._view.height)
        colour = shaft_colour(rng)
        self._shade = shaft_shade(rng, width, colour)
        polished = rng.random() < 0.45  # as bright as the image can be, with dark reflections
        tint = float(rng.uniform(0.9, 1.5) if polished else rng.uniform(0.3, 0.95))
        steel = (238 * tint, 240 * tint, 245 * tint)
        metal = metal_texture(
            rng, steel, float(rng.uniform(0.9, 2.0) if polished else rng.uniform(0.3, 1.2))
        )
        dull = rng.random() < 0.5
        red, green, blue = (min(255.0, 1.5 * part) for part in colour)
        fork_tint = (red, green, blue) if dull else steel
        fork_metal = metal_texture(rng, fork_tint, 0.2 if dull else float(rng.uniform(0.5, 1.0)))
        blood = float(rng.uniform(0, 0.6))
        self._fork = fork_of(rng, width, lengths.fork, scale, fork_metal, blood)
        self._wrist = wrist_of(rng, width, lengths.wrist, scale, metal, blood)
        self._jaw, self._jaw_end = jaw_of(rng, self.kind, width, lengths.jaw, scale, metal, blood)
        self._cover = TipCover(rng, width) if self.kind.covered else None

    def follow(self, other: 'Tool', rng: Generator) -> None:
        """
        Move the tip to jaws, wrist or shaft of another tool, sometimes across it.

        :param other: the tool, which must not follow this one.
        :param rng: source of the target on it, and of the motion around that.
        """
        back = float(rng.choice([-0.5, 0.5, 2.5])) * other.width
        along, across = (slight_drift(rng, -0.6, 0.6, 0.5, 5) for _ in range(2))

        def aim(time_s: float) -> Position:
            _, angle, pivot, _ = other._joints(time_s)
            point = forward(pivot, angle, other.width * along(time_s) - back)
            x, y = forward(point, angle + math.pi / 2, other.width * across(time_s))
            return min(max(x, 0.1), self._view.aspect - 0.1), min(max(y, 0.1), 0.9)

        self._motion.aim = aim

    def opening(self, time_s: float) -> float:
        """Return half the angle between the jaws, which stay closed while they hold something."""
        return 0.05 if self.held else max(0.02, self._opening(time_s))

    def grip(self, time_s: float) -> tuple[Position, float]:
        """Return the point between the jaws that holds things, and their direction."""
        _, _, pivot, angle = self._joints(time_s)
        return forward(pivot, angle, 0.82 * self._lengths.jaw * self._short(time_s)), angle

    def anchor(self, time_s: float) -> Position:
        """Return the pivot of the jaws."""
        return self._joints(time_s)[2]

    def truth(self, time_s: float) -> Truth:
        """Return its points; the left jaw is on the left as seen along the shaft."""
        kinds, (end, angle, pivot, jaw_angle) = KeypointKind, self._joints(time_s)
        joint, short = forward(end, angle, 0.7 * self._lengths.fork), self._short(time_s)
        opening = self.opening(time_s)
        tips = [
            local_to_image(
                pivot,
                jaw_angle + side * opening,
                (short * self._jaw_end[0], side * self._jaw_end[1]),
            )
            for side in ((-1, 1) if self.kind.blades == 2 else (1,))
        ]
        headings = [math.atan2(tip[1] - pivot[1], tip[0] - pivot[0]) for tip in tips]
        middle = (sum(tip[0] for tip in tips) / len(tips), sum(tip[1] for tip in tips) / len(tips))
        points = [
            *shank_points(self._view, end, angle, self.width / 2, self._taper),
            (kinds.WRIST_JOINT, joint, angle),
            (kinds.JAW_PIVOT, pivot, jaw_angle),
            (kinds.TIP, middle, jaw_angle),
        ]
        if len(tips) == 1:
            return Truth(labels.ROBOTIC_TOOL, points, None, self.width, taper=self._taper)
        cross = [_side(pivot, angle, tip) for tip in tips]
        left = cross.index(min(cross))
        points.append((kinds.LEFT_JAW_TIP, tips[left], headings[left]))
        points.append((kinds.RIGHT_JAW_TIP, tips[1 - left], headings[1 - left]))
        degrees = abs(math.degrees(math.remainder(headings[1] - headings[0], 2 * math.pi)))
        return Truth(labels.ROBOTIC_TOOL, points, degrees, self.width, taper=self._taper)

    def draw(self, time_s: float) -> list[Patch]:
        """Return shaft, one jaw, the held object, the other jaw, and wrist and fork or cover."""
        view, short = self._view, self._short(time_s)
        end, angle, pivot, jaw_angle = self._joints(time_s)
        joint = forward(end, angle, 0.7 * self._lengths.fork)
        opening = self.opening(time_s)
        shaft = shank(view, end, angle, self.width / 2, self._taper, self._shade, labels.SHAFT)
        lower = self._jaw.place(view, pivot, jaw_angle - opening, (short, -1.0))
        between = self.held.draw(time_s) if self.held else []
        upper = self._jaw.place(view, pivot, jaw_angle + opening, (short, 1.0))
        jaws = [lower, *between, upper] if self.kind.blades == 2 else [*between, upper]
        if self._cover:
            return visible([shaft, *jaws, self._cover.draw(view, np.array([end, joint, pivot]))])
        wrist_angle = math.atan2(pivot[1] - joint[1], pivot[0] - joint[0])
        wrist = self._wrist.place(view, joint, wrist_angle, (short, 1.0))
        fork = self._fork.place(view, end, angle)
        return visible([shaft, *jaws, wrist, fork])

    def _joints(self, time_s: float) -> tuple[Position, float, Position, float]:
        """Return the tube's end and angle, the jaws' pivot and angle."""
        tip, angle = self._motion.pose(time_s)
        short = self._short(time_s)
        fork, wrist, jaw = self._lengths
        end = forward(tip, angle, -(fork + (wrist + jaw / 2) * short))
        bend = angle + self._bends[0](time_s)
        joint = forward(end, angle, 0.7 * fork)
        pivot = forward(joint, bend, 0.88 * wrist * short)
        return end, angle, pivot, bend + self._bends[1](time_s)


class Suction:
    """
    A suction tube: smooth and bright, some with holes near the round tip.

    :param rng: source of its form and motion.
    :param view: the image.
    :param bearing: direction of its port from the image's centre, in radians.
    """

    lift = 0.04

    def __init__(self, rng: Generator, view: View, bearing: float) -> None:
        self._view = view
        self._motion = ToolMotion(rng, view, bearing, (-0.2, 0.8))
        self._half = float(rng.uniform(0.018, 0.06))
        tint = rng.uniform(120, 225)
        base = (tint * rng.uniform(0.86, 1.04), tint * 0.97, tint * 1.0)
        body = rod(rng, Gloss(base, 0.3, 130, 9, float(rng.uniform(-0.35, 0.35)), 0.02))
        pitch, count = (self._half * float(rng.uniform(1.3, 1.8)), int(rng.integers(4, 8)))
        half, holes = self._half, rng.random() < 0.4

        def shade(along: FloatImage, across: FloatImage, facing: FloatImage) -> FloatImage:
            colours = body(along, across, facing)
            if not holes:
                return colours
            position = along / pitch - 0.7
            row = np.rint(position)
            shift = np.where(row % 2 == 0, -0.42, 0.42)
            gap = np.hypot((position - row) * pitch / half, across - shift)
            hole = (gap < 0.34) & (row >= 0) & (row < count)
            return np.asarray(np.where(hole, [[26], [12], [14]], colours), np.float32)

        self._shade = shade
        self.defocus = float(rng.uniform(0.002, 0.012)) if rng.random() < 0.3 else 0.0

    def anchor(self, time_s: float) -> Position:
        """Return the tip."""
        return self._motion.pose(time_s)[0]

    def truth(self, time_s: float) -> Truth:
        """Return tip, axis and entry."""
        tip, angle = self._motion.pose(time_s)
        end = forward(tip, angle, self._half)
        points = shank_points(self._view, end, angle, self._half, _ROD_TAPER)
        points.append((KeypointKind.TIP, end, angle))
        return Truth(labels.SUCTION, points, None, 2 * self._half, taper=_ROD_TAPER)

    def draw(self, time_s: float) -> list[Patch]:
        """Return the tube."""
        tip, angle = self._motion.pose(time_s)
        tube = shank(
            self._view, tip, angle, self._half, _ROD_TAPER, self._shade, labels.SUCTION, flat=False
        )
        return visible([tube])


class NeedleHolder:
    """
    A manual needle holder: a thin bright steel rod with short jaws, without a wrist.

    :param rng: source of its form and motion.
    :param view: the image.
    :param bearing: direction of its port from the image's centre, in radians.
    """

    lift = 0.05

    def __init__(self, rng: Generator, view: View, bearing: float) -> None:
        self._view = view
        self._motion = ToolMotion(rng, view, bearing, (-0.15, 0.7))
        self._half = float(rng.uniform(0.016, 0.034))
        tint = float(rng.uniform(110, 215))
        self._shade = rod(
            rng,
            Gloss((tint, tint, tint * 1.03), 0.25, 90, 10, 0.2, 0.04),
            ((0.012, 0.022, 0.5), (0.034, 0.044, 0.5)) if rng.random() < 0.5 else (),
        )
        gold = rng.random() < 0.4
        metal = metal_texture(rng, (246, 196, 84) if gold else (tint * 1.2,) * 3, 0.6)
        width = self._half * float(rng.uniform(3.0, 5.2))
        self._length = self._half * float(rng.uniform(4, 9))
        scale = float(view.height)
        kind = KINDS['needle_driver']
        self._jaw, self._jaw_end = jaw_of(
            rng, kind, width, self._length, scale, metal, 0.15, labels.HOLDER
        )
        self._opening = Drift(rng, -0.3, 0.4, 5)
        self.defocus = 0.0

    def anchor(self, time_s: float) -> Position:
        """Return the jaws' pivot."""
        tip, angle = self._motion.pose(time_s)
        return forward(tip, angle, -self._length)

    def truth(self, time_s: float) -> Truth:
        """Return axis, entry, and the point between the tips of both jaws."""
        _, angle = self._motion.pose(time_s)
        pivot = self.anchor(time_s)
        opening = max(0.03, self._opening(time_s))
        length, side = self._jaw_end
        tips = (
            local_to_image(pivot, angle, (length, side)),
            local_to_image(pivot, angle - opening, (length, -side)),
        )
        tip = ((tips[0][0] + tips[1][0]) / 2, (tips[0][1] + tips[1][1]) / 2)
        points = shank_points(self._view, pivot, angle, self._half, _ROD_TAPER)
        points.append((KeypointKind.TIP, tip, angle))
        return Truth(labels.HOLDER, points, None, 2 * self._half, taper=_ROD_TAPER)

    def draw(self, time_s: float) -> list[Patch]:
        """Return the rod and both jaws, one of which is fixed."""
        _, angle = self._motion.pose(time_s)
        pivot = self.anchor(time_s)
        opening = max(0.03, self._opening(time_s))
        rod_patch = shank(
            self._view, pivot, angle, self._half, _ROD_TAPER, self._shade, labels.HOLDER
        )
        fixed = self._jaw.place(self._view, pivot, angle)
        moving = self._jaw.place(self._view, pivot, angle - opening, (1.0, -1.0))
        return visible([moving, rod_patch, fixed])
