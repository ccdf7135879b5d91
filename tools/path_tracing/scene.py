# SPDX-License-Identifier: Apache-2.0
"""
Composes a shot: which instruments and objects are over the tissue, where, and in which light.

Directions in the image, as the bearing of an instrument, are angles from the right towards up.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np
from numpy.random import Generator

from tools.path_tracing.assistant_tools import draw_needle_holder, draw_suction_tube
from tools.path_tracing.jaws import HOOK
from tools.path_tracing.lighting import Lighting, draw_lighting
from tools.path_tracing.resting_objects import (
    draw_bulldog_clamp,
    draw_catheter,
    draw_clip,
    draw_drain,
    draw_gauze,
    draw_strand,
    draw_vessel,
)
from tools.path_tracing.robotic_tools import RoboticTool, draw_tool
from tools.path_tracing.shapes import Part
from tools.path_tracing.suture import draw_knots, draw_needle, draw_thread
from tools.path_tracing.tissue import Tissue
from tools.path_tracing.transforms import Matrix, Vector, frame, rotation, scaling
from tools.path_tracing.view import View, draw_near_view, draw_view

TOOL_COUNT_SHARES: Final = (0.03, 0.17, 0.52, 0.22, 0.06)
"""Shares of shots with 0 to 4 robotic instruments; two are usual."""

DIAMETER_CM: Final = 0.8
THIN_DIAMETER_CM: Final = 0.55
"""Diameters of da Vinci shafts: most are of 8 mm, a few of 5 mm, which appear a bit thicker."""

MIN_DISTANCE_CM: Final = 2.4
"""Distance of a tip from the camera, at least: nearer ones would fill the image."""

_STEEPEST: Final = 1.25
_STEEPER: Final = 0.1
"""Angle in radians up to which a shaft that cuts the tissue is raised, and the step."""


@dataclass(frozen=True, eq=False)
class Shot:
    """
    The content of an image, apart from the tissue.

    :param view: the camera over the tissue.
    :param parts: instruments and objects.
    :param lighting: lamps and focus.
    """

    view: View
    parts: list[Part]
    lighting: Lighting


class Approach(NamedTuple):
    """
    How an instrument comes into the image.

    :param bearing: direction in the image from its tip to where it comes from, in radians.
    :param tilt: angle in radians by which it points away from the camera; 0 is across the view.
    :param roll: turn about its shaft in radians.
    :param diameter_cm: of its shaft.
    """

    bearing: float
    tilt: float
    roll: float
    diameter_cm: float


class _Placement(NamedTuple):
    """A robotic instrument, and the frame between its jaws in coordinates of the tissue."""

    tool: RoboticTool
    pose: Matrix

    @property
    def grip(self) -> Matrix:
        return self.pose @ self.tool.grip


def draw_shot(rng: Generator, tissue: Tissue) -> Shot:
    """
    Draw a random shot of tissue.

    :param rng: source of random numbers.
    :param tissue: the tissue.
    :return: the shot.
    """
    view = draw_view(rng, tissue)
    placed = list(_robotic_tools(rng, view))
    parts = [part.moved(each.pose) for each in placed for part in each.tool.parts]
    parts += _sutures(rng, view, placed)
    parts += _assistants(rng, view)
    parts += _resting(rng, view)
    return Shot(view, parts, draw_lighting(rng, view))


def draw_bare_shot(rng: Generator, tissue: Tissue) -> Shot:
    """
    Draw a random shot of tissue without instruments, half of them near and mostly out of focus.

    :param rng: source of random numbers.
    :param tissue: the tissue.
    :return: the shot, whose mask is all background.
    """
    if rng.random() < 0.5:
        view = draw_view(rng, tissue)
        parts = [draw_vessel(rng, view) for _ in range(int(rng.integers(0, 3)))]
        if rng.random() < 0.15:
            parts += draw_bulldog_clamp(rng, view)
        if rng.random() < 0.15:
            parts.append(draw_gauze(rng, view))
        if rng.random() < 0.25:
            parts.append(draw_drain(rng, view))
    else:
        view, parts = draw_near_view(rng, tissue), []
    lighting = draw_lighting(rng, view)
    if rng.random() < 0.6:  # the plane of focus is behind the tissue
        focus, radius = view.focus_cm * rng.uniform(1.2, 4), float(rng.uniform(0.03, 0.12))
        lighting = replace(lighting, focus_cm=focus, lens_radius_cm=radius)
    return Shot(view, parts, lighting)


def place(view: View, tip: Vector, at: Vector, approach: Approach) -> Matrix:
    """
    Place an instrument with its tip at a point; raise its shaft until it is clear of the tissue.

    :param view: the camera over the tissue.
    :param tip: (3,) its tip in its own coordinates, in which x points along it.
    :param at: (3,) where the tip is to be, in coordinates of the tissue.
    :param approach: where it comes from.
    :return: (4, 4) from its coordinates to those of the tissue.
    """
    bearing, tilt, axes = approach.bearing, approach.tilt, view.pose[:3, :3]
    while True:
        across = math.cos(tilt)
        along = np.array([-math.cos(bearing) * across, -math.sin(bearing) * across, 0])
        direction = axes @ (along - (0, 0, math.sin(tilt)))
        shaft = at - np.linspace(1.2, 9, 14)[:, None] * direction
        clearance = shaft[:, 2] - view.tissue.height(shaft[:, 0], shaft[:, 1])
        clear = clearance > 0.35 * approach.diameter_cm
        if (clear.mean() > 0.8 and clear[:5].all()) or tilt > _STEEPEST:
            break
        tilt += _STEEPER
    pose = frame(direction, axes[:, 1]) @ rotation('x', approach.roll)
    pose = pose @ scaling(approach.diameter_cm)
    pose[:3, 3] = at - pose[:3, :3] @ tip
    return pose


def _robotic_tools(rng: Generator, view: View) -> Iterator[_Placement]:
    """Place up to four instruments: the first two mostly from both sides, often tip to tip."""
    count = int(rng.choice(5, p=TOOL_COUNT_SHARES))
    first = rng.uniform(0, 2 * np.pi)
    from_sides = rng.random() < 0.75
    order = rng.permutation([0, 1])
    meeting: tuple[float, float] | None = None
    for index in range(count):
        if from_sides and index < 2:
            sides = rng.normal(-0.1, 0.45), np.pi + rng.normal(0.1, 0.45)
            bearing = sides[order[index]]
        elif index < 2:
            bearing = first + index * rng.uniform(0.8, 3.5)
        else:
            bearing = rng.uniform(0, 2 * np.pi)
        x, y = _draw_position(rng, bearing)
        if meeting is not None and rng.random() < 0.4:
            x, y = meeting[0] + rng.normal(0, 0.12), meeting[1] + rng.normal(0, 0.15)
        x, y = float(np.clip(x, -0.85, 0.85)), float(np.clip(y, -0.8, 0.8))
        meeting = meeting or (x, y)
        depths = rng.uniform(0.8, 0.99), rng.uniform(0.5, 0.85), rng.uniform(0.3, 0.5)
        tip = _point(view, x, y, float(rng.choice(depths, p=(0.5, 0.37, 0.13))))
        tool = draw_tool(rng)
        tilt, roll = float(np.clip(rng.normal(0.5, 0.28), -0.1, 1.2)), rng.uniform(0, 2 * np.pi)
        is_usual = rng.random() < 0.85
        diameter = DIAMETER_CM * rng.uniform(0.92, 1.08) if is_usual else THIN_DIAMETER_CM
        approach = Approach(bearing, tilt, roll, diameter)
        yield _Placement(tool, place(view, tool.tip, tip, approach))


def _draw_position(rng: Generator, bearing: float) -> tuple[float, float]:
    """Draw where in the image a tip is: from near the border it comes from to past the middle."""
    toward = math.cos(bearing), math.sin(bearing)
    ranges = rng.uniform(-0.25, 0.35), rng.uniform(0.3, 0.75), rng.uniform(-0.6, -0.2)
    along = float(rng.choice(ranges, p=(0.65, 0.2, 0.15)))
    sideways = rng.normal(0, 0.3)
    return (
        along * toward[0] - sideways * toward[1],
        along * toward[1] * 1.1 + sideways * toward[0],
    )


def _point(view: View, x: float, y: float, depth: float) -> Vector:
    """Return a point above a position in the image; depth 1 is on the tissue, 0 at the camera."""
    distance = max(MIN_DISTANCE_CM, view.ground(x, y).distance_cm * depth)
    return np.asarray(view.pose[:3, 3] + distance * view.ray(x, y))


def _sutures(rng: Generator, view: View, placed: list[_Placement]) -> Iterator[Part]:
    """Put needles and threads into jaws and on the tissue, and lift tissue with other jaws."""
    tails = []
    for each in placed:
        if each.tool.is_holding and rng.random() < 0.75:
            needle = draw_needle(rng, each.grip, is_held=True)
            tails.append(needle.tail)
            yield needle.part
        elif each.tool.is_holding and rng.random() < 0.5:
            tails.append(each.grip[:3, 3])
        elif rng.random() < 0.12 and each.tool.kind != HOOK:
            strand = draw_strand(rng, view, each.grip[:3, 3])
            if strand is not None:
                yield strand
    if rng.random() < 0.2 or (not tails and rng.random() < 0.3):
        point = view.ground_within(rng, 0.6)
        normal = view.tissue.normal(point)
        grip = frame(rng.normal(0, 1, 3), normal, point + normal * rng.uniform(-0.1, 0.25))
        needle = draw_needle(rng, grip, is_held=False)
        tails.append(needle.tail)
        yield needle.part
    for tail in tails:
        if rng.random() < 0.75:
            yield draw_thread(rng, view, tail)
    if rng.random() < 0.3:
        for _ in range(int(rng.integers(1, 4))):
            yield draw_thread(rng, view, None)
    if rng.random() < 0.25:
        yield from draw_knots(rng, view)


def _assistants(rng: Generator, view: View) -> Iterator[Part]:
    if rng.random() < 0.28:
        parts, diameter = draw_suction_tube(rng), rng.uniform(0.3, 0.62)
        yield from _straight(rng, view, parts, diameter)
    if rng.random() < 0.18:
        parts, diameter = draw_needle_holder(rng), rng.uniform(0.35, 0.55)
        yield from _straight(rng, view, parts, diameter)


def _straight(rng: Generator, view: View, parts: list[Part], diameter_cm: float) -> list[Part]:
    """Place an instrument of the assistant, mostly from a side."""
    bearings = rng.normal(0, 0.5), rng.normal(np.pi, 0.5), rng.uniform(0, 2 * np.pi)
    bearing = float(rng.choice(bearings))
    x = float(np.clip(math.cos(bearing) * rng.uniform(-0.2, 0.8), -0.9, 0.9))
    y = math.sin(bearing) * rng.uniform(0, 0.9) + rng.normal(0, 0.35)
    tip = _point(view, x, float(np.clip(y, -0.9, 0.9)), rng.uniform(0.5, 0.99))
    tilt = float(np.clip(rng.normal(0.45, 0.3), -0.1, 1.1))
    approach = Approach(bearing, tilt, rng.uniform(0, 2 * np.pi), diameter_cm)
    pose = place(view, np.zeros(3), tip, approach)
    return [part.moved(pose) for part in parts]


def _resting(rng: Generator, view: View) -> Iterator[Part]:
    """Put clips, a catheter, and objects without a class on the tissue."""
    if rng.random() < 0.5:
        for _ in range(int(rng.integers(1, 6))):
            yield from draw_clip(rng, view)
    if rng.random() < 0.12:
        yield from draw_bulldog_clamp(rng, view)
    if rng.random() < 0.35:
        yield draw_catheter(rng, view)
    if rng.random() < 0.12:
        yield draw_gauze(rng, view)
    if rng.random() < 0.12:
        yield draw_drain(rng, view)
    for _ in range(int(rng.integers(0, 4))):
        yield draw_vessel(rng, view)
