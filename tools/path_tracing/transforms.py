# SPDX-License-Identifier: Apache-2.0
"""Affine transforms in 3-D as (4, 4) matrices, which act on column vectors from the left."""

import math
from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
"""(N, 3) positions, or (N, 2) in a plane."""

Vector = NDArray[np.float64]
"""(3,) position or direction."""

Matrix = NDArray[np.float64]
"""(4, 4) affine transform."""

_PLANES: Final = {'x': (1, 2), 'y': (2, 0), 'z': (0, 1)}
"""The two axes that a rotation about an axis turns, the first towards the second."""

_PARALLEL: Final = 0.97
"""Cosine between two directions from which on they do not define a plane well enough."""

_OTHER_UP: Final = (0.3, 1.0, 0.2)
"""Taken as upward direction where the given one is parallel to the x axis."""


def translation(x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Matrix:
    """
    Create a translation.

    :param x: displacement along x.
    :param y: along y.
    :param z: along z.
    :return: (4, 4) matrix.
    """
    matrix = np.eye(4)
    matrix[:3, 3] = x, y, z
    return matrix


def rotation(axis: Literal['x', 'y', 'z'], angle: float) -> Matrix:
    """
    Create a rotation about an axis through the origin.

    :param axis: the axis.
    :param angle: in radians, counterclockwise if the axis points to the viewer.
    :return: (4, 4) matrix.
    """
    cosine, sine = math.cos(angle), math.sin(angle)
    first, second = _PLANES[axis]
    matrix = np.eye(4)
    matrix[first, first] = matrix[second, second] = cosine
    matrix[first, second], matrix[second, first] = -sine, sine
    return matrix


def scaling(factor: float) -> Matrix:
    """
    Create a scaling about the origin.

    :param factor: the same along all axes.
    :return: (4, 4) matrix.
    """
    return np.diag([factor, factor, factor, 1.0])


def frame(
    x: Sequence[float] | Vector,
    up: Sequence[float] | Vector = (0.0, 0.0, 1.0),
    origin: Sequence[float] | Vector = (0.0, 0.0, 0.0),
) -> Matrix:
    """
    Create a right-handed coordinate system from a direction.

    :param x: direction of its x axis, of any length except zero.
    :param up: its z axis is close to this direction, as far as it is perpendicular to x.
    :param origin: its origin.
    :return: (4, 4) transform from it to the outer coordinates.
    """
    x_axis = unit(np.asarray(x, float))
    up = np.asarray(up, float)
    if abs(x_axis @ up) > _PARALLEL * np.linalg.norm(up):
        up = np.array(_OTHER_UP)
    y_axis = unit(np.cross(up, x_axis))
    matrix = np.eye(4)
    matrix[:3, 0], matrix[:3, 1], matrix[:3, 2] = x_axis, y_axis, np.cross(x_axis, y_axis)
    matrix[:3, 3] = origin
    return matrix


def unit(vector: Vector) -> Vector:
    """
    Scale a vector to length 1.

    :param vector: (3,), not zero.
    :return: (3,) of the same direction.
    """
    return np.asarray(vector / np.linalg.norm(vector))


def transform(matrix: Matrix, points: Points) -> Points:
    """
    Transform points.

    :param matrix: (4, 4).
    :param points: (N, 3).
    :return: (N, 3).
    """
    return np.asarray(points @ matrix[:3, :3].T + matrix[:3, 3])
