# SPDX-License-Identifier: Apache-2.0
"""The image, and pieces of it: patches, and sprites that are drawn once and placed."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Points = NDArray[np.float64]


@dataclass(frozen=True)
class Patch:
    """
    Something drawn, and where it lies in the image.

    :param x: column of its left edge.
    :param y: row of its upper edge.
    :param rgba: (h, w, 4) uint8, colours already multiplied by the coverage, and the coverage.
    :param label: the class of all its pixels.
    """

    x: int
    y: int
    rgba: Image
    label: int


@dataclass(frozen=True)
class View:
    """
    The image's size; one unit is its height.

    :param height: in pixels.
    :param width: in pixels.
    """

    height: int
    width: int

    @property
    def aspect(self) -> float:
        """The image's width in units."""
        return self.width / self.height

    def to_pixels(self, points: Points) -> Points:
        """Turn units into pixel coordinates, where whole numbers are pixel centres."""
        return points * self.height - 0.5

    def clip(self, points_px: Points, margin_px: float) -> tuple[int, int, int, int] | None:
        """Find the part (left, top, right, bottom) of the image about some points."""
        low = np.floor(points_px.min(axis=0) - margin_px).astype(int)
        high = np.ceil(points_px.max(axis=0) + margin_px).astype(int) + 1
        left, top = max(0, int(low[0])), max(0, int(low[1]))
        right, bottom = min(self.width, int(high[0])), min(self.height, int(high[1]))
        return (left, top, right, bottom) if left < right and top < bottom else None


@dataclass(frozen=True)
class Sprite:
    """
    A rigid thing drawn once and placed in every frame.

    :param rgba: (h, w, 4) uint8, colours already multiplied by the coverage, and the coverage.
    :param origin: (x, y) of the point that is placed and turned about, in units from the corner.
    :param scale_px: pixels to the unit.
    :param label: its class.
    """

    rgba: Image
    origin: tuple[float, float]
    scale_px: float
    label: int

    def place(
        self,
        view: View,
        at: tuple[float, float],
        angle: float,
        stretch: tuple[float, float] = (1.0, 1.0),
    ) -> Patch | None:
        """
        Draw it into an image.

        :param view: the image.
        :param at: where the origin comes to lie, in units.
        :param angle: by which it is turned, in radians from x towards y.
        :param stretch: along its own x and y; negative mirrors it.
        :return: the patch, or None outside the image.
        """
        cosine, sine = math.cos(angle), math.sin(angle)
        zoom = view.height / self.scale_px
        turn = np.array(
            [[cosine * stretch[0], -sine * stretch[1]], [sine * stretch[0], cosine * stretch[1]]]
        )
        origin_px = np.array(self.origin) * self.scale_px - 0.5
        shift = view.to_pixels(np.array(at)) - turn @ origin_px * zoom
        height, width = self.rgba.shape[:2]
        corners = np.array([[0, 0], [width, 0], [0, height], [width, height]], float)
        box = view.clip(corners @ turn.T * zoom + shift, 1)
        if box is None:
            return None
        left, top, right, bottom = box
        matrix = np.hstack([turn * zoom, (shift - (left, top))[:, None]])
        rgba = cv2.warpAffine(self.rgba, matrix, (right - left, bottom - top))
        return Patch(left, top, np.asarray(rgba, np.uint8), self.label)
