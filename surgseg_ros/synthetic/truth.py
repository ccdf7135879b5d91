# SPDX-License-Identifier: Apache-2.0
"""Ground truth of the instruments in a scene, whether they are visible or not."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.geometry import window
from surgseg_ros.core.keypoints import Geometry, Keypoint, KeypointKind, hide_tip

Position = tuple[float, float]
"""x and y in units."""


@dataclass(frozen=True)
class Truth:
    """
    The ground truth of an object at a time, in units.

    :param label: a key of LABELS.
    :param points: kind, position in units, and direction in radians of each keypoint.
    :param opening_deg: angle between its jaws.
    :param shaft_width: width of its shaft at the end, in units.
    :param radius: radius of a needle, in units.
    :param taper: relative growth of its shaft's width per unit, away from the tip.
    """

    label: int
    points: Sequence[tuple[KeypointKind, Position, float]]
    opening_deg: float | None = None
    shaft_width: float | None = None
    radius: float | None = None
    taper: float = 0.0


@dataclass(frozen=True)
class TrueInstrument:
    """
    The ground truth of an instrument in a scene, including what is not visible.

    :param number: value of its pixels in `Frame.instances`; the same in all frames of the scene.
    :param label: a key of LABELS.
    :param geometry: its keypoints; `is_hidden` is set if none of its pixels is near.
    :param tip_m: x, y and z of its tip in the first camera's optical frame, in a stereo scene.
    :param axis: unit vector along its shaft to the tip, in the same frame.
    """

    number: int
    label: int
    geometry: Geometry
    tip_m: tuple[float, float, float] | None = None
    axis: tuple[float, float, float] | None = None


_NEAR: Final = 0.006
"""A keypoint is hidden if no pixel of its instrument is within this distance, in image heights."""


def true_geometry(truth: Truth, own: NDArray[np.bool_]) -> Geometry:
    """
    Convert units to pixels, and determine which keypoints are hidden or outside the image.

    :param truth: ground truth of an instrument.
    :param own: (H, W) mask of its pixels.
    :return: the geometry; an object without keypoints gets the centre of its pixels.
    """
    height, width = own.shape
    radius_px = max(1, round(_NEAR * height))
    points = []
    has_jaws = any(kind == KeypointKind.LEFT_JAW_TIP for kind, _, _ in truth.points)
    for kind, position, angle in truth.points:
        x, y = (value * height - 0.5 for value in position)
        beyond = not (-1 <= x <= width and -1 <= y <= height)
        column, row = (min(max(0, round(v)), n - 1) for v, n in ((x, width), (y, height)))
        near = window(own, row, column, radius_px)
        free = kind == KeypointKind.NEEDLE_CENTRE or (kind == KeypointKind.TIP and has_jaws)
        hidden = not beyond and not free and not near.any()
        points.append(Keypoint(kind, x, y, angle, 0.0, hidden, beyond))
    if not points:
        x, y = (float(np.average(np.arange(len(n)), weights=n)) for n in (own.sum(0), own.sum(1)))
        points.append(Keypoint(KeypointKind.CENTRE, x, y))
    return Geometry(
        hide_tip(points),
        truth.opening_deg,
        None if truth.shaft_width is None else truth.shaft_width * height,
        None if truth.radius is None else truth.radius * height,
    )
