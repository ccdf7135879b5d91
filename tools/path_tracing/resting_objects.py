# SPDX-License-Identifier: Apache-2.0
"""
Objects on the tissue: clips, catheters, and objects without a class.

The latter are background, as in the scenes of `synthesize`, so that a network does not learn that
all metal and all tubes are instruments. Lengths are in cm.
"""

import math
from typing import Final

import cv2
import numpy as np
from numpy.random import Generator

from surgseg_ros.core.labels import BACKGROUND, CATHETER, CLAMPS
from tools.path_tracing import materials
from tools.path_tracing.materials import Cloth, Colour
from tools.path_tracing.noise import fractal_noise
from tools.path_tracing.shapes import Part, Plate, grid_mesh, lathe, rounded, strip, sweep
from tools.path_tracing.suture import smooth_curve
from tools.path_tracing.transforms import Points, Vector, frame, rotation, translation, unit
from tools.path_tracing.view import View

_CLIPS: Final[tuple[Colour, ...]] = (
    *((0.8, 0.8, 0.82), (0.25, 0.1, 0.5), (0.05, 0.4, 0.12), (0.06, 0.2, 0.6)),
    (0.05, 0.05, 0.05),
)
_CATHETERS: Final[tuple[Colour, ...]] = (
    *((0.85, 0.82, 0.8), (0.8, 0.45, 0.08), (0.75, 0.6, 0.25), (0.8, 0.72, 0.5)),
    (0.85, 0.65, 0.62),
)
_DRAINS: Final[tuple[Colour, ...]] = (
    *((0.8, 0.8, 0.8), (0.6, 0.1, 0.1), (0.02, 0.02, 0.02), (0.1, 0.3, 0.7)),
    (0.7, 0.6, 0.3),
)
"""Colours of plastic clips, catheters and drains, linear RGB."""

_GAUZE_SIDE: Final = 90
"""Vertices along a side of a gauze."""


def _bar(start: float, end: float, half: float) -> list[tuple[float, float]]:
    return [(start, -half), (end, -half), (end, half), (start, half)]


def draw_clip(rng: Generator, view: View) -> list[Part]:
    """
    Draw a clip of metal or plastic: one bar, or two that meet; some have grooves.

    :param rng: source of random numbers.
    :param view: the camera over the tissue.
    :return: its parts, of the class CLAMPS.
    """
    length, width = rng.uniform(0.3, 1.1), rng.uniform(0.05, 0.13)
    if rng.random() < 0.6:
        surface = materials.metal(rng, float(rng.uniform(0, 0.6)))
    else:
        colour = _CLIPS[rng.integers(len(_CLIPS))]
        surface = materials.plain(rng, colour, 0.3, float(rng.uniform(0, 0.5)))
    pose = view.rest(rng, rng.uniform(-0.02, 0.12), 0.95)
    outline = rounded(_bar(-length / 2, length / 2, width / 2), width * 0.4)
    bar = Plate(outline, width * 0.45, width * 0.2)
    parts = []
    for index in range(int(rng.choice([1, 2], p=(0.6, 0.4)))):
        turn = rotation('z', index * rng.uniform(0.08, 0.3))
        shift = translation(length / 2, index * width * 0.2)
        own = pose @ translation(-length / 2) @ turn @ shift
        plates = [bar]
        if rng.random() < 0.4:
            positions = np.linspace(-length * 0.4, length * 0.4, 8)
            bars = (_bar(x, x + length * 0.03, width * 0.5) for x in positions)
            plates += [Plate(np.array(each), width * 0.52, 0.004) for each in bars]
        parts += [Part(plate, surface, CLAMPS, 30, placement=own) for plate in plates]
    return parts


def draw_bulldog_clamp(rng: Generator, view: View) -> list[Part]:
    """
    Draw a bulldog clamp: two bowed blades and a spring.

    :param rng: source of random numbers.
    :param view: the camera over the tissue.
    :return: its parts, which are background: the class CLAMPS is for clips.
    """
    length, width = rng.uniform(1.4, 2.4), rng.uniform(0.14, 0.24)
    surface = materials.metal(rng, float(rng.uniform(0, 0.4)), polished=True)
    pose = view.rest(rng, rng.uniform(0.15, 0.4), 0.7)
    opening = rng.uniform(0.05, 0.2)
    x = np.linspace(0, length, 16)
    blade = Plate(strip(x, -width / 2 + 0 * x, width / 2 + 0 * x), 0.03, 0.012)

    def bow(points: Points) -> Points:
        arch = 0.04 + 0.09 * np.sin(np.clip(points[:, 0] / length, 0, 1) * np.pi)
        return np.column_stack([points[:, :2], points[:, 2] + arch])

    def bow_down(points: Points) -> Points:
        return bow(points * (1, 1, -1)) * (1, 1, -1)

    angles = np.linspace(0, 2 * np.pi * 0.95, 30)
    ring = [-0.22 + 0.25 * np.cos(angles), 0 * angles, 0.25 * np.sin(angles)]
    return [
        Part(blade, surface, BACKGROUND, 30, False, bow_down, pose @ rotation('y', -opening)),
        Part(blade, surface, BACKGROUND, 30, False, bow, pose @ rotation('y', opening)),
        Part(sweep(np.stack(ring, 1), 0.05, 10), surface, BACKGROUND, 60, placement=pose),
    ]


