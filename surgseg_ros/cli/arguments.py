# SPDX-License-Identifier: Apache-2.0
"""
The types of the verbs' options for argparse, and help texts that several verbs share.

Each type converts the text of an option to its value, or raises ArgumentTypeError, which names the
text and the remedy.
"""

import argparse
import math
import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Final

from surgseg_ros.core.model_folder import DEFAULT_MODEL

MODEL_HELP: Final = (
    f'the model folder; {DEFAULT_MODEL}, which is also the default, comes with the package'
)

PRECISION_HELP: Final = 'auto: that of the export, and f32 without one (default: auto)'

LATEST_S: Final = 2**31 - 1
"""Largest time of a stamp in ROS: its seconds are a signed 32-bit integer."""


def positive_int(text: str) -> int:
    """Read a whole number from 1 on."""
    value = _whole(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'{text!r} must be at least 1')
    return value


def non_negative_int(text: str) -> int:
    """Read a whole number from 0 on."""
    value = _whole(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f'{text!r} must be at least 0')
    return value


def jpeg_quality(text: str) -> int:
    """Read a quality, from 1 to 100."""
    value = _whole(text)
    if not 1 <= value <= 100:
        raise argparse.ArgumentTypeError(f'{text!r} must be from 1 to 100')
    return value


def positive_float(text: str) -> float:
    """Read a finite number above 0."""
    value = _number(text)
    if not 0 < value < math.inf:  # NaN is not either
        raise argparse.ArgumentTypeError(f'{text!r} must be above 0, and finite')
    return value


def non_negative_float(text: str) -> float:
    """Read a finite number from 0 on."""
    value = _number(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f'{text!r} must be 0 or more, and finite')
    return value


def fraction(text: str) -> float:
    """Read a number from 0 to 1."""
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f'{text!r} must be from 0 to 1')
    return value


def image_size(text: str) -> tuple[int, int]:
    """Read a size such as 1920x1080 into (width, height), in pixels."""
    width, _, height = text.lower().partition('x')
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f'{text!r} is not a size: write it like 1920x1080')
    return int(width), int(height)


def image_size_from(side_px: int) -> Callable[[str], tuple[int, int]]:
    """Return a type that reads a size such as 1920x1080, with sides of at least `side_px`."""

    def read(text: str) -> tuple[int, int]:
        size = image_size(text)
        if min(size) < side_px:
            raise argparse.ArgumentTypeError(f'{text!r} is too small: {side_px} pixels at least')
        return size

    return read


def topic_name(text: str) -> str:
    """Read the full name of a topic."""
    if not re.fullmatch(r'(/[A-Za-z_][A-Za-z0-9_]*)+', text):
        raise argparse.ArgumentTypeError(
            f'{text!r} is not the name of a topic such as /left/image_raw'
        )
    return text


def stamp_ns(text: str) -> int:
    """Convert seconds that a stamp can represent to nanoseconds, exactly."""
    try:
        value = Decimal(text)
    except InvalidOperation as error:
        raise argparse.ArgumentTypeError(f'{text!r} is not a number of seconds') from error
    if not value.is_finite() or not 0 < value <= LATEST_S:
        raise argparse.ArgumentTypeError(
            f'{text!r} is not within 1e-9 to {LATEST_S}: in ROS, 0 means that there is no time'
        )
    return int(value * 10**9)


def svg_file(text: str) -> Path:
    """Read the path of a plot."""
    if not text.endswith('.svg'):
        raise argparse.ArgumentTypeError(f'{text!r} does not end in .svg, the format of the plot')
    return Path(text)


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number') from error


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f'{text!r} is not a number') from error
