# SPDX-License-Identifier: Apache-2.0
"""
Draws images and masks together, so that the masks are exact.

All lengths are in units of the image height. Objects are drawn as patches: sprites, which are
drawn once and placed in every frame, and ribbons along curves. A canvas paints them back to front.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from surgseg_ros.synthetic.noise import FloatImage
from surgseg_ros.synthetic.truth import Position, Truth

Image = NDArray[np.uint8]
Points = NDArray[np.float64]
Shader = Callable[[FloatImage, FloatImage, FloatImage], FloatImage]
"""Computes (3, N) colours from (along, across, facing), each (N,): distance along the curve in
units, position across from -1 to 1, and direction of the curve as an angle in radians."""


@dataclass(frozen=True)
class Patch:
    """
    Part of an image, with its position.

    :param x: column of its left edge.
    :param y: row of its upper edge.
    :param rgba: (h, w, 4) uint8, colours multiplied by the coverage, and the coverage.
    :param label: the class of all its pixels.
    :param area: (h, w) uint8, coverage of the pixels that get the class; None: that of `rgba`.
    """

    x: int
    y: int
    rgba: Image
    label: int
    area: Image | None = None


@dataclass(frozen=True)
class View:
    """
    The size of the image, whose height is one unit.

    :param height: in pixels.
    :param width: in pixels.
    :param extra_columns: columns beyond the right border of the image, for the second camera.
    """

    height: int
    width: int
    extra_columns: int = 0

    @property
    def aspect(self) -> float:
        """The image's width in units."""
        return self.width / self.height

    def to_pixels(self, points: Points) -> Points:
        """Convert units to pixel coordinates, in which integers are pixel centres."""
        return points * self.height - 0.5

    def clip(self, points_px: Points, margin_px: float) -> tuple[int, int, int, int] | None:
        """Return the part (left, top, right, bottom) of the image around some points."""
        low = np.floor(points_px.min(axis=0) - margin_px).astype(int)
        high = np.ceil(points_px.max(axis=0) + margin_px).astype(int) + 1
        left, top = max(0, int(low[0])), max(0, int(low[1]))
        right = min(self.width + self.extra_columns, int(high[0]))
        bottom = min(self.height, int(high[1]))
        return (left, top, right, bottom) if left < right and top < bottom else None


