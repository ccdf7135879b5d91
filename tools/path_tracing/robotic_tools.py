# SPDX-License-Identifier: Apache-2.0
"""
Robotic instruments: shaft, fork, wrist and jaws.

Lengths are in diameters of the shaft. The shaft ends at the origin, and x points to the tip.
"""

from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np
from numpy.random import Generator

from surgseg_ros.core.labels import CLASPER, SHAFT, WRIST
from tools.path_tracing import jaws, materials
from tools.path_tracing.jaws import DRIVER, HOOK, KINDS, SCISSORS, Jaw
from tools.path_tracing.materials import Surface
from tools.path_tracing.shapes import (
    UPRIGHT,
    Mesh,
    Part,
    Plate,
    disk,
    ellipse,
    lathe,
    pulley,
    rounded,
    sweep,
    tongue,
)
from tools.path_tracing.transforms import Matrix, Points, Vector, rotation, translation

_SHAFT_LENGTH: Final = 34.0
"""Reaches beyond the image in every pose."""

_EAR_HALF: Final = 0.07
"""Half of the thickness of the two ears of the fork, between which the wrist turns."""

_FINE: Final = 64
"""Corners of rings that are seen from close by."""

_CABLE_RADIUS: Final = 0.022

_WRISTS: Final = {'steel': 0.63, 'dark': 0.25, 'golden': 0.12}
"""Shares of wrists by their metal."""


@dataclass(frozen=True, eq=False)
class RoboticTool:
    """
    An instrument.

    :param kind: its name in `KINDS`.
    :param parts: its parts, of the classes SHAFT, WRIST and CLASPER.
    :param is_holding: whether its jaws are closed on something.
    :param grip: (4, 4) frame between its jaws, whose x axis points along them, and z along their
        pivot.
    :param tip: (3,) position of the tip of its jaws.
    """

    kind: str
    parts: list[Part]
    is_holding: bool
    grip: Matrix
    tip: Vector


class _Surfaces(NamedTuple):
    """The materials of an instrument, and how bloody it is, 0 to 1."""

    jaw: Surface
    body: Surface
    dark: Surface
    pulley: Surface
    cable: Surface
    fork: Surface
    shaft: Surface
    ring: Surface
    blood: float


class _Fork(NamedTuple):
    """The end of the shaft; x of the joint between its ears."""

    parts: list[Part]
    joint_x: float


def draw_tool(rng: Generator) -> RoboticTool:
    """
    Draw a random instrument.

    :param rng: source of random numbers.
    :return: the instrument.
    """
    kind = str(rng.choice(list(KINDS), p=[each.share for each in KINDS.values()]))
    surfaces = _draw_surfaces(rng, kind)
    parts = _shaft(rng, surfaces)
    fork = _fork(rng, surfaces)
    parts += fork.parts
    is_covered = kind == SCISSORS and rng.random() < 0.8
    bends = float(rng.normal(0, 0.45)), float(rng.normal(0, 0.4))
    length = float(rng.uniform(0.75, 1.5) if kind == DRIVER else rng.uniform(0.7, 1.4))
    wrist = translation(fork.joint_x) @ rotation('y', float(np.clip(bends[0], -1.1, 1.1)))
    wrist_parts = [part.moved(wrist) for part in _wrist(rng, kind, length, surfaces)]
    if not is_covered:
        parts += wrist_parts
    pivot = wrist @ translation(length) @ rotation('z', float(np.clip(bends[1], -1.0, 1.0)))
    is_holding = kind != HOOK and bool(rng.random() < 0.3)
    opening = 0.03 if is_holding else _draw_opening(rng)
    insulator = materials.plain(rng, (0.75, 0.72, 0.66), 0.35)
    jaw = KINDS[kind].make_jaw(rng, jaws.Surfaces(surfaces.jaw, insulator))
    parts += [part.moved(pivot) for part in _both_jaws(rng, kind, jaw, opening, surfaces.jaw)]
    if is_covered:
        parts.append(_cover(rng, fork.joint_x, pivot, surfaces.blood))
    grip = pivot @ translation(jaw.length * float(rng.uniform(0.6, 0.92)))
    tip = (pivot @ np.array([jaw.length * 0.85, 0, 0, 1]))[:3]
    return RoboticTool(kind, parts, is_holding, grip, tip)


