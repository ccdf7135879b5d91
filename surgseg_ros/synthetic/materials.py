# SPDX-License-Identifier: Apache-2.0
"""Appearance of surfaces under an endoscope's light, which shines in the viewing direction."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import cv2
import numpy as np
from numpy.random import Generator

from surgseg_ros.synthetic.drawing import Image, Points, Shader, Sprite
from surgseg_ros.synthetic.noise import (
    FloatImage,
    fractal_noise,
    mix,
    rgb,
    smooth_noise,
    smoothstep,
    soften,
    spawn_rng,
)

Colour = tuple[float, float, float]

BLOOD: Final[Colour] = (95.0, 14.0, 16.0)
"""Drying blood, RGB."""


@dataclass(frozen=True)
class Gloss:
    """
    The reflectance of a round surface.

    :param base: its colour, RGB 0 to 255.
    :param edge: brightness at its rim relative to its middle.
    :param shine: brightness added in the highlight, 0 to 255.
    :param sharp: sharpness (narrowness) of the highlight.
    :param side: position of the highlight across the surface, -1 to 1.
    :param grain: strength of streaks along it.
    """

    base: Colour
    edge: float = 0.35
    shine: float = 120.0
    sharp: float = 6.0
    side: float = 0.0
    grain: float = 0.0


def rod(rng: Generator, gloss: Gloss, rings: Sequence[tuple[float, float, float]] = ()) -> Shader:
    """
    Shade a round rod or tube.

    :param rng: source of its random streaks.
    :param gloss: its surface.
    :param rings: (from, to, factor) brightness of bands along it, in units from its start.
    :return: the shading of a ribbon.
    """
    streaks = smooth_noise(rng, (1, 64), 1.0, (1, 1))[0] if gloss.grain else np.zeros(64)
    fine = cv2.resize(
        np.asarray(streaks[None], np.float32), (512, 1), interpolation=cv2.INTER_CUBIC
    )
    grain = np.asarray(fine[0], np.float32) * gloss.grain
    waves = rng.uniform(5, 14, 2).astype(np.float32)
    base = np.asarray(gloss.base, np.float32)[:, None]

    def shade(along: FloatImage, across: FloatImage, facing: FloatImage) -> FloatImage:
        depth = np.sqrt(np.maximum(0, 1 - across * across))
        light = gloss.edge + (1 - gloss.edge) * depth
        if gloss.grain:
            lane = (across * 230 + 256 + 9 * np.sin(along * waves[0])).astype(int) & 511
            light = light * (1 + grain[lane] * (0.6 + 0.4 * np.sin(along * waves[1] + across * 5)))
        for start, stop, factor in rings:
            np.multiply(light, factor, out=light, where=(along >= start) & (along < stop))
        glint = np.exp(-gloss.sharp * (across - gloss.side) ** 2) * gloss.shine
        return np.asarray(light * base + glint * light, np.float32)

    return shade


def metal_texture(rng: Generator, tint: Colour, contrast: float) -> FloatImage:
    """
    Compute the reflection of a metal surface for each slope: bright where it faces the light.

    :param rng: source of the random reflections.
    :param tint: the metal's colour at full brightness.
    :param contrast: strength of the reflections.
    :return: (65, 65, 3) float32, row and column are slope down and across from -1 to 1.
    """
    down, across = np.mgrid[-1:1:65j, -1:1:65j].astype(np.float32)
    facing = np.sqrt(np.maximum(0, 1 - np.minimum(1, down**2 + across**2)))
    blobs = fractal_noise(rng, (65, 65), 1.0, 0.09, 2)
    light = 0.2 + 0.52 * facing**2 + contrast * 0.22 * blobs * (1.1 - facing)
    light += 0.65 * np.exp(-14 * ((across + 0.18) ** 2 + (down + 0.22) ** 2))
    # Slopes that do not face the light mirror the tissue: more on a polished surface, in patches.
    red = float(rng.uniform(0.1, 0.9)) * smoothstep(1 - facing, 0.15, 0.7)
    red *= smoothstep(fractal_noise(rng, (65, 65), 1.0, 0.06, 2), -1.5, 0.8)
    colour = light[..., None] * np.asarray(tint, np.float32)
    colour *= np.stack([1 + 0.1 * red, 1 - 0.85 * red, 1 - 0.85 * red], axis=-1)
    return np.asarray(np.clip(colour, 4, 255), np.float32)


def bar(length: float, half: float, angle: float) -> Points:
    """
    Make a bar with round ends.

    :param length: from its near end, which is at the origin, to its far one, in units.
    :param half: half of its width, in units.
    :param angle: angle of its direction, in radians from x towards y.
    :return: (N, 2) corners.
    """
    ends = np.linspace(np.pi / 2, 3 * np.pi / 2, 10)
    near = np.stack([np.cos(ends) * half, np.sin(ends) * half], axis=1)
    far = np.stack([length - np.cos(ends) * half, -np.sin(ends) * half], axis=1)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return np.asarray(np.concatenate([near, far]) @ turn)


@dataclass
class Relief:
    """
    A rigid part, modelled as a height map and then lit; shapes are added from back to front.

    :param rng: source of random scratches and blood.
    :param size: (width, height) of the part's area in units.
    :param origin: (x, y) in the area that is the origin of shapes' coordinates, in units.
    :param scale_px: pixels per unit of the finished sprite.
    """

    rng: Generator
    size: tuple[float, float]
    origin: tuple[float, float]
    scale_px: float
    fine: int = field(default=3, init=False)

    def __post_init__(self) -> None:
        """Create the empty area, finer than the sprite so that edges become smooth."""
        self._pixels = self.scale_px * self.fine
        shape = tuple(math.ceil(side * self.scale_px) * self.fine for side in reversed(self.size))
        self._height = np.zeros(shape, np.float32)
        self._cover = np.zeros(shape, np.uint8)
        self._holes = np.zeros(shape, np.uint8)
        self._tint = np.ones(shape, np.float32)

    def plate(self, outline: Points, height: float, bevel: float) -> None:
        """Add a plate with rounded edges on top; its height is in units."""
        area, inside = self._fill(outline)
        rise = cv2.distanceTransform(inside, cv2.DIST_L2, 3) / max(1.0, bevel * self._pixels)
        rounded = np.sqrt(1 - (1 - np.minimum(rise, 1)) ** 2) * height
        chosen = inside > 0
        level = float(np.median(self._height[area][chosen])) if chosen.any() else 0.0
        self._height[area][chosen] = level + rounded[chosen]
        self._cover[area][chosen] = 255

    def barrel(self, outline: Points, radius: float, middle: float = 0.0) -> None:
        """Add a part of a cylinder along x, whose axis is at y = `middle`."""
        area, inside = self._fill(outline)
        chosen = inside > 0
        rows = (np.arange(self._height.shape[0]) + 0.5) / self._pixels - self.origin[1] - middle
        curve = np.sqrt(np.maximum(0, radius**2 - rows**2)).astype(np.float32)
        curves = np.broadcast_to(curve[:, None], self._height.shape)
        self._height[area][chosen] = curves[area][chosen]
        self._cover[area][chosen] = 255

    def disk(
        self, centre: tuple[float, float], radius: float, height: float, bevel: float
    ) -> None:
        """Add a round plate: a pin, a screw or the base of a ring."""
        angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        ring = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radius + centre
        self.plate(ring, height, bevel)

    def dark(self, outline: Points, factor: float) -> None:
        """Darken an area: a slot, a groove, a hole that shows no tissue."""
        area, inside = self._fill(outline)
        self._tint[area][inside > 0] *= factor

    def cut(self, outline: Points) -> None:
        """Cut a hole through which what is below is visible; it has the part's class."""
        area, inside = self._fill(outline)
        hole = (inside > 0) & (self._cover[area] > 0)
        self._cover[area][hole] = 0
        self._holes[area][hole] = 255

    def finish(
        self, texture: FloatImage, label: int, rough: float = 0.02, blood: float = 0.0
    ) -> Sprite:
        """
        Light the part.

        :param texture: from `metal_texture`.
        :param label: the class.
        :param rough: strength of scratches.
        :param blood: share of the surface that is smeared with it.
        :return: the sprite.
        """
        area = (self._height.shape[0] / self._pixels, self._height.shape[1] / self._pixels)
        heights = soften(self._height, 0.004 * self._pixels) * self._pixels
        slopes = [cv2.Sobel(heights, cv2.CV_32F, *axis, scale=1 / 8) for axis in ((1, 0), (0, 1))]
        length = np.sqrt(1 + slopes[0] ** 2 + slopes[1] ** 2)
        scratches = smooth_noise(spawn_rng(self.rng), area, self._pixels, (160, 22)) * rough
        maps = [(32 - 32 * slope / length + 32 * scratches) for slope in slopes]
        colour = cv2.remap(texture, maps[0].astype(np.float32), maps[1].astype(np.float32), 1)
        colour = colour * rgb(self._tint * (1 + 2 * scratches))
        stain = fractal_noise(self.rng, area, self._pixels, 18, 3)
        share = smoothstep(stain, 2.2 - 3 * blood, 2.7 - 3 * blood) * np.float32(0.7)
        colour = mix(colour, BLOOD, share)
        return self._sprite(np.asarray(np.clip(colour, 0, 255), np.float32), label)

    def _sprite(self, colour: FloatImage, label: int) -> Sprite:
        colour *= rgb(self._cover.astype(np.float32) / np.float32(255))
        size = (self._cover.shape[1] // self.fine, self._cover.shape[0] // self.fine)
        small = [
            cv2.resize(plane, size, interpolation=cv2.INTER_AREA)
            for plane in (colour, self._cover.astype(np.float32))
        ]
        rgba = np.rint(np.dstack(small)).astype(np.uint8)
        if not self._holes.any():
            return Sprite(rgba, self.origin, self.scale_px, label)
        whole = cv2.resize(self._cover | self._holes, size, interpolation=cv2.INTER_AREA)
        return Sprite(rgba, self.origin, self.scale_px, label, np.asarray(whole, np.uint8))

    def _fill(self, outline: Points) -> tuple[tuple[slice, slice], Image]:
        """Return the part of the area around a polygon, and what of the part is inside it."""
        fixed = np.rint(((outline + self.origin) * self._pixels - 0.5) * 16).astype(np.int32)
        last = np.array(self._cover.shape[::-1], np.int32) - 1
        left, top = corner = np.clip(fixed.min(axis=0) // 16 - 1, 0, last)
        right, bottom = np.maximum(fixed.max(axis=0) // 16 + 3, corner + 1)
        area = np.s_[top:bottom, left:right]
        inside = np.zeros_like(self._cover[area])
        cv2.fillPoly(inside, [fixed - 16 * corner], (255,), cv2.LINE_8, 4)
        return area, inside
