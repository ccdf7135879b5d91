# SPDX-License-Identifier: Apache-2.0
"""Draws masks, instruments and their keypoints over images, for display."""

from collections.abc import Mapping, Sequence
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.detections import Instrument
from surgseg_ros.core.keypoints import Geometry, Keypoint, KeypointKind
from surgseg_ros.core.labels import BACKGROUND, LABELS, NO_DECISION, PALETTE
from surgseg_ros.core.rgb_images import check_image, check_mask

_OPACITY: Final = 0.5
_DIMMED: Final = 0.5
"""Brightness of pixels without a decision."""
_FONT: Final = cv2.FONT_HERSHEY_SIMPLEX
_AA: Final = cv2.LINE_AA
_SHIFT: Final = 3
_MAX_DISTANCE_PX: Final = 1e5
_LUMA: Final = (0.299, 0.587, 0.114)


_DOTS: Final = (
    KeypointKind.TIP,
    KeypointKind.LEFT_JAW_TIP,
    KeypointKind.RIGHT_JAW_TIP,
    KeypointKind.JAW_PIVOT,
    KeypointKind.WRIST_JOINT,
    KeypointKind.NEEDLE_POINT,
    KeypointKind.NEEDLE_TAIL,
    KeypointKind.THREAD_END,
    KeypointKind.CENTRE,
)


def draw_overlay(
    image: NDArray[np.uint8],
    mask: NDArray[np.uint8],
    instruments: Sequence[Instrument] = (),
    geometries: Sequence[Geometry] = (),
) -> NDArray[np.uint8]:
    """
    Blend the colours of the classes into an image, and draw boxes, names, ids and keypoints.

    Background is unchanged; pixels without a decision are dimmed and grey. Axes of tools, arcs of
    needles and lines of threads are drawn; hidden keypoints are drawn as rings, others as dots.

    :param image: (H, W, 3) uint8 RGB.
    :param mask: (H, W) uint8 class index or NO_DECISION.
    :param instruments: the instruments to draw.
    :param geometries: their keypoints, as `find_geometries` returns them.
    :return: (H, W, 3) uint8 RGB, a new array.
    :raises TypeError: if image or mask is not a NumPy array, or `instruments` is None.
    :raises ValueError: if image or mask has another shape or dtype.
    """
    _check(image, mask, instruments)
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
    for geometry in geometries:
        _draw_geometry(canvas, geometry)
    return canvas


def _check(
    image: NDArray[np.uint8], mask: NDArray[np.uint8], instruments: Sequence[Instrument] | None
) -> None:
    if np.ndim(image) == 2 and np.ndim(mask) == 3:
        raise ValueError(
            f'the image is {np.shape(image)}, and the mask {np.shape(mask)}: swap them, '
            'draw_overlay(image, mask)'
        )
    check_image(image)
    check_mask(mask, (image.shape[0], image.shape[1]))
    if instruments is None:
        raise TypeError(
            'instruments is None: request them, segment(image, instruments=True), or leave them '
            'out'
        )


def _draw_geometry(canvas: NDArray[np.uint8], geometry: Geometry) -> None:
    """Draw the lines and keypoints of an instrument, white on black."""
    points = {point.kind: point for point in geometry.keypoints}
    lines = [
        [(points[kind].x_px, points[kind].y_px) for kind in chain if kind in points]
        for chain in _chains(points)
    ]
    of_thread = [p for p in geometry.keypoints if p.kind == KeypointKind.THREAD_LINE]
    lines.append([(point.x_px, point.y_px) for point in of_thread])
    lines.append(_arc(points))
    thickness = max(1, canvas.shape[0] // 540)
    drawn = [_fixed(line) for line in lines if len(line) > 1]
    for ink, wider in (((0, 0, 0), 2), ((255, 255, 255), 0)):
        cv2.polylines(canvas, drawn, False, ink, thickness + wider, cv2.LINE_AA, _SHIFT)
    radius = max(3, canvas.shape[0] // 180)
    for point in geometry.keypoints:
        if point.kind in _DOTS and not point.is_beyond:
            (centre,) = _fixed([(point.x_px, point.y_px)])
            cv2.circle(canvas, centre, radius << _SHIFT, (0, 0, 0), thickness + 2, _AA, _SHIFT)
            filled = thickness if point.is_hidden else cv2.FILLED
            cv2.circle(canvas, centre, radius << _SHIFT, (255, 255, 255), filled, _AA, _SHIFT)


def _chains(points: Mapping[KeypointKind, Keypoint]) -> list[tuple[KeypointKind, ...]]:
    """List the keypoints of a tool that are connected by lines."""
    kinds = KeypointKind
    end = kinds.WRIST_JOINT if kinds.WRIST_JOINT in points else kinds.SHAFT_AXIS
    jaws = (kinds.LEFT_JAW_TIP, kinds.RIGHT_JAW_TIP)
    return [(kinds.SHAFT_ENTRY, end, kinds.JAW_PIVOT), *((kinds.JAW_PIVOT, jaw) for jaw in jaws)]


def _arc(points: Mapping[KeypointKind, Keypoint]) -> list[tuple[float, float]]:
    """Return points on a needle from its tail over its middle to its point; empty without one."""
    kinds = KeypointKind
    if kinds.NEEDLE_CENTRE not in points:
        return []
    centre = points[kinds.NEEDLE_CENTRE]
    ends = [points[kind] for kind in (kinds.NEEDLE_TAIL, kinds.NEEDLE_MIDDLE, kinds.NEEDLE_POINT)]
    away = np.array([[end.x_px - centre.x_px, end.y_px - centre.y_px] for end in ends])
    angles = np.unwrap(np.arctan2(away[:, 1], away[:, 0]))
    at = np.linspace(0, 2, 25)
    angle = np.interp(at, range(3), angles)
    radius = np.interp(at, range(3), np.hypot(*away.T))
    x, y = centre.x_px + radius * np.cos(angle), centre.y_px + radius * np.sin(angle)
    return list(zip(x.tolist(), y.tolist()))


def _fixed(points: Sequence[tuple[float, float]]) -> NDArray[np.int32]:
    """Convert to OpenCV's fixed-point coordinates; far beyond the image they would overflow."""
    limited = np.clip(np.array(points), -_MAX_DISTANCE_PX, _MAX_DISTANCE_PX)
    return np.asarray(np.rint(limited * (1 << _SHIFT)), np.int32)


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
    number = f' #{instrument.track_id}' if instrument.track_id else ''
    text = f'{LABELS[instrument.label]}{number} {instrument.score:.2f}'
    _draw_tag(canvas, corners, text, colour)


def _draw_tag(
    canvas: NDArray[np.uint8], corners: NDArray[np.int32], text: str, colour: tuple[int, ...]
) -> None:
    """Write text above a box, or inside the image if the box is at its border."""
    scale, thickness = canvas.shape[0] / 1200, max(1, canvas.shape[0] // 540)
    (width, height), below = cv2.getTextSize(text, _FONT, scale, thickness)
    left = int(np.clip(corners[:, 0].min(), 0, max(0, canvas.shape[1] - width)))
    bottom = int(np.clip(corners[:, 1].min(), height + below, canvas.shape[0])) - below
    tag = (left, bottom - height), (left + width, bottom + below)
    cv2.rectangle(canvas, *tag, colour, cv2.FILLED)
    ink = (0, 0, 0) if np.dot(colour, _LUMA) > 127 else (255, 255, 255)
    cv2.putText(canvas, text, (left, bottom), _FONT, scale, ink, thickness, cv2.LINE_AA)
