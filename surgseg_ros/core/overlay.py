# SPDX-License-Identifier: Apache-2.0
"""Draws masks, instruments and their points over images, for people's eyes."""

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.detections import Instrument
from surgseg_ros.core.labels import BACKGROUND, LABELS, NO_DECISION, PALETTE

_OPACITY: Final = 0.5
_DIMMED: Final = 0.5
"""Brightness of pixels without a decision."""
_FONT: Final = cv2.FONT_HERSHEY_SIMPLEX
_LUMA: Final = (0.299, 0.587, 0.114)


def draw_overlay(
    image: NDArray[np.uint8], mask: NDArray[np.uint8], instruments: Sequence[Instrument] = ()
) -> NDArray[np.uint8]:
    """
    Blend the colours of the classes into an image, and draw boxes and names of instruments.

    Background is unchanged; pixels without a decision are dimmed and grey.

    :param image: (H, W, 3) uint8 RGB.
    :param mask: (H, W) uint8 class index or NO_DECISION.
    :param instruments: those to draw.
    :return: (H, W, 3) uint8 RGB, a new array.
    """
    canvas = image.copy()
    colours = cv2.applyColorMap(mask, PALETTE[:, None])
    blended = cv2.addWeighted(image, 1 - _OPACITY, colours, _OPACITY, 0)
    undecided = mask == NO_DECISION
    classed = (mask != BACKGROUND) & ~undecided
    cv2.copyTo(blended, classed.view(np.uint8), canvas)
    if undecided.any():
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        dimmed = cv2.convertScaleAbs(grey, alpha=_DIMMED)
        cv2.copyTo(cv2.cvtColor(dimmed, cv2.COLOR_GRAY2RGB), undecided.view(np.uint8), canvas)
    for instrument in instruments:
        _draw_instrument(canvas, instrument)
    return canvas


def _draw_instrument(canvas: NDArray[np.uint8], instrument: Instrument) -> None:
    box = instrument.box
    thickness = max(1, canvas.shape[0] // 360)
    colour = tuple(int(value) for value in PALETTE[instrument.label])
    rectangle = (
        (box.center_x_px, box.center_y_px),
        (box.size_x_px, box.size_y_px),
        float(np.degrees(box.angle_rad)),
    )
    corners = np.rint(cv2.boxPoints(rectangle)).astype(np.int32)
    cv2.polylines(canvas, [corners], True, colour, thickness, cv2.LINE_AA)
    _draw_tag(canvas, corners, f'{LABELS[instrument.label]} {instrument.score:.2f}', colour)


def _draw_tag(
    canvas: NDArray[np.uint8], corners: NDArray[np.int32], text: str, colour: tuple[int, ...]
) -> None:
    """Write above a box, but inside the image if it is large enough."""
    scale, thickness = canvas.shape[0] / 1200, max(1, canvas.shape[0] // 540)
    (width, height), below = cv2.getTextSize(text, _FONT, scale, thickness)
    left = int(np.clip(corners[:, 0].min(), 0, max(0, canvas.shape[1] - width)))
    bottom = int(np.clip(corners[:, 1].min(), height + below, canvas.shape[0])) - below
    tag = (left, bottom - height), (left + width, bottom + below)
    cv2.rectangle(canvas, *tag, colour, cv2.FILLED)
    ink = (0, 0, 0) if np.dot(colour, _LUMA) > 127 else (255, 255, 255)
    cv2.putText(canvas, text, (left, bottom), _FONT, scale, ink, thickness, cv2.LINE_AA)
