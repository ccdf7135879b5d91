# SPDX-License-Identifier: Apache-2.0
"""The tissue of a scene as the camera and the objects on it need it: a height field."""

import math
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

from tools.path_tracing.noise import MAP_SIDE, Map, fractal_noise
from tools.path_tracing.shapes import Mesh, grid_mesh
from tools.path_tracing.tissue_colours import draw_colours
from tools.path_tracing.tissue_relief import BARE_SITES, HALF_SIDE_CM, Relief, draw_relief
from tools.path_tracing.transforms import Points, Vector, unit

_MESH_SIDE: Final = 330
"""Vertices along a side of the mesh; finer relief is in the normals of its material."""

_RAY_STEP_CM: Final = 0.05
_RAY_RANGE_CM: Final = (0.3, 40.0)
"""Steps along a ray, and where it starts and ends: beyond the corners of the area."""

_SLOPE_CM: Final = 0.12
"""Distance on both sides over which the slope is measured."""


_SMOOTHING: Final = (4.0, 30.0)
"""Range of the standard deviation in samples by which the maps of smooth tissue are blurred."""


class Hit(NamedTuple):
    """The (3,) point where a ray meets the tissue, and its distance from the start in cm."""

    point: Vector
    distance_cm: float


@dataclass(frozen=True, eq=False)
class Sheen:
    """
    How the surface of the tissue scatters and mirrors light, as Blender's Principled BSDF has it.

    :param roughness: where it is dry, and where it is wet.
    :param specular: strength of the reflections.
    :param coat: strength of the layer of liquid where it is wet.
    :param coat_roughness: roughness of this layer.
    :param scattering: share of light that is scattered below the surface.
    :param scattering_scale_cm: how far red light travels there.
    """

    roughness: tuple[float, float]
    specular: float
    coat: float
    coat_roughness: float
    scattering: float
    scattering_scale_cm: float


