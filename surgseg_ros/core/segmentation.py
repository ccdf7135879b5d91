# SPDX-License-Identifier: Apache-2.0
"""What a picture becomes, and the part of it that is looked at; light to import."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.labels import NO_DECISION


@dataclass(frozen=True)
class Roi:
    """
    The part of the picture that is the endoscope's, in pixels.

    :param x_px: first column.
    :param y_px: first row.
    :param width_px: columns.
    :param height_px: rows.
    """

    x_px: int
    y_px: int
    width_px: int
    height_px: int

    def view(self, plane: NDArray[Any]) -> NDArray[Any]:
        """
        Show this part of an array without a copy.

        :param plane: (H, W, …).
        :return: (height_px, width_px, …).
        :raises ValueError: if it reaches beyond the array.
        """
        bottom, right = self.y_px + self.height_px, self.x_px + self.width_px
        fits = (
            0 <= self.y_px < bottom <= plane.shape[0] and 0 <= self.x_px < right <= plane.shape[1]
        )
        if not fits:
            raise ValueError(
                f'{self} reaches beyond the picture of {plane.shape[1]}x{plane.shape[0]} pixels: '
                'set roi to [x, y, width, height] inside it, or to [0, 0, 0, 0] for all of it'
            )
        return plane[self.y_px : bottom, self.x_px : right]


@dataclass(frozen=True)
class Segmentation:
    """
    What the network says of one picture.

    :param mask: (H, W) uint8 class index, or NO_DECISION.
    :param confidence: (H, W) uint8, probability of the chosen class times 255, where asked for.
    :param stage_ms: milliseconds by stage, in the order of work.
    """

    mask: NDArray[np.uint8]
    confidence: NDArray[np.uint8] | None = None
    stage_ms: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def undecided(cls, size: tuple[int, int]) -> 'Segmentation':
        """
        Say that nothing is known of a picture.

        :param size: (H, W) of the picture in pixels.
        :return: a mask of NO_DECISION with confidence 0.
        """
        return cls(np.full(size, NO_DECISION, np.uint8), np.zeros(size, np.uint8))