def _draw_surfaces(rng: Generator, kind: str) -> _Surfaces:
    blood = float(rng.uniform(0, 1) ** 1.5)
    jaw = materials.metal(rng, blood)
    body = materials.metal(rng, blood * 0.7, polished=True if kind == DRIVER else None)
    finish = str(rng.choice(list(_WRISTS), p=list(_WRISTS.values())))
    if finish == 'dark':
        level = float(rng.uniform(0.03, 0.2))
        body = replace(body, colour=(level, level, level))
    elif finish == 'golden':
        body = replace(body, colour=(0.8, float(rng.uniform(0.5, 0.65)), 0.25))
    dark = materials.surface(rng, (0.05, 0.05, 0.055), 0.7, 0.35, blood * 0.5)
    wheel = dark if rng.random() < 0.5 else materials.metal(rng, blood * 0.5)
    cable = materials.surface(rng, (0.45, 0.42, 0.4), 1.0, 0.35, 0.2)
    fork = materials.metal(rng, blood * 0.6, polished=False)
    shaft = materials.shaft(rng, blood * float(rng.uniform(0.2, 1.0)))
    ring = materials.metal(rng, 0.0, polished=True)
    return _Surfaces(jaw, body, dark, wheel, cable, fork, shaft, ring, blood)


def _draw_opening(rng: Generator) -> float:
    """Draw half of the angle between the jaws in radians: closed, half open or wide open."""
    openings = [0.03, rng.uniform(0.05, 0.35), rng.uniform(0.3, 0.75)]
    return float(rng.choice(openings, p=(0.3, 0.45, 0.25)))


def _shaft(rng: Generator, surfaces: _Surfaces) -> list[Part]:
    """Make the tube, and up to three rings on it."""
    positions = (-_SHAFT_LENGTH, -12, -6, -3, -1, -0.02)
    tube = lathe([*((x, 0.5) for x in positions), (0, 0.49)], _FINE)
    parts = [Part(tube, surfaces.shaft, SHAFT)]
    position = float(rng.uniform(0.05, 1.2))
    for _ in range(int(rng.integers(0, 4))):
        width = float(rng.uniform(0.015, 0.05))
        parts.append(Part(_ring(-position - width, width, 0.504), surfaces.ring, SHAFT, 30))
        position += float(rng.uniform(0.08, 0.5))
    return parts


def _ring(start: float, width: float, radius: float) -> Mesh:
    end = start + width
    return lathe([(start, 0.5), (start, radius), (end, radius), (end, 0.5)], _FINE)


def _fork(rng: Generator, surfaces: _Surfaces) -> _Fork:
    """Make the sleeve at the end of the shaft, and its two ears with the pins of the wrist."""
    sleeve = float(rng.uniform(0.15, 0.6))
    end = sleeve + float(rng.uniform(0.35, 0.75))
    ear_y = float(rng.uniform(0.36, 0.42))
    profile = [(-0.02, 0.5), (0, 0.515), (sleeve * 0.8, 0.515), (sleeve, 0.47)]
    profile.append((sleeve + 0.02, 0.3))
    parts = [Part(lathe(profile, _FINE), surfaces.fork, SHAFT, 25)]
    if rng.random() < 0.6:
        for share in (0.15, 0.5)[: int(rng.integers(1, 3))]:
            ring = _ring(share * sleeve, 0.04, 0.522)
            parts.append(Part(ring, surfaces.ring, SHAFT, 30))
    half = float(rng.uniform(0.26, 0.4))
    for side in (-1, 1):
        outline = tongue(sleeve - 0.12, end, float(rng.uniform(0.36, 0.44)), half)
        ear = Part(Plate(outline, _EAR_HALF, 0.03), surfaces.fork, SHAFT, 30)
        parts.append(ear.moved(translation(0, side * ear_y, 0) @ UPRIGHT))
        pin = disk('y', (end - half, side * (ear_y + _EAR_HALF), 0), half * 0.45, 0.03)
        parts.append(Part(pin, surfaces.ring, SHAFT, 30))
    return _Fork(parts, end - half)


def _wrist(rng: Generator, kind: str, length: float, surfaces: _Surfaces) -> list[Part]:
    """Make the wrist between its joint at the origin and the pivot of the jaws at `length`."""
    parts = [
        Part(pulley((0, y, 0), float(rng.uniform(0.22, 0.3)), 0.06), surfaces.pulley, WRIST, 25)
        for y in (-0.22, -0.08, 0.08, 0.22)
    ]
    if kind == DRIVER or rng.random() < 0.4:
        parts += _oval_body(rng, length, surfaces)
    else:
        parts += _box_body(rng, length, surfaces)
    pin = disk('z', (length, 0, 0), float(rng.uniform(0.07, 0.14)), 0.36)
    parts.append(Part(pin, surfaces.ring, WRIST, 30))
    for side in (-1, 1):
        cap = disk('z', (length, 0, side * 0.33), float(rng.uniform(0.12, 0.2)), 0.03)
        parts.append(Part(cap, surfaces.pulley, WRIST, 30))
        if rng.random() < 0.6:
            position = (length * 0.4, float(rng.uniform(-0.1, 0.1)), side * 0.33)
            parts.append(Part(disk('z', position, 0.07, 0.02), surfaces.dark, WRIST, 30))
    return parts + _cables(rng, length, surfaces.cable)


