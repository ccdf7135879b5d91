# SPDX-License-Identifier: Apache-2.0
"""Random views of a fitted picture and its mask; everything in uint8, as the network sees it."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from surgseg_ros.core.labels import NO_DECISION


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """
    How much a picture is changed; 0 everywhere changes nothing.

    :param flip: chance of a mirror image.
    :param scale: greatest change of size, as a share; the range is symmetric in the logarithm.
    :param rotation_deg: greatest turn either way.
    :param colour: greatest change of brightness, contrast, saturation and each channel, as share.
    :param blur: chance of a blur.
    :param noise: greatest deviation of added noise, of 255.
    :param focus: chance that a view is drawn for a class, each class of the data set alike.
    """

    flip: float = 0.5
    scale: float = 0.25
    rotation_deg: float = 15.0
    colour: float = 0.15
    blur: float = 0.2
    noise: float = 6.0
    focus: float = 0.5

    def __call__(
        self,
        image: NDArray[np.uint8],
        mask: NDArray[np.uint8],
        crop_size: tuple[int, int],
        rng: Generator,
        label: int | None = None,
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """
        Draw one view.

        :param image: (h, w, 3) uint8 RGB, fitted.
        :param mask: (h, w) uint8 class index, NO_DECISION where the picture is padding.
        :param crop_size: (height, width) of the view in pixels.
        :param rng: where chance comes from.
        :param label: a class that the view is put on, where the picture shows it; None for a
            view of anything. Which class and picture `focus` leads to is for the caller.
        :return: (*crop_size, 3) and (*crop_size); NO_DECISION beyond the picture.
        """
        matrix = self._placement(mask, crop_size, rng, label)
        size = (crop_size[1], crop_size[0])
        view = cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR)
        truth = cv2.warpAffine(
            mask, matrix, size, flags=cv2.INTER_NEAREST, borderValue=(NO_DECISION,)
        )
        return self._recolour(view.astype(np.uint8, copy=False), rng), truth.astype(np.uint8)

    def _placement(
        self,
        mask: NDArray[np.uint8],
        crop_size: tuple[int, int],
        rng: Generator,
        label: int | None,
    ) -> NDArray[np.float64]:
        """(2, 3) from pixels of the picture to pixels of the view."""
        grow = float(np.exp(rng.uniform(-1, 1) * np.log1p(self.scale)))
        turn = float(np.deg2rad(rng.uniform(-1, 1) * self.rotation_deg))
        mirror = -1.0 if rng.random() < self.flip else 1.0
        linear = grow * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        linear[:, 0] *= mirror
        size = np.array(mask.shape[::-1], float)
        half = np.minimum(np.array(crop_size[::-1]) / grow, size) / 2
        centre = _centre(mask, half, rng, label)
        middle = (np.array(crop_size[::-1]) - 1) / 2
        return np.column_stack([linear, middle - linear @ centre])

    def _recolour(self, view: NDArray[np.uint8], rng: Generator) -> NDArray[np.uint8]:
        changed = view.astype(np.float32)
        if self.colour:
            brightness, contrast, saturation = rng.uniform(-1, 1, 3) * self.colour
            gains = 1 + rng.uniform(-1, 1, 3) * self.colour / 2
            grey = cv2.cvtColor(changed, cv2.COLOR_RGB2GRAY)[..., None].astype(np.float32)
            changed = grey + (changed - grey) * np.float32(1 + saturation)
            changed *= (gains * (1 + contrast)).astype(np.float32)
            changed += np.float32(127.5 * (brightness - contrast))
            changed[~view.any(2)] = 0  # the black around the endoscope's circle stays black
        if rng.random() < self.blur:
            blurred = cv2.GaussianBlur(changed, (0, 0), rng.uniform(0.3, 1.2))
            changed = blurred.astype(np.float32, copy=False)
        if self.noise:
            noise = rng.standard_normal(changed.shape, np.float32)
            changed += noise * np.float32(rng.uniform(0, self.noise))
        levels: NDArray[np.uint8] = np.clip(changed + 0.5, 0, 255).astype(np.uint8)
        return levels


def _centre(
    mask: NDArray[np.uint8], half: NDArray[np.float64], rng: Generator, label: int | None
) -> NDArray[np.float64]:
    """(x, y) in the picture of the view's middle; the view stays inside where it fits."""
    low, high = half - 0.5, np.array(mask.shape[::-1]) - half - 0.5
    centre: NDArray[np.float64] = rng.uniform(low, high)
    pixels = np.flatnonzero(mask == label) if label is not None else ()
    if len(pixels):
        y, x = divmod(int(rng.choice(pixels)), mask.shape[1])
        centre = np.clip(rng.normal((x, y), half / 2), low, high)
    return centre
