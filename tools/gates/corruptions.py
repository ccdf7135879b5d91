# SPDX-License-Identifier: Apache-2.0
"""Degradations of images, with a severity from 0 (none) to 1 (full)."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

RgbArray = NDArray[np.uint8]

SEVERITIES: Final = (0.1, 0.25, 0.5, 0.75, 1.0)


class Source(NamedTuple):
    """
    Two consecutive images of a scene.

    :param first: (H, W, 3) uint8 RGB.
    :param second: likewise, one field later.
    """

    first: RgbArray
    second: RgbArray


def dim(source: Source, severity: float, rng: Generator) -> RgbArray:
    """Darken the image; at 1, completely."""
    return _scaled(source.first, (1 - severity) ** 3, rng)


def dazzle(source: Source, severity: float, rng: Generator) -> RgbArray:
    """Brighten the image, by a factor of up to twelve."""
    return _scaled(source.first, 1 + 11 * severity**2, rng)


def defocus(source: Source, severity: float, rng: Generator) -> RgbArray:
    """Blur by up to a sixtieth of the height, and add the sensor's noise again."""
    sigma = severity * source.first.shape[0] / 60
    return _noisy(cv2.GaussianBlur(source.first, (0, 0), max(sigma, 0.01)), rng)


def veil(source: Source, severity: float, rng: Generator) -> RgbArray:
    """Add smoke of uneven density in front of the scene."""
    size = source.first.shape[:2]
    density = np.clip(severity * 1.05 + 0.12 * _clouds(size, rng), 0, 1)
    return _mixed(source.first, np.float32((176, 176, 176)), density, rng)


def bleed(source: Source, severity: float, rng: Generator) -> RgbArray:
    """Cover a part of the image with blood, as on the lens."""
    size = source.first.shape[:2]
    clouds = _clouds(size, rng)
    edge = np.quantile(clouds, 1 - severity)
    cover = cv2.GaussianBlur((clouds > edge).astype(np.float32), (0, 0), size[0] / 80)
    colour = np.float32(rng.uniform((70, 2, 4), (130, 14, 16)))
    return _mixed(source.first, colour, 0.96 * cover, rng)


def leave(source: Source, severity: float, rng: Generator) -> RgbArray:
    """Draw a room instead: walls, drapes, lamps, people; part of the scene remains."""
    height, width = source.first.shape[:2]
    room = np.empty_like(source.first)
    room[:] = rng.uniform(90, 190) + rng.uniform(-8, 8, 3)
    for _ in range(14):
        corner = rng.uniform(-0.2, 0.9, 2) * (width, height)
        side = rng.uniform(0.1, 0.6, 2) * (width, height)
        colour = _ROOM[rng.integers(len(_ROOM))] * rng.uniform(0.6, 1.2)
        box = np.int32([corner, corner + side * (1, 0.2), corner + side, corner + side * (0, 0.9)])
        cv2.fillPoly(room, [box], tuple(float(min(c, 255)) for c in colour))
    for _ in range(int(rng.integers(1, 4))):
        centre = rng.uniform(0.1, 0.9, 2) * (width, height)
        cv2.circle(room, tuple(int(c) for c in centre), height // 9, (250, 250, 245), -1)
    room = _noisy(cv2.GaussianBlur(room, (0, 0), height / 600), rng)
    kept = round((1 - severity) * width)
    room[:, :kept] = source.first[:, :kept]
    return room


_ROOM: Final = np.array(
    [
        (40, 120, 140), (60, 140, 110), (70, 110, 170), (200, 205, 205), (150, 155, 160),
        (210, 170, 150), (50, 55, 60), (30, 90, 120), (120, 160, 190),
    ],
    float,
)  # fmt: skip
"""Colours of drapes, gowns, walls, steel, skin, screens."""


def weave(source: Source, severity: float, rng: Generator) -> RgbArray:
    """Take every other row from the next field, in part of the image."""
    woven = source.first.copy()
    columns = round(severity * woven.shape[1])
    woven[1::2, :columns] = source.second[1::2, :columns]
    return woven


Corruption = Callable[[Source, float, Generator], RgbArray]

CORRUPTIONS: Final[Mapping[str, Corruption]] = {
    'black': dim,
    'saturated': dazzle,
    'unfocused': defocus,
    'smoke': veil,
    'blood': bleed,
    'outside': leave,
    'interlaced': weave,
}
"""The degradation by the gate that should detect it."""


def _clouds(size: tuple[int, int], rng: Generator) -> NDArray[np.float32]:
    """Return (H, W) smooth noise of mean 0 and standard deviation 1."""
    coarse = rng.standard_normal((6, 10)).astype(np.float32)
    clouds = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
    return np.asarray((clouds - clouds.mean()) / clouds.std(), np.float32)


def _scaled(image: RgbArray, gain: float, rng: Generator) -> RgbArray:
    return _noisy(cv2.convertScaleAbs(image, alpha=gain), rng)


def _mixed(
    image: RgbArray, colour: NDArray[np.float32], share: NDArray[np.float32], rng: Generator
) -> RgbArray:
    share = cv2.merge([share] * 3)
    over = cv2.multiply(share, np.asarray([*map(float, colour), 0.0]))
    mixed = cv2.add(cv2.multiply(image, 1 - share, dtype=cv2.CV_32F), over)
    return _noisy(cv2.convertScaleAbs(mixed), rng)


def _noisy(image: RgbArray, rng: Generator) -> RgbArray:
    """Add sensor noise: degradations before the sensor do not reduce it."""
    height, width = image.shape[:2]
    top, left = rng.integers(0, _SPARE_PX, 2)
    noise = _noise(height, width)[top : top + height, left : left + width]
    return np.asarray(cv2.add(image, noise, dtype=cv2.CV_8U), np.uint8)


@lru_cache(maxsize=1)
def _noise(height: int, width: int) -> NDArray[np.int16]:
    """Create noise once, larger than the image, so that each image uses another part."""
    rng = np.random.default_rng(0)
    size = (height + _SPARE_PX, width + _SPARE_PX, 3)
    return np.asarray(np.rint(1.5 * rng.standard_normal(size, np.float32)), np.int16)


_SPARE_PX: Final = 64