@dataclass(frozen=True, eq=False)
class Tissue:
    """
    A height field around the origin; z points to the camera, whose height is about 0.

    :param depth_cm: distance from the camera to the floor of the basin.
    :param base: (3,) prevailing colour, sRGB from 0 to 1.
    :param height_cm: (MAP_SIDE, MAP_SIDE) float32 height of its mesh.
    :param colour: (MAP_SIDE, MAP_SIDE, 3) float32 sRGB from 0 to 1.
    :param wetness: (MAP_SIDE, MAP_SIDE) float32, 0 to 1.
    :param fine_cm: (MAP_SIDE, MAP_SIDE) float32 height with all detail.
    :param liquid_cm: (MAP_SIDE, MAP_SIDE) float32 height of the liquid on it.
    :param sheen: its material.
    """

    depth_cm: float
    base: NDArray[np.float64]
    height_cm: Map
    colour: Map
    wetness: Map
    fine_cm: Map
    liquid_cm: Map
    sheen: Sheen

    def height(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """
        Interpolate the height.

        :param x: (N,) positions in cm; those outside are moved to the border.
        :param y: (N,) positions in cm.
        :return: (N,) heights in cm.
        """
        columns, rows = _samples(x), _samples(y)
        row, column = rows.astype(int), columns.astype(int)
        down, right = rows - row, columns - column
        z = self.height_cm
        upper = z[row, column] * (1 - right) + z[row, column + 1] * right
        lower = z[row + 1, column] * (1 - right) + z[row + 1, column + 1] * right
        return np.asarray(upper * (1 - down) + lower * down)

    def hit(self, origin: Vector, direction: Vector) -> Hit:
        """
        Find where a ray meets the surface.

        :param origin: (3,) its start, above the surface.
        :param direction: (3,) of length 1.
        :return: the point; the end of the ray if it misses.
        """
        distances = np.arange(*_RAY_RANGE_CM, _RAY_STEP_CM)
        points = origin + distances[:, None] * direction
        below = points[:, 2] < self.height(points[:, 0], points[:, 1])
        first = int(np.argmax(below)) if below.any() else len(distances) - 1
        return Hit(points[first], float(distances[first]))

    def normal(self, point: Vector) -> Vector:
        """
        Compute the direction that is perpendicular to the surface.

        :param point: (3,) on the surface; z does not matter.
        :return: (3,) upwards, of length 1.
        """
        x, y, step = point[0], point[1], _SLOPE_CM
        left, right, lower, upper = self.height(
            [x - step, x + step, x, x], [y, y, y - step, y + step]
        )
        return unit(np.array([left - right, lower - upper, 2 * step]))

    def above(self, points: Points, margin: float) -> Points:
        """
        Raise points to the surface where they are below it.

        :param points: (N, 3).
        :param margin: the height above the surface in cm that they have at least.
        :return: (N, 3).
        """
        lowest = self.height(points[:, 0], points[:, 1]) + margin
        return np.column_stack([points[:, :2], np.maximum(points[:, 2], lowest)])

    def mesh(self) -> Mesh:
        """
        Make the mesh, which is finer in the middle, where the camera looks.

        :return: an open mesh; its UV is the position in the maps, 0 to 1.
        """
        even = np.linspace(-1, 1, _MESH_SIDE)
        positions = HALF_SIDE_CM * 0.98 * (0.45 * even + 0.55 * even**3)
        x, y = np.meshgrid(positions, positions)
        mesh = grid_mesh(x, y, self.height(x.ravel(), y.ravel()))
        return mesh._replace(uv=(mesh.vertices[:, :2] / HALF_SIDE_CM + 1) / 2)


def _samples(position_cm: ArrayLike) -> NDArray[np.float64]:
    """Convert positions to rows or columns of the maps, within their border."""
    position = np.atleast_1d(np.asarray(position_cm, np.float64))
    return np.clip((position / HALF_SIDE_CM + 1) / 2 * (MAP_SIDE - 1), 0, MAP_SIDE - 1.001)


def draw_bare_tissue(rng: Generator) -> Tissue:
    """
    Draw random tissue that is seen without instruments: paler, and mostly smooth.

    :param rng: source of random numbers.
    :return: the tissue.
    """
    depth = float(rng.uniform(5, 11))
    tissue = _tissue(rng, depth, draw_relief(rng, depth, BARE_SITES))
    return _smoothed(rng, tissue) if rng.random() < 0.8 else tissue


def draw_tissue(rng: Generator) -> Tissue:
    """
    Draw random tissue.

    :param rng: source of random numbers.
    :return: the tissue.
    """
    depth = float(rng.uniform(5, 11))
    return _tissue(rng, depth, draw_relief(rng, depth))


def _tissue(rng: Generator, depth: float, relief: Relief) -> Tissue:
    colours = draw_colours(rng, relief)
    height = (relief.height_cm - depth).astype(np.float32)
    detail = (relief.detail_cm * (1 - 0.6 * colours.blood)).astype(np.float32)
    frequency = math.exp(rng.uniform(math.log(30), math.log(170)))
    ripples = fractal_noise(rng, frequency, 3) * float(rng.uniform(0.25, 0.75)) / frequency
    fine = height + detail + colours.grain * float(rng.uniform(0.002, 0.008))
    liquid = cv2.GaussianBlur(fine, (0, 0), float(rng.uniform(1.5, 3))) + ripples
    return Tissue(
        *(depth, colours.base, height, colours.colour, colours.wetness, fine),
        np.asarray(liquid, np.float32),
        _draw_sheen(rng),
    )


def _smoothed(rng: Generator, tissue: Tissue) -> Tissue:
    """Take folds and texture from tissue: membranes and bowel close to the lens lack them."""
    width = float(np.exp(rng.uniform(*np.log(_SMOOTHING))))
    height = _blurred(tissue.height_cm, width)
    detail = float(rng.uniform(0, 0.3)) * (tissue.fine_cm - _blurred(tissue.fine_cm, width))
    return replace(
        tissue,
        height_cm=height,
        colour=_blurred(tissue.colour, width * float(rng.uniform(0.3, 1))),
        wetness=np.maximum(tissue.wetness, np.float32(rng.uniform(0, 1))),
        fine_cm=height + detail,
        liquid_cm=height + _blurred(detail, 2.0),
    )


def _blurred(values: Map, width: float) -> Map:
    return np.asarray(cv2.GaussianBlur(values, (0, 0), width), np.float32)


def _draw_sheen(rng: Generator) -> Sheen:
    return Sheen(
        roughness=(float(rng.uniform(0.45, 0.7)), float(rng.uniform(0.16, 0.32))),
        specular=float(rng.uniform(0.4, 0.9)),
        coat=float(rng.uniform(0.3, 1.0)),
        coat_roughness=float(rng.uniform(0.04, 0.16)),
        scattering=float(rng.uniform(0.15, 0.5)),
        scattering_scale_cm=float(rng.uniform(0.05, 0.2)),
    )