def _oval_body(rng: Generator, length: float, surfaces: _Surfaces) -> list[Part]:
    """Make two bulging oval plates with a core between them, as on needle drivers."""
    outline = ellipse(length * 0.45, length * 0.62, float(rng.uniform(0.3, 0.44)), 40)

    def bulge(side: int, points: Points) -> Points:
        share = np.clip((points[:, 0] - length * 0.4) / length, -1, 1)
        z = points[:, 2] + side * 0.25 - side * 0.1 * share**2
        return np.column_stack([points[:, :2], z])

    plate = Plate(outline, 0.07, 0.05)
    lower = Part(plate, surfaces.body, WRIST, 50, deformation=lambda points: bulge(-1, points))
    upper = Part(plate, surfaces.body, WRIST, 50, deformation=lambda points: bulge(1, points))
    end = length * 0.62
    core = rounded([(-0.15, -0.2), (end, -0.16), (end, 0.16), (-0.15, 0.2)], 0.1)
    core_surface = surfaces.dark if rng.random() < 0.5 else surfaces.body
    return [lower, upper, Part(Plate(core, 0.2, 0.05), core_surface, WRIST, 30)]


def _box_body(rng: Generator, length: float, surfaces: _Surfaces) -> list[Part]:
    """Make a box that ends in a fork for the jaws."""
    half, end = float(rng.uniform(0.26, 0.4)), length * 0.55
    outline = rounded([(-0.3, -0.24), (end, -half), (end, half), (-0.3, 0.24)], 0.15)
    plate = Plate(outline, float(rng.uniform(0.2, 0.3)), 0.06)
    box = Part(plate, surfaces.body, WRIST, 30)
    parts = [box.moved(UPRIGHT) if rng.random() < 0.5 else box]
    for side in (-1, 1):
        ear = tongue(length * 0.35, length + 0.2, half, float(rng.uniform(0.18, 0.24)))
        part = Part(Plate(ear, 0.06, 0.03), surfaces.body, WRIST, 30)
        parts.append(part.moved(translation(0, 0, side * float(rng.uniform(0.24, 0.3)))))
    return parts


def _cables(rng: Generator, length: float, cable: Surface) -> list[Part]:
    """Run cables from the joint over the wrist to the pivot."""
    parts = []
    for _ in range(int(rng.integers(2, 6))):
        y, z = float(rng.uniform(-0.25, 0.25)), float(rng.uniform(-0.22, 0.22))
        knots = np.array(
            [
                *((-0.35, y * 0.9, z), (0.0, y, z + 0.22 * np.sign(z))),
                *((length * 0.5, y * 1.3, z), (length, 0.2 * np.sign(y), z * 0.5)),
            ]
        )
        positions = np.linspace(0, 3, 14)
        path = np.stack([np.interp(positions, range(4), knots[:, axis]) for axis in range(3)], 1)
        parts.append(Part(sweep(path, _CABLE_RADIUS, 8), cable, WRIST, 60))
    return parts


def _both_jaws(
    rng: Generator, kind: str, jaw: Jaw, opening: float, surface: Surface
) -> list[Part]:
    """Open a jaw and its counterpart about the pivot at the origin, each with a hub."""
    hub = disk('z', (0, 0, 0.1), float(rng.uniform(0.17, 0.25)), 0.09)
    upper = [*jaw.parts, Part(hub, surface, CLASPER, 30)]
    parts = [part.moved(rotation('z', opening)) for part in upper]
    if kind == HOOK:
        return parts
    flip = np.diag([1.0, -1.0, 1.0 if KINDS[kind].is_mirrored else -1.0, 1.0])
    beside = translation(0, 0, -0.07 if kind == SCISSORS else 0.0)  # one blade passes the other
    second = beside @ rotation('z', -opening) @ flip
    other_hub = disk('z', (0, 0, -0.1), float(rng.uniform(0.17, 0.25)), 0.09)
    parts += [part.moved(second) for part in jaw.parts]
    return [*parts, Part(other_hub, surface, CLASPER, 30)]


def _cover(rng: Generator, joint_x: float, pivot: Matrix, blood: float) -> Part:
    """Make the insulating sheath over the wrist of scissors; it has the class of the shaft."""
    grey = float(rng.uniform(0.05, 0.35))
    colour = (grey * rng.uniform(0.85, 1.05), grey, grey * rng.uniform(0.9, 1.2))
    surface = materials.plain(rng, colour, float(rng.uniform(0.3, 0.6)), blood * 0.6)
    start, middle = np.array([-0.9, 0, 0]), np.array([joint_x, 0, 0])
    end = pivot[:3, 3] + pivot[:3, 0] * 0.18
    share = np.linspace(0, 1, 16)[:, None]
    rest = 1 - share
    path = rest**2 * start + 2 * share * rest * middle + share * share * end
    radii = [0.5, 0.54, 0.56, 0.53, 0.44, rng.uniform(0.22, 0.3)]
    radius = np.interp(share[:, 0], [0, 0.05, 0.1, 0.5, 0.85, 1], radii)
    return Part(sweep(path, radius, 40), surface, SHAFT, 50)