@dataclass(frozen=True)
class Sprite:
    """
    A rigid object, drawn once and placed in every frame.

    :param rgba: (h, w, 4) uint8, colours multiplied by the coverage, and the coverage.
    :param origin: (x, y) of the point that is placed and rotated about, in units from the corner.
    :param scale_px: pixels per unit.
    :param label: its class.
    :param area: (h, w) uint8, coverage of the pixels that get the class; None: that of `rgba`.
    """

    rgba: Image
    origin: tuple[float, float]
    scale_px: float
    label: int
    area: Image | None = None

    def place(
        self,
        view: View,
        at: tuple[float, float],
        angle: float,
        stretch: tuple[float, float] = (1.0, 1.0),
    ) -> Patch | None:
        """
        Place the sprite in an image.

        :param view: the image.
        :param at: position of the origin, in units.
        :param angle: angle of rotation, in radians from x towards y.
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
        size = (right - left, bottom - top)
        rgba = np.asarray(cv2.warpAffine(self.rgba, matrix, size), np.uint8)
        area = None if self.area is None else cv2.warpAffine(self.area, matrix, size)
        return Patch(left, top, rgba, self.label, None if area is None else np.asarray(area))


class Item(Protocol):
    """
    An object in the scene.

    `lift` is its height above the tissue in units, by which its shadow is shifted. `defocus` is
    the standard deviation, in units, of the blur if it is out of focus.
    """

    lift: float
    defocus: float

    def draw(self, time_s: float) -> list[Patch]:
        """Return its visible patches, from the back to the front."""

    def anchor(self, time_s: float) -> Position:
        """Return the point, in units, whose motion determines its blur."""

    def truth(self, time_s: float) -> Truth | None:
        """Return its ground truth at a time; None if it is not an instrument."""


def defocused(patch: Patch, sigma_px: float, view: View) -> Patch:
    """
    Blur a patch; the area of its class is not blurred.

    :param patch: the patch.
    :param sigma_px: standard deviation of the blur, in pixels.
    :param view: the image, which limits how far the blur reaches.
    :return: the blurred patch.
    """
    if sigma_px < 0.4:
        return patch
    pad = math.ceil(2 * sigma_px)
    height, width = patch.rgba.shape[:2]
    top, left = min(pad, patch.y), min(pad, patch.x)
    bottom = min(pad, view.height - patch.y - height)
    right = min(pad, view.width + view.extra_columns - patch.x - width)
    solid = patch.rgba[..., 3] if patch.area is None else patch.area
    # The object continues beyond the image's border.
    sides = [0 if side else pad for side in (top, bottom, left, right)]
    grown = np.pad(patch.rgba, (sides[:2], sides[2:], (0, 0)), 'edge')
    spare = [pad - side for side in sides]
    grown = np.pad(grown, (spare[:2], spare[2:], (0, 0)))
    blurred = cv2.GaussianBlur(grown, (0, 0), sigma_px)
    rows = slice(pad - top, pad + height + bottom)
    columns = slice(pad - left, pad + width + right)
    area = np.pad(solid, ((top, bottom), (left, right)))
    rgba = np.ascontiguousarray(blurred[rows, columns], np.uint8)
    return Patch(patch.x - left, patch.y - top, rgba, patch.label, np.asarray(area, np.uint8))


def outline(*points: Position) -> Points:
    """Make a polygon from its corners, in units."""
    return np.array(points, np.float64)


def forward(start: Position, angle: float, length: float) -> Position:
    """Move a point by a distance in a direction."""
    return start[0] + length * math.cos(angle), start[1] + length * math.sin(angle)


def visible(patches: Sequence[Patch | None]) -> list[Patch]:
    """Remove the patches that are not in the image."""
    return [patch for patch in patches if patch is not None]


def ribbon(
    view: View, points: Points, half_width: Points, shade: Shader, label: int, flat: bool = False
) -> Patch | None:
    """
    Draw a band of given width along a curve, with exact coverage.

    :param view: the image.
    :param points: (N, 2) the curve, x and y in units.
    :param half_width: (N,) half of the band's width at each point, in units.
    :param shade: computes the colours.
    :param label: the class.
    :param flat: whether the near end of a straight band is cut straight; otherwise it is round.
    :return: the patch, or None outside the image.
    """
    centres = view.to_pixels(points)
    half_widths = half_width * view.height
    box = view.clip(centres, float(half_widths.max()) + 2)
    if box is None:
        return None
    left, top, right, bottom = box
    centres = centres - (left, top)
    size = (bottom - top, right - left)
    pixels, segments = _near(centres, half_widths, size)
    if not len(pixels):
        return None
    rows, columns = np.divmod(pixels, size[1])
    at = columns.astype(np.float32), rows.astype(np.float32)
    along, offset, gap, facing = _project(centres, half_widths, at, segments, flat)
    coverage = np.clip(0.5 - gap, 0, 1)
    along /= view.height
    colours = np.clip(shade(along, offset, facing), 0, 255)
    coverage = coverage[None]
    planes = [cv2.multiply(plane, coverage, dtype=cv2.CV_8U) for plane in colours[:, None]]
    planes.append(cv2.convertScaleAbs(coverage, alpha=255))
    rgba = np.zeros(size, np.uint32)  # the four bytes of a pixel at once
    rgba.reshape(-1)[pixels] = cv2.merge(planes).view(np.uint32).reshape(-1)
    return Patch(left, top, rgba.view(np.uint8).reshape(*size, 4), label)


def _near(
    centres: Points, half_widths: Points, size: tuple[int, int]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Find the pixels near the curve, as flat indices, and the last segment that passes each."""
    nearest = np.zeros(size, np.uint16)
    fixed = np.rint(centres * 16).astype(int)
    for i in range(len(centres) - 1):
        thickness = math.ceil(2 * max(half_widths[i], half_widths[i + 1])) + 3
        ends = (tuple(map(int, fixed[i])), tuple(map(int, fixed[i + 1])))
        cv2.line(nearest, *ends, (i + 1,), thickness, cv2.LINE_8, 4)
    pixels = np.flatnonzero(nearest > 0)
    return pixels, nearest.reshape(-1)[pixels].astype(np.intp) - 1


