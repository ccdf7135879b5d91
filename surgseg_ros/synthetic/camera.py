# SPDX-License-Identifier: Apache-2.0
"""
The endoscope: its light, lens and sensor, the smoke in front of it, and its second camera.

For the second camera, each object lies in a plane. Its inverse depth is then linear in image
coordinates, and the image of the second camera is that of the first, sheared and shifted. Both are
ideal pinhole cameras.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.random import Generator

from surgseg_ros.core.keypoints import KeypointKind
from surgseg_ros.core.segmentation import CAMERAS
from surgseg_ros.core.stereo_calibration import CALIBRATION_FILE, CameraInfo, calibration_yaml
from surgseg_ros.synthetic.drawing import Image, Item, Patch, Points, View
from surgseg_ros.synthetic.noise import Drift, FloatImage, rgb, slight_drift, spawn_rng
from surgseg_ros.synthetic.truth import Position

_GRID_ROWS = 24


class Camera:
    """
    Everything between the scene and its image.

    :param rng: source of the random imperfections.
    :param view: the image.
    """

    def __init__(self, rng: Generator, view: View) -> None:
        self._view = view
        self._centre = [slight_drift(rng, -0.15, 0.15, 0.2), slight_drift(rng, -0.12, 0.12, 0.2)]
        self._falloff = float(rng.choice([rng.uniform(0.2, 1.7), np.exp(rng.uniform(0.4, 2.1))]))
        level = float(np.exp(rng.normal(-0.1, 0.4)))
        self._exposure = slight_drift(rng, 0.85 * level, 1.2 * level, 0.25, 7)
        self._white_balance = [
            slight_drift(rng, 0.82, 1.22, 0.2, 12),
            slight_drift(rng, 0.8, 1.2, 0.2, 10),
        ]
        smoky = rng.random() < 0.2
        self._smoke = Drift(rng, -0.25, float(rng.uniform(0.2, 0.6)) if smoky else -0.2, 9)
        self._smoke_noise = np.asarray(rng.standard_normal((32, 32)), np.float32)
        self._drift = rng.uniform(-0.12, 0.12, 2)
        blurry = rng.random() < 0.35
        self._defocus = Drift(rng, -0.0012, 0.0035 if blurry else 0.0004, 8)
        self._sharpen = float(rng.uniform(0.0, 1.2))
        self._noise = _noise_tile(spawn_rng(rng), view, float(rng.uniform(1.0, 4.5)))
        self._curve = _tone_curve(rng)
        self._colour_matrix = _colour_matrix(rng)
        self._codec = Codec(rng, view)
        self._bloom = float(rng.uniform(0.1, 0.6)) if rng.random() < 0.5 else 0.0
        self.content_mask = _content_mask(rng, view)

    def expose(self, scene: Image, time_s: float, rng: Generator) -> Image:
        """
        Take an image.

        :param scene: (H, W, 3) uint8 RGB under even light.
        :param time_s: time since the start of the scene, in seconds.
        :param rng: random numbers of this frame, for the noise of the sensor.
        :return: (H, W, 3) uint8 RGB.
        """
        image = cv2.multiply(scene, self._gain(time_s), dtype=cv2.CV_8U)
        image = cv2.LUT(cv2.transform(image, self._colour_matrix), self._curve)
        image = self._add_smoke(self._add_bloom(np.asarray(image, np.uint8)), time_s)
        sigma = self._defocus(time_s) * self._view.height
        if sigma > 0.35:
            image = cv2.GaussianBlur(image, (0, 0), sigma)
        else:
            soft = cv2.GaussianBlur(image, (0, 0), max(0.6, 0.0022 * self._view.height))
            image = cv2.addWeighted(image, 1 + self._sharpen, soft, -self._sharpen, 0)
        y, x = (int(shift) for shift in rng.integers(0, 64, 2))
        tile = np.s_[y : y + self._view.height, x : x + self._view.width]
        image = cv2.subtract(cv2.add(image, self._noise[0][tile]), self._noise[1][tile])
        image = self._codec(np.asarray(image, np.uint8))
        if self.content_mask is not None:
            image = cv2.multiply(image, self.content_mask, scale=1 / 255)
        return np.asarray(image, np.uint8)

    def _grid(self) -> tuple[FloatImage, FloatImage]:
        columns = round(_GRID_ROWS * self._view.aspect)
        down, across = np.indices((_GRID_ROWS, columns)).astype(np.float32)
        half, rows = np.float32(0.5), np.float32(_GRID_ROWS)
        return (down + half) / rows, (across + half) / rows

    def _gain(self, time_s: float) -> FloatImage:
        down, across = self._grid()
        sideways = across - self._view.aspect / 2 - self._centre[0](time_s)
        away = sideways**2 + (down - 0.5 - self._centre[1](time_s)) ** 2
        light = (self._exposure(time_s) * 1.12 / (1 + self._falloff * away)).astype(np.float32)
        tints = (self._white_balance[0](time_s), 1.0, self._white_balance[1](time_s))
        planes = np.stack([light * np.float32(tint) for tint in tints], axis=-1)
        return np.asarray(cv2.resize(planes, (self._view.width, self._view.height)), np.float32)

    def _add_bloom(self, image: Image) -> Image:
        """Add the glow around overexposed areas."""
        if not self._bloom:
            return image
        size = (self._view.width // 4, self._view.height // 4)
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        bright = cv2.subtract(small, np.full_like(small, 190))
        soft = cv2.GaussianBlur(bright, (0, 0), 0.02 * size[1])
        soft = cv2.resize(soft, (self._view.width, self._view.height))
        return np.asarray(cv2.scaleAdd(soft, 4 * self._bloom, image), np.uint8)

    def _add_smoke(self, image: Image, time_s: float) -> Image:
        strength = self._smoke(time_s)
        if strength < 0.02:
            return image
        down, across = self._grid()
        density = np.zeros_like(down)
        for rate, weight in ((2.5, 0.6), (6.0, 0.4)):
            x = (across + self._drift[0] * time_s) * rate + rate
            y = (down + self._drift[1] * time_s) * rate - 0.05 * rate * time_s
            maps = ((x % 32).astype(np.float32), (y % 32).astype(np.float32))
            density += weight * cv2.remap(
                self._smoke_noise, *maps, cv2.INTER_LINEAR, None, cv2.BORDER_WRAP
            )
        coarse = np.clip(strength * (0.8 + 0.7 * density), 0, 0.85).astype(np.float32)
        size = (image.shape[1], image.shape[0])
        share = cv2.resize(coarse, size, interpolation=cv2.INTER_LINEAR)
        rest = cv2.cvtColor(1 - share, cv2.COLOR_GRAY2RGB)
        fog = cv2.cvtColor((share * 176).astype(np.uint8), cv2.COLOR_GRAY2RGB)
        return np.asarray(cv2.add(cv2.multiply(image, rest, dtype=cv2.CV_8U), fog), np.uint8)


class Codec:
    """
    Simulates recording: upscaling of a smaller source, interlacing, and blocks of compression.

    :param rng: source of the choices.
    :param view: the image.
    """

    def __init__(self, rng: Generator, view: View) -> None:
        shrink = float(rng.uniform(0.3, 0.9)) if rng.random() < 0.35 else 1.0
        squeeze = float(rng.uniform(0.6, 1.0)) if rng.random() < 0.3 else 1.0
        self._size = (round(view.width * shrink * squeeze), round(view.height * shrink))
        self._view = view
        self._quality = int(rng.integers(18, 75)) if rng.random() < 0.4 else 0
        self._fields = int(rng.integers(1, 6)) if rng.random() < 0.06 else 0

    def __call__(self, image: Image) -> Image:
        """
        Return an image as it looks after recording.

        :param image: (H, W, 3) uint8 RGB.
        :return: (H, W, 3) uint8 RGB.
        """
        full = (self._view.width, self._view.height)
        small = image
        if self._size != full:
            small = np.asarray(cv2.resize(image, self._size, interpolation=cv2.INTER_AREA))
        if self._fields:  # interlacing: every other row shows another time
            small = small.copy()
            small[1::2] = np.roll(small[1::2], self._fields, axis=1)
        if self._quality:
            _, encoded = cv2.imencode('.jpg', small, [cv2.IMWRITE_JPEG_QUALITY, self._quality])
            small = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)
        if self._size != full:
            small = np.asarray(cv2.resize(small, full, interpolation=cv2.INTER_LINEAR))
        return np.asarray(small, np.uint8)


def _colour_matrix(rng: Generator) -> FloatImage:
    """Choose a (3, 3) colour matrix, from weak to strong saturation."""
    saturation = float(np.exp(rng.normal(0.1, 0.25)))
    grey = np.array([0.3, 0.59, 0.11], np.float32)
    return np.asarray(saturation * np.eye(3) + (1 - saturation) * grey, np.float32)


def _tone_curve(rng: Generator) -> Image:
    """Choose a tone curve: contrast and gamma."""
    level = np.arange(256) / 255
    gamma, contrast = np.exp(rng.normal(0.05, 0.3)), rng.uniform(0.0, 0.6)
    curve = level**gamma
    curve += contrast * (curve * curve * (3 - 2 * curve) - curve)
    return np.asarray(np.rint(255 * np.clip(curve, 0, 1)), np.uint8)


def _noise_tile(rng: Generator, view: View, sigma: float) -> tuple[Image, Image]:
    """
    Create sensor noise, larger than the image, so that each frame uses another part of it.

    :return: what it adds to each value, and what it subtracts, of which one is 0: OpenCV takes a
        quarter of the time for values of the image's type.
    """
    size = (view.height + 64, view.width + 64, 3)
    noise = rng.standard_normal(size, dtype=np.float32)
    grey = rng.standard_normal(size[:2], dtype=np.float32)
    noise *= 0.6
    noise += 0.8 * rgb(grey)
    noise *= sigma
    np.rint(noise, out=noise)
    added, subtracted = np.clip(noise, 0, 255), np.clip(-noise, 0, 255)
    return added.astype(np.uint8), subtracted.astype(np.uint8)


def _content_mask(rng: Generator, view: View) -> Image | None:
    """Choose the visible part of the image: all of it, a disk, or a lower or narrower field."""
    kind = rng.random()
    if kind < 0.6:
        return None
    fine = 2
    visible = np.zeros((view.height * fine, view.width * fine), np.uint8)
    scale = view.height * fine
    if kind < 0.8:
        radius = rng.uniform(0.56, max(0.57, 0.95 * math.hypot(0.5, view.aspect / 2)))
        centre = (round(view.aspect / 2 * scale), round(scale / 2))
        cv2.circle(visible, centre, round(radius * scale), (255,), -1)
    elif kind < 0.9:  # letterbox
        bar = round(rng.uniform(0.02, 0.14) * scale)
        visible[bar : scale - bar] = 255
    else:
        half = min(view.aspect / 2, rng.uniform(0.56, 0.72))
        left, right = (
            round((view.aspect / 2 - half) * scale),
            round((view.aspect / 2 + half) * scale),
        )
        visible[:, left:right] = 255
    small = cv2.resize(visible, (view.width, view.height), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_GRAY2RGB), np.uint8)


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
    :param slope_x: its change per unit to the right.
    :param slope_y: its change per unit down.
    """

    inverse_m: float
    slope_x: float = 0.0
    slope_y: float = 0.0

    @classmethod
    def through(cls, position: Position, depth_m: float, angle: float, growth: float) -> 'Plane':
        """
        Return the plane of an object whose width grows along a line because it comes nearer.

        :param position: a point on the line, in units.
        :param depth_m: its depth in metres.
        :param angle: direction of the line.
        :param growth: relative growth of the width per unit against the direction.
        :return: the plane; it has constant depth across the line.
        """
        slope = -growth / depth_m
        x, y = slope * np.cos(angle), slope * np.sin(angle)
        return cls(1 / depth_m - x * position[0] - y * position[1], float(x), float(y))

    def inverse_at(self, position: Position) -> float:
        """Return the inverse depth of a point in 1/m."""
        return self.inverse_m + self.slope_x * position[0] + self.slope_y * position[1]

    def position_m(self, position: Position, view: View) -> Points:
        """Return (3,), the position of a point in the first camera's optical frame, in metres."""
        away = np.array([(position[0] - view.aspect / 2), position[1] - 0.5, FOCAL]) / FOCAL
        return np.asarray(away / self.inverse_at(position))

    def direction(self, position: Position, angle: float, view: View) -> Points:
        """Return (3,), the 3-D unit vector of an image direction at a point."""
        step = 1e-4
        neighbour = position[0] + step * np.cos(angle), position[1] + step * np.sin(angle)
        away = self.position_m(neighbour, view) - self.position_m(position, view)
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
            for kind, position, angle in truth.points:
                if kind == KeypointKind.SHAFT_AXIS:
                    return Plane.through(position, self._ends_m[item], angle, truth.taper)
        return Plane(1 / (self.tissue_m * (1 - item.lift / FOCAL)))


def shift_of(inverse_m: float) -> float:
    """Return the disparity of a point with an inverse depth, in units."""
    return FOCAL * BASELINE_M * inverse_m


def extra_columns(height: int) -> int:
    """Return how many columns beyond the right border of the first image camera 1 sees."""
    return int(np.ceil(shift_of(1 / NEAREST_M) * height)) + 1


def warp(patch: Patch, plane: Plane, camera: int, view: View) -> Patch | None:
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
    share = 1 - scale * plane.slope_x
    rows = (patch.y + np.array([0.0, height - 1.0]) + 0.5) / view.height
    offsets = scale * (plane.inverse_m + plane.slope_y * rows) * view.height
    corners = [share * (x + 0.5) - 0.5 - o for x in (patch.x, patch.x + width) for o in offsets]
    left = max(0, int(np.floor(min(corners))) - 1)
    right = min(view.width, int(np.ceil(max(corners))) + 2)
    if right <= left:
        return None
    slant = scale * plane.slope_y / share
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
    infos = zip(CAMERAS, camera_infos(view))
    return {f'{name}/{CALIBRATION_FILE}': calibration_yaml(info, name) for name, info in infos}
