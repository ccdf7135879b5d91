# SPDX-License-Identifier: Apache-2.0
"""
Shapes of the parts of a scene: meshes by code, and plates, which Blender makes into meshes.

Lengths are in the units of the part: shaft diameters for instruments, else centimetres.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tools.path_tracing.materials import Cloth, Surface
from tools.path_tracing.transforms import Matrix, Points, rotation, transform

Grid = NDArray[np.floating[Any]]
"""(H, W) coordinates of the points of a grid."""

Face = tuple[int, ...]
"""Indices of the vertices of a polygon, counterclockwise seen from outside."""

UPRIGHT: Final = rotation('x', np.pi / 2)
"""Turns a plate in the x-y plane into one in the x-z plane."""

_TINY: Final = 1e-12
"""Keeps the length of a direction above zero where a path stands still."""


class Mesh(NamedTuple):
    """
    Polygons.

    :param vertices: (N, 3).
    :param faces: polygons.
    :param uv: (N, 2) position along and around (0 to 1) of each vertex, for images on it; or None.
    """

    vertices: Points
    faces: list[Face]
    uv: Points | None = None


class Plate(NamedTuple):
    """
    A flat outline that is extruded along z, with rounded edges.

    :param outline: (N, 2) corners of the closed polygon.
    :param half_thickness: it extends from -half_thickness to half_thickness.
    :param bevel: radius of the rounding of the edges.
    :param holes: (N, 2) polygons within the outline.
    """

    outline: Points
    half_thickness: float
    bevel: float
    holes: tuple[Points, ...] = ()


@dataclass(frozen=True)
class Part:
    """
    A piece of a scene, of one material and one class.

    :param shape: its shape before deformation.
    :param surface: its material.
    :param label: the class of its pixels.
    :param smooth_deg: edges between faces at larger angles are sharp; 180 for none.
    :param mask_only: whether it is in the mask, but not in the image: the hole of a jaw.
    :param deformation: takes and returns (N, 3) vertices; None for none.
    :param placement: (4, 4) transform that follows the deformation.
    """

    shape: Mesh | Plate
    surface: Surface | Cloth
    label: int
    smooth_deg: float = 40.0
    mask_only: bool = False
    deformation: Callable[[Points], Points] | None = None
    placement: Matrix = field(default_factory=lambda: np.eye(4))

    def moved(self, matrix: Matrix) -> 'Part':
        """
        Move, turn, scale or mirror the part.

        :param matrix: (4, 4) transform that follows the others.
        :return: the moved part.
        """
        return replace(self, placement=matrix @ self.placement)

    def finished(self, mesh: Mesh) -> Mesh:
        """
        Deform and place the mesh of this part.

        :param mesh: its shape as a mesh.
        :return: the mesh in the coordinates of the scene.
        """
        vertices = mesh.vertices if self.deformation is None else self.deformation(mesh.vertices)
        mirrored = np.linalg.det(self.placement[:3, :3]) < 0
        faces = [face[::-1] for face in mesh.faces] if mirrored else mesh.faces
        return Mesh(transform(self.placement, vertices), faces, mesh.uv)


def sweep(
    path: Sequence[Sequence[float]] | Points,
    radii: float | Points,
    segments: int = 16,
    flatness: float = 1.0,
) -> Mesh:
    """
    Sweep an ellipse along a path, and close both ends.

    :param path: (N, 3) points.
    :param radii: radius at each point, or everywhere.
    :param segments: number of corners of the ellipse.
    :param flatness: its second axis relative to the first.
    :return: the closed mesh.
    """
    path = np.asarray(path, float)
    count = len(path)
    radii = np.broadcast_to(np.asarray(radii, float), (count,))
    tangents = np.gradient(path, axis=0)
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True) + _TINY
    start = np.array([0, 0, 1.0]) if abs(tangents[0][2]) < 0.9 else np.array([0, 1.0, 0])
    side = np.cross(start, tangents[0])
    side /= np.linalg.norm(side)
    angles = np.linspace(0, 2 * np.pi, segments, endpoint=False)[:, None]
    rings = []
    for point, tangent, radius in zip(path, tangents, radii):
        side = side - tangent * (side @ tangent)
        side /= np.linalg.norm(side) + _TINY
        other = flatness * np.cross(tangent, side)
        rings.append(point + radius * (np.cos(angles) * side + np.sin(angles) * other))
    steps = np.linalg.norm(np.diff(path, axis=0), axis=1)
    along = np.concatenate([[0], np.cumsum(steps)])
    return Mesh(np.concatenate(rings), _tube_faces(count, segments), _tube_uv(along, segments))


def lathe(
    profile: Sequence[tuple[float, float]],
    segments: int = 40,
    axis: Literal['x', 'y', 'z'] = 'x',
) -> Mesh:
    """
    Turn a profile about an axis, and close both ends.

    :param profile: (position along the axis, radius) of each ring.
    :param segments: number of corners of a ring.
    :param axis: the axis.
    :return: the closed mesh.
    """
    along, radii = np.asarray(profile, float).T
    angles = np.tile(np.linspace(0, 2 * np.pi, segments, endpoint=False), len(along))
    x, radius = np.repeat(along, segments), np.repeat(radii, segments)
    y, z = radius * np.cos(angles), radius * np.sin(angles)
    columns = {'x': (x, y, z), 'y': (-y, x, z), 'z': (-z, y, x)}[axis]
    faces = _tube_faces(len(along), segments)
    return Mesh(np.stack(columns, 1), faces, _tube_uv(along, segments))


def _tube_faces(rings: int, segments: int) -> list[Face]:
    """Connect rings of vertices, which run counterclockwise seen from the last ring."""
    faces: list[Face] = [
        (
            ring * segments + corner,
            ring * segments + (corner + 1) % segments,
            (ring + 1) * segments + (corner + 1) % segments,
            (ring + 1) * segments + corner,
        )
        for ring in range(rings - 1)
        for corner in range(segments)
    ]
    first, last = tuple(range(segments)), (rings - 1) * segments
    return [*faces, first[::-1], tuple(last + corner for corner in first)]


def _tube_uv(along: Points, segments: int) -> Points:
    around = np.tile(np.arange(segments) / segments, len(along))
    return np.stack([np.repeat(along, segments), around], 1)


def grid_mesh(x: Grid, y: Grid, z: Grid) -> Mesh:
    """
    Connect the points of a grid.

    :param x: (H, W) positions, ascending from left to right.
    :param y: (H, W), ascending downwards.
    :param z: (H, W).
    :return: the open mesh; its front side faces +z.
    """
    index = np.arange(x.size).reshape(x.shape)
    corners = (index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1])
    faces = [tuple(face) for face in np.stack(corners, -1).reshape(-1, 4).tolist()]
    vertices = np.stack([x.ravel(), y.ravel(), z.ravel()], 1)
    return Mesh(vertices.astype(np.float64), faces)


def disk(
    axis: Literal['x', 'y', 'z'],
    centre: tuple[float, float, float],
    radius: float,
    half: float,
    segments: int = 28,
) -> Mesh:
    """
    Make a short cylinder with chamfered edges: a pin, a screw, a hub, a tooth.

    :param axis: direction of its axis.
    :param centre: its centre.
    :param radius: its radius.
    :param half: half of its length.
    :param segments: number of corners.
    :return: the closed mesh.
    """
    chamfer = min(0.03, half * 0.5, radius * 0.5)
    inner, short = radius - chamfer, half - chamfer
    profile = [(-half, inner), (-short, radius), (short, radius), (half, inner)]
    return _shifted(lathe(profile, segments, axis), centre)


def pulley(centre: tuple[float, float, float], radius: float, half: float) -> Mesh:
    """
    Make a wheel with a groove, whose axis is parallel to y.

    :param centre: its centre.
    :param radius: radius of its rims.
    :param half: half of its width.
    :return: the closed mesh.
    """
    rim, groove = 0.7 * half, 0.82 * radius
    profile = [(-half, radius), (-rim, radius), (0, groove), (rim, radius), (half, radius)]
    return _shifted(lathe(profile, 28, 'y'), centre)


def _shifted(mesh: Mesh, offset: tuple[float, float, float]) -> Mesh:
    return mesh._replace(vertices=mesh.vertices + offset)


def rounded(points: Sequence[tuple[float, float]], radius: float, steps: int = 5) -> Points:
    """
    Round the corners of a polygon.

    :param points: its corners.
    :param radius: distance from a corner at which its rounding starts; less on short sides.
    :param steps: number of points of each rounding.
    :return: (N, 2) corners.
    """
    corners = np.asarray(points, float)
    shares = np.linspace(0, 1, steps)[:, None]
    curves = []
    for before, corner, after in zip(np.roll(corners, 1, 0), corners, np.roll(corners, -1, 0)):
        sides = np.linalg.norm(before - corner), np.linalg.norm(after - corner)
        limit = min(radius, sides[0] * 0.48, sides[1] * 0.48)
        start = corner + (before - corner) / sides[0] * limit
        end = corner + (after - corner) / sides[1] * limit
        rest = 1 - shares
        curves.append(rest**2 * start + 2 * shares * rest * corner + shares * shares * end)
    return np.concatenate(curves)


def dense(polygon: Points, step: float = 0.06) -> Points:
    """
    Add points to a closed polygon, so that it can be bent.

    :param polygon: (N, 2) corners.
    :param step: distance between the points, at least.
    :return: (N, 2) corners.
    """
    sides = []
    for start, end in zip(polygon, np.roll(polygon, -1, 0)):
        count = max(1, int(np.linalg.norm(end - start) / step))
        sides.append(start + (end - start) * (np.arange(count) / count)[:, None])
    return np.concatenate(sides)


def strip(x: Points, low: Points, high: Points) -> Points:
    """
    Make a polygon between two curves over the same x.

    :param x: (N,) positions, ascending.
    :param low: (N,) y of the lower curve.
    :param high: (N,) y of the upper curve.
    :return: (2 N, 2) corners, counterclockwise.
    """
    return np.concatenate([np.stack([x, low], 1), np.stack([x, high], 1)[::-1]])


def ellipse(centre_x: float, half_x: float, half_y: float, corners: int) -> Points:
    """
    Make an ellipse whose centre is on the x axis.

    :param centre_x: x of its centre.
    :param half_x: its half axis along x.
    :param half_y: its half axis along y.
    :param corners: number of corners.
    :return: (N, 2) corners, counterclockwise.
    """
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return np.stack([centre_x + half_x * np.cos(angles), half_y * np.sin(angles)], 1)


def tongue(start: float, end: float, half_start: float, half_end: float) -> Points:
    """
    Make a polygon along x that is straight at its start and round at its end.

    :param start: x of its start.
    :param end: x of its end.
    :param half_start: half of its width at the start.
    :param half_end: radius of its end.
    :return: (N, 2) corners, counterclockwise.
    """
    angles = np.linspace(-np.pi / 2, np.pi / 2, 14)
    x = end - half_end + half_end * np.cos(angles)
    cap = np.stack([x, half_end * np.sin(angles)], 1)
    return np.concatenate([[(start, half_start), (start, -half_start)], cap])