def _project(
    centres: Points,
    half_widths: Points,
    at: tuple[FloatImage, FloatImage],
    segments: NDArray[np.intp],
    flat: bool,
) -> tuple[FloatImage, FloatImage, FloatImage, FloatImage]:
    """Measure along and across the curve: (along_px, across -1..1, px outside the edge, angle)."""
    starts_x, starts_y = centres[:-1].astype(np.float32).T.copy()
    steps = np.diff(centres, axis=0).astype(np.float32)
    lengths = np.maximum(np.hypot(steps[:, 0], steps[:, 1]), np.float32(1e-6))
    units_x, units_y = (steps / lengths[:, None]).T.copy()
    angles = np.arctan2(units_y, units_x)
    travelled = np.concatenate([[0], np.cumsum(lengths)]).astype(np.float32)
    half = half_widths.astype(np.float32)
    last = len(lengths) - 1
    best: list[FloatImage] = []
    for shift in (0, -1, 1) if last else (0,):
        seg = np.clip(segments + shift, 0, last) if last else np.zeros(1, np.intp)
        dx, dy = at[0] - starts_x[seg], at[1] - starts_y[seg]
        unit_x, unit_y = units_x[seg], units_y[seg]
        free = dx * unit_x + dy * unit_y
        foot = np.clip(free, 0, lengths[seg])
        side = dy * unit_x - dx * unit_y
        share = foot / lengths[seg]
        width = np.maximum(half[seg] * (1 - share) + half[seg + 1] * share, np.float32(1e-3))
        if flat:
            gap = np.maximum(-free, np.abs(side) - width)
        else:
            gap = np.hypot(free - foot, side) - width
        found = [travelled[seg] + foot, np.clip(side / width, -1, 1), gap, angles[seg]]
        if not best:
            best = found
        else:
            nearer = gap < best[2]
            best = [np.where(nearer, new, old) for new, old in zip(found, best)]
    return best[0], best[1], best[2], best[3]


