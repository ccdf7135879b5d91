# SPDX-License-Identifier: Apache-2.0
"""An image and its mask, painted together from the back to the front."""

import math
from collections.abc import Sequence

import cv2
import numpy as np

from surgseg_ros.training.scenes.drawing import Image, Patch
from surgseg_ros.training.scenes.noise import FloatImage


class Canvas:
    """
    An image and its mask, painted from the back to the front.

    :param image: (H, W, 3) uint8 RGB, painted in place.
    """

    def __init__(self, image: Image) -> None:
        self.image = image
        self.mask: Image = np.zeros(image.shape[:2], np.uint8)

    def paint(self, patch: Patch) -> None:
        """Paint a patch over what is there; at least half covered pixels take its class."""
        height, width = patch.rgba.shape[:2]
        area = np.s_[patch.y : patch.y + height, patch.x : patch.x + width]
        alpha = patch.rgba[..., 3]
        rest = cv2.cvtColor(cv2.bitwise_not(alpha), cv2.COLOR_GRAY2RGB)
        below = cv2.multiply(self.image[area], rest, scale=1 / 255)
        self.image[area] = cv2.add(below, np.ascontiguousarray(patch.rgba[..., :3]))
        self.mask[area][alpha >= 128] = patch.label

    def shadow(
        self, patches: Sequence[Patch], offset: tuple[float, float], soft: float, depth: float
    ) -> None:
        """
        Darken what lies below patches that are about to be painted.

        :param patches: what throws the shadow.
        :param offset: by which the shadow is shifted, in image heights.
        :param soft: the blur's deviation, in image heights.
        :param depth: 0 for none, 1 for black.
        """
        height, width = self.mask.shape
        small = height / 90
        size = (round(width / small), 90)
        dark: FloatImage = np.zeros((size[1], size[0]), np.float32)
        for patch in patches:
            matrix = np.array(
                [
                    [1 / small, 0, (patch.x + 0.5 + offset[0] * height) / small - 0.5],
                    [0, 1 / small, (patch.y + 0.5 + offset[1] * height) / small - 0.5],
                ]
            )
            alpha = cv2.blur(patch.rgba[..., 3], (max(1, round(small)),) * 2)
            dark = np.maximum(dark, cv2.warpAffine(alpha, matrix, size).astype(np.float32))
        dark = np.asarray(cv2.GaussianBlur(dark, (0, 0), soft * 90), np.float32)
        box = cv2.boundingRect((dark > 1).astype(np.uint8))
        if box[2] == 0:
            return
        edges = [math.floor(edge * small) for edge in (*box[:2], box[0] + box[2], box[1] + box[3])]
        self._darken(dark * np.float32(depth / 255), small, edges)

    def _darken(self, dark: FloatImage, small: float, edges: Sequence[int]) -> None:
        left, top, right, bottom = edges
        matrix = np.array(
            [[1 / small, 0, (left + 0.5) / small - 0.5], [0, 1 / small, (top + 0.5) / small - 0.5]]
        )
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        size = (right - left, bottom - top)
        border = cv2.BORDER_REPLICATE
        gain = cv2.warpAffine(1 - dark, matrix, size, flags=flags, borderMode=border)
        area = self.image[top:bottom, left:right]
        factors = cv2.cvtColor(gain, cv2.COLOR_GRAY2RGB)
        area[:] = cv2.multiply(area, factors, dtype=cv2.CV_8U)

    def smear(self, patches: Sequence[Patch], motion_px: tuple[float, float]) -> None:
        """
        Blur the image, not the mask, along a motion, where the patches are.

        :param patches: what moved, painted already.
        :param motion_px: the way (x, y) during the exposure.
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
    """Make the kernel of a straight motion."""
    extent = math.ceil(length_px / 2) + 1
    down, across = np.mgrid[-extent : extent + 1, -extent : extent + 1].astype(np.float32)
    along = across * math.cos(angle) + down * math.sin(angle)
    sideways = down * math.cos(angle) - across * math.sin(angle)
    weights = np.clip(length_px / 2 + 0.5 - np.abs(along), 0, 1) * np.clip(
        1 - np.abs(sideways), 0, 1
    )
    return np.asarray(weights / weights.sum(), np.float32)
