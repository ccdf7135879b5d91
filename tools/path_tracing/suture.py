# SPDX-License-Identifier: Apache-2.0
"""Suturing needles, threads and knots; lengths are in cm."""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.random import Generator

from surgseg_ros.core.labels import NEEDLE, THREAD
from tools.path_tracing import materials
from tools.path_tracing.materials import Surface
from tools.path_tracing.shapes import Part, sweep
from tools.path_tracing.transforms import (
    Matrix,
    Points,
    Vector,
    frame,
    rotation,
    transform,
)
from tools.path_tracing.view import View

_NEEDLE_POINTS: Final = 44
_POINT_TAPER: Final = 7
"""Points along a needle, and those over which it becomes sharp."""

_RADII: Final = (0.015, 0.042)
"""Radii of threads: USP 4-0 to 1 are 0.008 to 0.025 cm, but thinner ones vanish in the image."""


class _Dye(NamedTuple):
    """A colour of threads: its share, and the ranges of red, green and blue, linear 0 to 1."""

    share: float
    red: tuple[float, float]
    green: tuple[float, float]
    blue: tuple[float, float]


_DYES: Final = (
    _Dye(0.42, (0.08, 0.35), (0.03, 0.14), (0.25, 0.6)),  # violet
    _Dye(0.15, (0.02, 0.02), (0.03, 0.03), (0.08, 0.3)),  # blue
    _Dye(0.2, (0.005, 0.02), (0.005, 0.02), (0.005, 0.02)),  # black
    _Dye(0.13, (0.5, 0.8), (0.5, 0.8), (0.5, 0.8)),  # undyed
    _Dye(0.1, (0.03, 0.03), (0.15, 0.3), (0.08, 0.2)),  # green
)


class Needle(NamedTuple):
    """A needle, and the (3,) position of its blunt end, where its thread starts."""

    part: Part
    tail: Vector


def draw_needle(rng: Generator, grip: Matrix, is_held: bool) -> Needle:
    """
    Draw a needle, an arc of a circle.

    :param rng: source of random numbers.
    :param grip: (4, 4) frame at a point of the needle; jaws there point along x, and their pivot
        along z.
    :param is_held: whether jaws hold it: then it is about perpendicular to them.
    :return: the needle.
    """
    radius, half = rng.uniform(0.35, 0.95), rng.uniform(0.026, 0.058)
    arc = rng.uniform(2.6, 3.7) if rng.random() < 0.8 else rng.uniform(1.8, 2.6)
    angles = np.linspace(0, arc, _NEEDLE_POINTS)
    circle = [np.sin(angles) * radius, radius - np.cos(angles) * radius, np.zeros(len(angles))]
    path = np.stack(circle, 1)
    held = int(rng.integers(12, 36)) if is_held else _NEEDLE_POINTS // 2
    axes = frame(path[held + 1] - path[held - 1])[:3, :3]
    turn = rotation('x', rng.uniform(0, 2 * np.pi))
    if is_held:
        side = rng.choice([-1, 1]) * np.pi / 2
        turn = rotation('y', side + rng.normal(0, 0.35)) @ turn
    pose = _without_scale(grip) @ turn
    path = transform(pose, (path - path[held]) @ axes)
    radii = np.full(_NEEDLE_POINTS, half)
    radii[-_POINT_TAPER:] = np.linspace(half, half * 0.08, _POINT_TAPER)
    roughness, blood = float(rng.uniform(0.08, 0.3)), float(rng.uniform(0, 0.5))
    surface = materials.surface(rng, (0.85, 0.85, 0.86), 1.0, roughness, blood)
    return Needle(Part(sweep(path, radii, 14), surface, NEEDLE, 60), path[0])


def _without_scale(matrix: Matrix) -> Matrix:
    result = matrix.copy()
    result[:3, :3] /= np.linalg.norm(result[:3, :3], axis=0)
    return result