class Canvas:
    """
    An image and its mask, painted from the back to the front.

    :param image: (H, W, 3) uint8 RGB, painted in place.
    """

    def __init__(self, image: Image) -> None:
        self.image = image
        self.mask: Image = np.zeros(image.shape[:2], np.uint8)
        self.instances = self.mask.copy()

    def paint(self, patch: Patch, number: int = 0) -> None:
        """Paint a patch; pixels that it covers by at least half get its class and a number."""
        height, width = patch.rgba.shape[:2]
        window = np.s_[patch.y : patch.y + height, patch.x : patch.x + width]
        image, mask, instances = self.image[window], self.mask[window], self.instances[window]
        alpha = cv2.extractChannel(patch.rgba, 3)
        covered = alpha if patch.area is None else patch.area
        filled = cv2.max(alpha, covered)
        for start in range(0, height, 64):  # most of the patch of a diagonal rod is empty
            left, top, columns, rows = cv2.boundingRect(filled[start : start + 64])
            if not columns:
                continue
            part = np.s_[start + top : start + top + rows, left : left + columns]
            rest = cv2.cvtColor(cv2.bitwise_not(alpha[part]), cv2.COLOR_GRAY2RGB)
            below = cv2.multiply(image[part], rest, scale=1 / 255)
            image[part] = cv2.add(below, cv2.cvtColor(patch.rgba[part], cv2.COLOR_RGBA2RGB))
            solid = covered[part] >= 128
            mask[part][solid] = patch.label
            instances[part][solid] = number

    def shadow(
        self, patches: Sequence[Patch], offset: tuple[float, float], soft: float, depth: float
    ) -> None:
        """
        Cast the shadow of patches that will be painted next.

        :param patches: the patches that cast the shadow.
        :param offset: offset of the shadow, in image heights.
        :param soft: standard deviation of the blur, in image heights.
        :param depth: 0 for none, 1 for black.
        """
        height, width = self.mask.shape
        small = height / 90
        size = (round(width / small), 90)
        dark: FloatImage = np.zeros((size[1], size[0]), np.float32)
        for patch in patches:
            x = (patch.x + 0.5 + offset[0] * height) / small - 0.5
            y = (patch.y + 0.5 + offset[1] * height) / small - 0.5
            matrix = np.array([[1 / small, 0, x], [0, 1 / small, y]])
            alpha = cv2.blur(patch.rgba[..., 3], (max(1, round(small)),) * 2)
            dark = np.maximum(dark, cv2.warpAffine(alpha, matrix, size).astype(np.float32))
        dark = np.asarray(cv2.GaussianBlur(dark, (0, 0), soft * 90), np.float32)
        left, top, columns, rows = cv2.boundingRect((dark > 1).astype(np.uint8))
        if not columns:
            return
        edges = np.array([left, top, left + columns, top + rows]) * small
        left, top, right, bottom = np.minimum(edges.astype(int), (width, height) * 2).tolist()
        matrix = np.array(
            [[1 / small, 0, (left + 0.5) / small - 0.5], [0, 1 / small, (top + 0.5) / small - 0.5]]
        )
        gain = cv2.warpAffine(
            1 - dark * np.float32(depth / 255),
            matrix,
            (right - left, bottom - top),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        area = self.image[top:bottom, left:right]
        area[:] = cv2.multiply(area, cv2.cvtColor(gain, cv2.COLOR_GRAY2RGB), dtype=cv2.CV_8U)

    def smear(self, patches: Sequence[Patch], motion_px: tuple[float, float]) -> None:
        """
        Blur the image along a motion where the patches are; the mask is not blurred.

        :param patches: the moving patches, already painted.
        :param motion_px: displacement (x, y) during the exposure.
        """
        length = min(math.hypot(*motion_px), self.mask.shape[0] / 18)
        if length < 1.2 or not patches:
            return
        angle = math.atan2(motion_px[1], motion_px[0])
        kernel = _streak(length, angle)
        margin = len(kernel) // 2 + 1
        top = max(0, min(patch.y for patch in patches) - margin)
        left = max(0, min(patch.x for patch in patches) - margin)
        bottom = max(patch.y + patch.rgba.shape[0] for patch in patches) + margin
        right = max(patch.x + patch.rgba.shape[1] for patch in patches) + margin
        area = self.image[top:bottom, left:right]
        touched = np.zeros(area.shape[:2], np.uint8)
        for patch in patches:
            y, x = patch.y - top, patch.x - left
            part = touched[y : y + patch.rgba.shape[0], x : x + patch.rgba.shape[1]]
            np.maximum(part, patch.rgba[..., 3], out=part)
        touched = np.asarray(cv2.dilate(touched, (kernel > 0).astype(np.uint8)), np.uint8)
        cv2.copyTo(cv2.filter2D(area, -1, kernel), (touched >= 128).astype(np.uint8), area)


def _streak(length_px: float, angle: float) -> FloatImage:
    """Make the blur kernel of a straight motion."""
    radius = math.ceil(length_px / 2) + 1
    down, across = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.float32)
    along = across * math.cos(angle) + down * math.sin(angle)
    sideways = down * math.cos(angle) - across * math.sin(angle)
    weights = np.clip(length_px / 2 + 0.5 - np.abs(along), 0, 1) * np.clip(
        1 - np.abs(sideways), 0, 1
    )
    return np.asarray(weights / weights.sum(), np.float32)