def draw_catheter(rng: Generator, view: View) -> Part:
    """
    Draw the round end of a catheter that sticks out of the tissue towards the camera.

    :param rng: source of random numbers.
    :param view: the camera over the tissue.
    :return: the catheter.
    """
    point = view.ground_within(rng, 0.5)
    radius = rng.uniform(0.16, 0.34)
    direction = unit(view.pose[:3, 3] - point) + rng.normal(0, 0.4, 3)
    length = rng.uniform(0.05, 0.6)
    angles = np.linspace(0, np.pi / 2, 8)
    cap = zip(length + radius * np.sin(angles), np.maximum(0.004, radius * np.cos(angles)))
    mesh = lathe([(-2, radius), (length * 0.5, radius), *cap], 32)
    colour = _CATHETERS[rng.integers(len(_CATHETERS))]
    roughness, blood = float(rng.uniform(0.08, 0.35)), float(rng.uniform(0, 0.45))
    surface = materials.surface(rng, colour, 0.0, roughness, blood, coat=0.6)
    return Part(mesh, surface, CATHETER, 60, placement=frame(direction, (0.1, 1, 0), point))


def draw_gauze(rng: Generator, view: View) -> Part:
    """
    Draw a creased piece of gauze on the tissue.

    :param rng: source of random numbers.
    :param view: the camera over the tissue.
    :return: the gauze, which is background.
    """
    point = view.ground_within(rng, 0.8)
    half, turn = rng.uniform(0.8, 2.2), rng.uniform(0, 2 * np.pi)
    side = np.linspace(-half, half, _GAUZE_SIDE)
    across, up = np.meshgrid(side, side * rng.uniform(0.5, 1))
    creases, shifts = (
        cv2.resize(fractal_noise(rng, 5, octaves, side=128), (_GAUZE_SIDE, _GAUZE_SIDE))
        for octaves in (4, 3)
    )
    x = point[0] + across * math.cos(turn) - up * math.sin(turn) + 0.12 * shifts
    y = point[1] + across * math.sin(turn) + up * math.cos(turn) + 0.12 * creases
    ground = view.tissue.height(x.ravel(), y.ravel()).reshape(x.shape)
    z = (ground + 0.15 + 0.1 * creases).astype(np.float32)
    z = cv2.GaussianBlur(z, (0, 0), 2) + 0.08
    cloth = Cloth(float(rng.uniform(0.6, 2)), float(rng.uniform(0.35, 0.6)))
    return Part(grid_mesh(x, y, z), cloth, BACKGROUND, 180)


def draw_drain(rng: Generator, view: View) -> Part:
    """
    Draw a tube that lies on the tissue.

    :param rng: source of random numbers.
    :param view: the camera over the tissue.
    :return: the tube, which is background.
    """
    start = view.ground_within(rng, 0.9)
    aim, radius = rng.uniform(0, 2 * np.pi), rng.uniform(0.06, 0.25)
    points, position = [], start[:2]
    for _ in range(7):
        ground = view.tissue.height(position[0], position[1])[0]
        points.append(np.array([*position, ground + radius * rng.uniform(0.2, 1.2)]))
        aim += rng.normal(0, 0.4)
        position = position + 1.2 * np.array([math.cos(aim), math.sin(aim)])
    mesh = sweep(smooth_curve(points, 80), radius, 20)
    colour = _DRAINS[rng.integers(len(_DRAINS))]
    surface = materials.plain(rng, colour, 0.3, float(rng.uniform(0, 0.6)))
    return Part(mesh, surface, BACKGROUND, 180)


def draw_vessel(rng: Generator, view: View) -> Part:
    """
    Draw a vessel or nerve, half sunk into the tissue, with both ends below it.

    :param rng: source of random numbers.
    :param view: the camera over the tissue.
    :return: the vessel, which is background.
    """
    middle = view.ground_within(rng, 1)
    aim, radius = rng.uniform(0, 2 * np.pi), rng.uniform(0.05, 0.22)
    points = []
    position = middle[:2] - 4 * np.array([math.cos(aim), math.sin(aim)])
    for index in range(10):
        sink = 2.5 * radius if index in (0, 9) else 0
        ground = view.tissue.height(position[0], position[1])[0]
        height = ground + radius * rng.uniform(-0.6, 0.4) - sink
        points.append(np.array([*position, height]))
        aim += rng.normal(0, 0.25)
        position = position + 0.9 * np.array([math.cos(aim), math.sin(aim)])
    radii = radius * (1 + 0.15 * rng.normal(0, 1, 80).cumsum() / 9)
    mesh = sweep(smooth_curve(points, 80), radii, 20)
    return Part(mesh, materials.flesh(rng, view.tissue.base), BACKGROUND, 180)


def draw_strand(rng: Generator, view: View, tip: Vector) -> Part | None:
    """
    Draw tissue that an instrument has lifted.

    :param rng: source of random numbers.
    :param view: the camera over the tissue.
    :param tip: (3,) where the instrument holds it.
    :return: the strand, which is background; None if the tip is too low or too high for one.
    """
    if not 0.2 < tip[2] - view.tissue.height(tip[0], tip[1])[0] < 4:
        return None
    root = np.array([tip[0] + rng.normal(0, 0.6), tip[1] + rng.normal(0, 0.6), 0])
    root[2] = view.tissue.height(root[0], root[1])[0] - 0.2
    share = np.linspace(0, 1, 40)[:, None]
    wave = 0.08 * np.sin(share * 5 + rng.uniform(0, 6)) * rng.normal(0, 1, 3)
    path = root + (tip - root) * share + wave
    radii = rng.uniform(0.1, 0.3) + rng.uniform(0.3, 1.0) * (1 - share[:, 0]) ** 2
    radii *= 1 + 0.1 * np.convolve(rng.normal(0, 1, 46), np.ones(7) / 3, 'valid')
    mesh = sweep(path, radii, 28, float(rng.uniform(0.15, 0.6)))
    rough = mesh.vertices + 0.03 * rng.normal(0, 1, mesh.vertices.shape)
    surface = materials.flesh(rng, view.tissue.base)
    return Part(mesh._replace(vertices=rough), surface, BACKGROUND, 180)
