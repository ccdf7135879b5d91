# SPDX-License-Identifier: Apache-2.0
"""A picture with its mask and instruments drawn over it, for people's eyes."""

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.detections import Instrument
from surgseg_ros.core.labels import BACKGROUND, LABELS, NO_DECISION, PALETTE

_OPACITY: Final = 0.45
_DIMMED: Final = 0.5
"""Brightness of pixels without a decision."""


def draw_overlay(
    image: NDArray[np.uint8], mask: NDArray[np.uint8], instruments: Sequence[Instrument] = ()
) -> NDArray[np.uint8]:
    """
    Blend the classes' colours into a picture, and draw the instruments' boxes and names.

    Background stays as it is; pixels without a decision are dimmed and grey.

    :param image: (H, W, 3) uint8 RGB.
    :param mask: (H, W) uint8 class index or NO_DECISION.
    :param instruments: what to draw boxes of.
    :return: (H, W, 3) uint8 RGB, a new array.
    """
    canvas = image.copy()
    classed = (mask != BACKGROUND) & (mask != NO_DECISION)
    blended = cv2.addWeighted(image, 1 - _OPACITY, PALETTE[mask], _OPACITY, 0)
    np.copyto(canvas, blended, where=classed[..., None])
    undecided = mask == NO_DECISION
    if undecided.any():
        grey = (image.mean(2, keepdims=True) * _DIMMED).astype(np.uint8)
        np.copyto(canvas, grey, where=undecided[..., None])
    for instrument in instruments:
        _draw_instrument(canvas, instrument)
    return canvas


def _draw_instrument(canvas: NDArray[np.uint8], instrument: Instrument) -> None:
    box = instrument.box
    thickness = max(1, canvas.shape[0] // 360)
    scale = canvas.shape[0] / 1000
    colour = tuple(int(value) for value in PALETTE[instrument.label])
    rectangle = (
        (box.center_x_px, box.center_y_px),
        (box.size_x_px, box.size_y_px),
        float(np.degrees(box.angle_rad)),
    )
    corners = np.rint(cv2.boxPoints(rectangle)).astype(np.int32)
    cv2.polylines(canvas, [corners], True, colour, thickness, cv2.LINE_AA)
    text = f'{LABELS[instrument.label]} {instrument.score:.2f}'
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
    x = int(np.clip(corners[:, 0].min(), 0, max(0, canvas.shape[1] - width)))
    y = int(np.clip(corners[:, 1].min() - thickness, height, canvas.shape[0] - thickness))
    for shade, extra in (((0, 0, 0), 2 * thickness), (colour, 0)):
        cv2.putText(
            canvas,
            text,
            (x, y),
            cv2.FONT_HERSHEY_SIMPLEX,
            scale,
            shade,
            thickness + extra,
            cv2.LINE_AA,
        )
