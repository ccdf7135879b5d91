# SPDX-License-Identifier: Apache-2.0
"""The camera over the tissue, and where its rays meet the tissue."""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.random import Generator

from tools.path_tracing.tissue import Hit, Tissue
from tools.path_tracing.transforms import Matrix, Vector, frame, unit

ASPECT: Final = 9 / 16
"""Height of the image relative to its width, as that of HD endoscopes."""

_MIN_CLEARANCE_CM: Final = 3.0
"""Height of the camera above the tissue below it, at least."""

_NEAR_CM: Final = (0.8, 4.0)
"""Range of the height of a near camera above the tissue below it."""


@dataclass(frozen=True, eq=False)
class View:
    """
    A camera over tissue; lengths are in cm.

    :param tissue: the tissue.
    :param pose: (4, 4) from the camera's coordinates to those of the tissue; the camera looks
        along -z, x points to the right, y upwards.
    :param angle: horizontal angle of view in radians.
    :param focus_cm: distance to the point in the middle of the image.
    """

    tissue: Tissue
    pose: Matrix
    angle: float
    focus_cm: float

    def ray(self, x: float, y: float) -> Vector:
        """
        Compute the direction to a position in the image.

        :param x: -1 at the left border to 1 at the right one.
        :param y: -1 at the lower border to 1 at the upper one.
        :return: (3,) of length 1, in coordinates of the tissue.
        """
        half = math.tan(self.angle / 2)
        return unit(self.pose[:3, :3] @ np.array([x * half, y * half * ASPECT, -1.0]))

    def ground(self, x: float, y: float) -> Hit:
        """
        Find the tissue at a position in the image.

        :param x: as for `ray`.
        :param y: as for `ray`.
        :return: the point, and its distance from the camera.
        """
        return self.tissue.hit(self.pose[:3, 3], self.ray(x, y))

    def ground_within(self, rng: Generator, spread: float) -> Vector:
        """
        Draw a point of the tissue.

        :param rng: source of random numbers.
        :param spread: half of the part of the image where it is: 1 for the whole image.
        :return: (3,) the point.
        """
        x, y = rng.uniform(-spread, spread), rng.uniform(-spread, spread)
        return self.ground(x, y).point

    def rest(self, rng: Generator, lift_cm: float, spread: float) -> Matrix:
        """
        Draw a pose on the tissue for an object that rests on it.

        :param rng: source of random numbers.
        :param lift_cm: height of the origin above the tissue.
        :param spread: as for `ground_within`.
        :return: (4, 4) frame whose z axis is about perpendicular to the tissue, and x random.
        """
        point = self.ground_within(rng, spread)
        normal = self.tissue.normal(point) + rng.normal(0, 0.3, 3)
        along = np.cross(normal, rng.normal(0, 1, 3))
        return frame(along, normal, point + unit(normal) * lift_cm)


def draw_near_view(rng: Generator, tissue: Tissue) -> View:
    """
    Draw a random pose of a camera that is so near that tissue fills the image.

    :param rng: source of random numbers.
    :param tissue: the tissue.
    :return: the view.
    """
    distance = math.exp(rng.uniform(*np.log(_NEAR_CM)))
    x, y = rng.normal(0, 3.0, 2)
    position = np.array([x, y, tissue.height(x, y)[0] + distance])
    spread = 0.5 * distance if rng.random() < 0.5 else 3.0  # across it, or past it
    target = position + rng.normal(0, spread, 3)
    target[2] = tissue.height(target[0], target[1])[0]
    return _view(rng, tissue, position, target)


def draw_view(rng: Generator, tissue: Tissue) -> View:
    """
    Draw a random pose of the camera.

    :param rng: source of random numbers.
    :param tissue: the tissue.
    :return: the view.
    """
    position = np.array([rng.normal(0, 1.5), rng.normal(0, 1.5), 0.0])
    position[2] = rng.uniform(-0.25, 0.15) * tissue.depth_cm
    ground = tissue.height(position[0], position[1])[0]
    position[2] = max(position[2], ground + _MIN_CLEARANCE_CM)
    target = np.array([rng.normal(0, 1.2), rng.normal(0, 1.2), 0])
    target[2] = tissue.height(target[0], target[1])[0]
    return _view(rng, tissue, position, target)


def _view(rng: Generator, tissue: Tissue, position: Vector, target: Vector) -> View:
    """Draw roll and angle of view of a camera at a position that looks at a target."""
    backwards = unit(position - target)
    roll = rng.normal(0, 0.35)
    right = unit(np.cross([math.sin(roll), math.cos(roll), 0], backwards))
    pose = np.eye(4)
    pose[:3, 0], pose[:3, 1], pose[:3, 2] = right, np.cross(backwards, right), backwards
    pose[:3, 3] = position
    distance = float(np.linalg.norm(position - target))
    return View(tissue, pose, math.radians(rng.uniform(58, 72)), distance)
