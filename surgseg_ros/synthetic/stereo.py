# SPDX-License-Identifier: Apache-2.0
"""
The second camera of a drawn endoscope.

Each object lies in a plane. Its inverse depth is then linear in image coordinates, and the image
of the second camera is that of the first, sheared and shifted. Both are ideal pinhole cameras.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.random import Generator

from surgseg_ros.core.calibration_files import CALIBRATION_FILE, calibration_yaml
from surgseg_ros.core.keypoints import KeypointKind
from surgseg_ros.core.stereo_calibration import EYES, CameraInfo
from surgseg_ros.synthetic.drawing import Image, Item, Patch, Points, View
from surgseg_ros.synthetic.truth import Place

BASELINE_M: Final = 0.0045
FOCAL: Final = 1500 / 1080
"""Focal length in units: 1500 pixels at 1080p."""

NEAREST_M: Final = 0.03
"""Smallest depth; it limits what the second camera sees beyond the border of the first image."""

TOOL_DEPTHS_M: Final = (0.06, 0.15)
"""Range of depths of the ends of shafts."""

TISSUE_DEPTHS_M: Final = (0.16, 0.2)


class Plane(NamedTuple):
    """
    A plane in 3-D, represented by the inverse depth of its points.

    :param inverse_m: inverse depth at the origin of the units, in 1/m.
    :param along_x: its change per unit to the right.
    :param along_y: its change per unit down.
    """

    inverse_m: float
    along_x: float = 0.0
    along_y: float = 0.0

    @classmethod
    def through(cls, place: Place, depth_m: float, angle: float, growth: float) -> 'Plane':
        """
        Return the plane of an object whose width grows along a line because it comes nearer.

        :param place: a point on the line, in units.
        :param depth_m: its depth in metres.
        :param angle: direction of the line.
        :param growth: relative growth of the width per unit against the direction.
        :return: the plane; it has constant depth across the line.
        """
        slope = -growth / depth_m
        x, y = slope * np.cos(angle), slope * np.sin(angle)
        return cls(1 / depth_m - x * place[0] - y * place[1], float(x), float(y))

    def inverse_at(self, place: Place) -> float:
        """Return the inverse depth of a point in 1/m."""
        return self.inverse_m + self.along_x * place[0] + self.along_y * place[1]

    def place_m(self, place: Place, view: View) -> Points:
        """Return (3,), the position of a point in the first camera's optical frame, in metres."""
        away = np.array([(place[0] - view.aspect / 2), place[1] - 0.5, FOCAL]) / FOCAL
        return np.asarray(away / self.inverse_at(place))

    def direction(self, place: Place, angle: float, view: View) -> Points:
        """Return (3,), the 3-D unit vector of an image direction at a point."""
        step = 1e-4
        beside = place[0] + step * np.cos(angle), place[1] + step * np.sin(angle)
        away = self.place_m(beside, view) - self.place_m(place, view)
        return np.asarray(away / np.linalg.norm(away))


class Depths:
    """
    The depths of the objects of a scene: those that are painted later are nearer.

    :param rng: source of the depths.
    :param items: the objects, from the back to the front.
    """

    def __init__(self, rng: Generator, items: Sequence[Item]) -> None:
        self.tissue_m = float(rng.uniform(*TISSUE_DEPTHS_M))
        self._ends_m = dict(zip(items, sorted(rng.uniform(*TOOL_DEPTHS_M, len(items)))[::-1]))

    def tissue_shift(self, camera: int) -> float:
        """Return the disparity of the tissue for a camera, in units; 0 for camera 0."""
        return camera * shift_of(1 / self.tissue_m)

    def plane(self, item: Item, time_s: float) -> Plane:
        """
        Return the plane of an object at a time.

        A shaft has a constant diameter, so that the growth of its width determines the slope.
        """
        if truth := item.truth(time_s):
            for kind, place, angle in truth.points:
                if kind == KeypointKind.SHAFT_AXIS:
                    return Plane.through(place, self._ends_m[item], angle, truth.taper)
        return Plane(1 / (self.tissue_m * (1 - item.lift / FOCAL)))


def shift_of(inverse_m: float) -> float:
    """Return the disparity of a point with an inverse depth, in units."""
    return FOCAL * BASELINE_M * inverse_m


def beyond_px(height: int) -> int:
    """Return how many columns beyond the right border of the first image camera 1 sees."""
    return int(np.ceil(shift_of(1 / NEAREST_M) * height)) + 1


def seen_by(patch: Patch, plane: Plane, camera: int, view: View) -> Patch | None:
    """
    Draw a patch as seen by a camera.

    :param patch: as seen by the first camera, also beyond the right border of its image.
    :param plane: the plane of the patch.
    :param camera: 0 or 1.
    :param view: the image.
    :return: the patch, cropped to the image; None outside of it.
    """
    height, width = patch.rgba.shape[:2]
    if not camera:
        seen = min(width, view.width - patch.x)
        return None if seen < 1 else _map(patch, lambda image: image[:, :seen])
    scale = FOCAL * BASELINE_M
    # From a pixel of the second camera to one of the first: x = (x' + shift at (0, y)) / share.
    share = 1 - scale * plane.along_x
    rows = (patch.y + np.array([0.0, height - 1.0]) + 0.5) / view.height
    offsets = scale * (plane.inverse_m + plane.along_y * rows) * view.height
    corners = [share * (x + 0.5) - 0.5 - o for x in (patch.x, patch.x + width) for o in offsets]
    left = max(0, int(np.floor(min(corners))) - 1)
    right = min(view.width, int(np.ceil(max(corners))) + 2)
    if right <= left:
        return None
    slant = scale * plane.along_y / share
    start = (left + 0.5 + offsets[0]) / share - 0.5 - patch.x
    matrix = np.array([[1 / share, slant, start], [0.0, 1.0, 0.0]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    size = (right - left, height)
    warped = _map(
        patch, lambda image: np.asarray(cv2.warpAffine(image, matrix, size, flags=flags), np.uint8)
    )
    return dataclasses.replace(warped, x=left)


def _map(patch: Patch, change: Callable[[Image], Image]) -> Patch:
    area = None if patch.area is None else change(patch.area)
    return dataclasses.replace(patch, rgba=change(patch.rgba), area=area)


def camera_infos(view: View) -> tuple[CameraInfo, CameraInfo]:
    """
    Return the `camera_info` of both cameras, which are ideal.

    :param view: the image.
    :return: `camera_info` of the first and the second camera.
    """
    focal = FOCAL * view.height
    k = np.array(
        [[focal, 0, (view.width - 1) / 2], [0, focal, (view.height - 1) / 2], [0, 0, 1]], float
    )
    size = view.height, view.width

    def info(baseline_m: float) -> CameraInfo:
        p = np.hstack([k, np.array([[-focal * baseline_m], [0.0], [0.0]])])
        return CameraInfo(size, 'plumb_bob', np.zeros(5), k, np.eye(3), p)

    return info(0.0), info(BASELINE_M)


def calibration_files(view: View) -> dict[str, str]:
    """
    Return the calibration files of both cameras.

    :param view: the image.
    :return: the content of each file by its path in the folder of a video.
    """
    infos = zip(EYES, camera_infos(view))
    return {f'{name}/{CALIBRATION_FILE}': calibration_yaml(info, name) for name, info in infos}