def smooth_curve(points: Sequence[Vector] | Sequence[tuple[float, ...]], count: int) -> Points:
    """
    Interpolate points by a Catmull-Rom spline.

    :param points: (3,) each, at least two.
    :param count: number of points of the curve.
    :return: (count, 3).
    """
    knots = np.asarray(points, float)
    last = len(knots) - 1
    positions = np.linspace(0, last - 0.0001, count)
    start = positions.astype(int)
    t = (positions - start)[:, None]
    before, first, second, after = (
        knots[np.clip(start + offset, 0, last)] for offset in (-1, 0, 1, 2)
    )
    linear, quadratic = second - before, 2 * before - 5 * first + 4 * second - after
    cubic = 3 * first - before - 3 * second + after
    return np.asarray(0.5 * (2 * first + linear * t + quadratic * t**2 + cubic * t**3))


def _draw_dyed(rng: Generator) -> Surface:
    dye = _DYES[rng.choice(len(_DYES), p=[each.share for each in _DYES])]
    red, green, blue = (float(rng.uniform(*span)) for span in dye[1:])
    roughness, blood = float(rng.uniform(0.25, 0.6)), float(rng.uniform(0, 0.5))
    return materials.surface(rng, (red, green, blue), 0.0, roughness, blood)


def draw_thread(rng: Generator, view: View, start: Vector | None) -> Part:
    """
    Draw a thread, tight or in loops on the tissue.

    :param rng: source of random numbers.
    :param view: the camera over the tissue.
    :param start: (3,) where a needle or jaws hold it; None for a loose thread on the tissue.
    :return: the thread.
    """
    is_tight = start is not None and rng.random() < 0.4
    if start is None:
        start = view.ground_within(rng, 0.9) + np.array((0, 0, 0.05))
    points = _tight(rng, view, start) if is_tight else _loops(rng, view, start)
    path = smooth_curve(points, 160)
    radius = rng.uniform(*_RADII)
    if not is_tight:
        path = view.tissue.above(path, radius * 0.7)
    return Part(sweep(path, radius, 8), _draw_dyed(rng), THREAD, 180)


def _tight(rng: Generator, view: View, start: Vector) -> list[Vector]:
    end = view.ground_within(rng, 0.9)
    middle = [start + (end - start) * share + rng.normal(0, 0.06, 3) for share in (0.33, 0.66)]
    return [start, *middle, end]


def _loops(rng: Generator, view: View, start: Vector) -> list[Vector]:
    """Walk towards a point of the tissue, with a random turn, while sinking onto the tissue."""
    goal = view.ground_within(rng, 0.7)
    count = int(rng.integers(2, 9))
    step = rng.uniform(0.4, 1.2)
    lift = rng.uniform(0.2, 1.5) if rng.random() < 0.6 else 0.05
    aim = math.atan2(goal[1] - start[1], goal[0] - start[0])
    turn = rng.normal(0, 0.7)
    points, position = [start], start[:2]
    for index in range(count):
        aim += turn + rng.normal(0, 0.5)
        position = position + step * np.array([math.cos(aim), math.sin(aim)])
        ground = view.tissue.height(position[0], position[1])[0]
        height = max(0.0, 1 - (index + 1) / max(1, count - 1))
        rise = abs(rng.normal(0, lift * (height + 0.1)))
        rise += height * max(0.0, start[2] - ground) * 0.6
        points.append(np.array([*position, ground + 0.04 + rise]))
    return points


def draw_knots(rng: Generator, view: View) -> list[Part]:
    """
    Draw one to three knots of the same thread on the tissue, with ends that stick out.

    :param rng: source of random numbers.
    :param view: the camera over the tissue.
    :return: the threads.
    """
    surface, radius = _draw_dyed(rng), rng.uniform(0.015, 0.04)
    parts = []
    for _ in range(int(rng.integers(1, 4))):
        point = view.ground_within(rng, 0.7)
        normal = view.tissue.normal(point)
        for _ in range(int(rng.integers(1, 4))):
            count = int(rng.integers(3, 7))
            turns = [point + rng.normal(0, 0.08, 3) + normal * 0.06 for _ in range(count)]
            end = point + rng.normal(0, 0.35, 3) + normal * rng.uniform(0.1, 0.5)
            path = smooth_curve([*turns, (turns[-1] + end) / 2 + normal * 0.1, end], 60)
            parts.append(Part(sweep(path, radius, 8), surface, THREAD, 180))
    return parts
