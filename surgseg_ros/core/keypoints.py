# SPDX-License-Identifier: Apache-2.0
"""Keypoints of an instrument that a controller needs: tips, joints, ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple
from warnings import warn

import numpy as np

from surgseg_ros.core.segmentation import Field, Points

_HALF_PIXEL: Final = 0.5

SIGMA_PX: Final = 20.0
"""Standard deviation of a keypoint whose score is 0.5."""


class KeypointKind(IntEnum):
    """The kind of a keypoint; names and numbers are those of KEYPOINT_LABELS."""

    TIP = 20
    LEFT_JAW_TIP = 21
    RIGHT_JAW_TIP = 22
    JAW_PIVOT = 23
    WRIST_JOINT = 24
    SHAFT_ENTRY = 25
    LEFT_SHAFT_EDGE = 26
    RIGHT_SHAFT_EDGE = 27
    SHAFT_AXIS = 28
    NEEDLE_POINT = 29
    NEEDLE_TAIL = 30
    NEEDLE_MIDDLE = 31
    NEEDLE_CENTRE = 32
    NEEDLE_THREAD_END = 33
    THREAD_END = 34
    THREAD_LINE = 35
    CENTRE = 36


class Keypoint(NamedTuple):
    """
    A keypoint of an instrument.

    :param kind: the kind of keypoint.
    :param x_px: column; integers are centres of pixels.
    :param y_px: row.
    :param angle_rad: direction, from x towards y; 0 if the keypoint has no direction.
    :param sigma_px: standard deviation of x and of y.
    :param is_hidden: whether something else covers the keypoint.
    :param is_beyond: whether the keypoint lies outside the image.
    """

    kind: KeypointKind
    x_px: float
    y_px: float
    angle_rad: float = 0.0
    sigma_px: float = 0.0
    is_hidden: bool = False
    is_beyond: bool = False

    @property
    def score(self) -> float:
        """Confidence, 0..1: 1 for a standard deviation of 0, 0.5 for one of SIGMA_PX."""
        return SIGMA_PX / (SIGMA_PX + self.sigma_px) if not self.is_hidden else 0.0

    @property
    def xy_px(self) -> Points:
        """(2,) x and y."""
        return np.array([self.x_px, self.y_px])

    @property
    def place(self) -> Points:
        """Former name of `xy_px`."""
        warn('Keypoint.place is now xy_px', DeprecationWarning, stacklevel=2)
        return self.xy_px


@dataclass(frozen=True)
class Geometry:
    """
    Keypoints and measures of an instrument.

    :param keypoints: its keypoints, sorted by kind.
    :param opening_deg: angle between the jaws; None if they are not visible.
    :param shaft_width_px: width of the shaft at its end; None without a shaft.
    :param needle_radius_px: radius of the circle fitted to a needle; None for other classes.
    """

    keypoints: tuple[Keypoint, ...] = ()
    opening_deg: float | None = None
    shaft_width_px: float | None = None
    needle_radius_px: float | None = None


def hide_tip(points: Sequence[Keypoint]) -> tuple[Keypoint, ...]:
    """
    Flag the tip between two jaws as hidden if the tip of either jaw is hidden.

    :param points: the keypoints of an instrument.
    :return: the same keypoints.
    """
    jaws = (KeypointKind.LEFT_JAW_TIP, KeypointKind.RIGHT_JAW_TIP)
    hidden = any(point.kind in jaws and point.is_hidden for point in points)
    tip = KeypointKind.TIP
    return tuple(p._replace(is_hidden=True) if hidden and p.kind == tip else p for p in points)


def make_point(
    kind: KeypointKind, position: Points, direction: Points, sigma_px: float, field: Field
) -> Keypoint:
    """
    Create a keypoint, and determine whether it lies outside the field.

    :param kind: the kind of keypoint.
    :param position: (2,) x and y in pixels.
    :param direction: (2,) direction; not normalized.
    :param sigma_px: standard deviation of x and of y.
    :param field: the visible part of the image.
    :return: the keypoint.
    """
    x, y = map(float, position)
    beyond = float(field.gaps(position)) < -_HALF_PIXEL
    angle = math.atan2(float(direction[1]), float(direction[0]))
    return Keypoint(kind, x, y, angle, sigma_px, is_beyond=beyond)
