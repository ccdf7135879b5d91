# SPDX-License-Identifier: Apache-2.0
"""Turns light into an image, as the camera of an endoscope does: gain, tone curve, bloom."""

import math
from typing import Final

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Light = NDArray[np.float32]
"""(H, W, 3) float32 linear RGB, from 0 up."""

_LUMINANCE: Final = np.array([0.3, 0.59, 0.11], np.float32)
"""Weights of red, green and blue in the brightness, as in Rec. 601."""

_GAINS: Final = (0.16, 0.9)
"""Brightness that the bright parts get: from dark images to overexposed ones."""


def expose(rng: Generator, light: Light) -> NDArray[np.uint8]:
    """
    Make an image of light, with a random camera.

    :param rng: source of random numbers.
    :param light: (H, W, 3) float32 linear RGB, of any brightness.
    :return: (H, W, 3) uint8 RGB.
    """
    bright = np.percentile(light @ _LUMINANCE, float(rng.uniform(88, 98)))
    gain = math.exp(rng.uniform(*np.log(_GAINS))) / max(bright, 1e-6)
    light = light * np.float32(gain)
    if rng.random() < 0.4:
        light = light * _vignette(rng, light.shape[:2])[..., None]
    light = light * np.array([rng.uniform(0.9, 1.2), 1.0, rng.uniform(0.8, 1.3)], np.float32)
    bloom = cv2.GaussianBlur(np.minimum(light, 6), (0, 0), float(rng.uniform(4, 14)))
    light = light + float(rng.uniform(0, 0.06)) * bloom
    if rng.random() < 0.25:  # stray light
        light = light + float(rng.uniform(0.003, 0.018)) * np.array([1, 0.8, 0.75], np.float32)
    image = np.clip(_tone(rng, light), 0, 1) ** (1 / float(rng.uniform(1.7, 2.4)))
    grey = (image @ _LUMINANCE)[..., None]
    image = grey + (image - grey) * float(rng.uniform(0.65, 1.2))
    if rng.random() < 0.5:  # more contrast
        curve = image * image * (3 - 2 * image)
        image = image + float(rng.uniform(0, 0.25)) * (curve - image)
    return np.asarray(np.clip(image, 0, 1) * 255 + 0.5, np.uint8)


def _vignette(rng: Generator, size: tuple[int, ...]) -> Light:
    """Return factors that darken the image towards its border."""
    height, width = size
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    x, y = columns - width * rng.uniform(0.42, 0.58), rows - height * rng.uniform(0.42, 0.58)
    radius = np.hypot(x, y) / (width / 2)
    share = np.clip((radius - rng.uniform(0.35, 0.7)) / rng.uniform(0.4, 0.8), 0, 1)
    return np.asarray(1 - rng.uniform(0.6, 1) * share * share * (3 - 2 * share))


def _tone(rng: Generator, light: Light) -> Light:
    """Compress bright light: by a limit, a shoulder or a curve."""
    kind = rng.choice(3)
    if kind == 0:
        return light
    if kind == 1:
        knee = float(rng.uniform(0.6, 0.85))
        shoulder = knee + (1 - knee) * (1 - np.exp(-(light - knee) / (1 - knee)))
        return np.where(light > knee, shoulder, light)
    return np.asarray(light * (1 + light / 9) / (1 + light) * 1.25)
