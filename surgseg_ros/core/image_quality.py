# SPDX-License-Identifier: Apache-2.0
"""Measures of the quality of an image, each computed from a small sample of the image."""

import math
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.uint8]

_SMALL_ROWS: Final = 72
_STRIPS: Final = 24
_STRIP_ROWS: Final = 8
_BLOCK_COLUMNS: Final = 32

_LIT: Final = 24
"""A pixel is dark if all its channels are below this, as outside the endoscope's circle."""

_BLACK: Final = 16
"""Maximum grey level of black borders; 16 is the black of video of limited range."""

_EDGE_COLUMNS: Final = 2
"""Columns of the profile beside a black one that the edge of a border may reach into."""

_CLIPPED: Final = 250
_PROFILE_COLUMNS: Final = 320
_LAG: Final = 4
_FLAT: Final = 5
_MIN_COMB: Final = 4.0


class ImageSample(NamedTuple):
    """
    A sample of an image, from which all measures are computed.

    :param planes: red, green and blue, (h, w) uint8 each, with about 72 rows, from evenly spaced
        rows of the image.
    :param lit: (h, w) bool, False for dark pixels.
    :param strips: (24, 8, W) uint8 grey, unscaled rows of the image, spread over it; fewer rows
        per strip if the image has fewer.
    :param height_px: rows of the image.
    """

    planes: tuple[Plane, Plane, Plane]
    lit: NDArray[np.bool_]
    strips: NDArray[np.uint8]
    height_px: int


def sample_image(image: NDArray[np.uint8]) -> ImageSample:
    """
    Sample an image.

    :param image: (H, W, 3) uint8 RGB; rows may be padded, it is not modified.
    :return: the sample, which has no view of the image.
    """
    height, width = image.shape[:2]
    rows = min(height, _SMALL_ROWS)
    sparse = np.ascontiguousarray(image[:: max(1, height // _SMALL_ROWS)])
    size = (max(1, round(width * rows / height)), rows)
    small = cv2.resize(sparse, size, interpolation=cv2.INTER_AREA)
    red, green, blue = (np.asarray(plane, np.uint8) for plane in cv2.split(small))
    lit = cv2.max(cv2.max(red, green), blue) >= _LIT

    tall = min(height, _STRIP_ROWS)
    starts = np.linspace(0.03 * height, 0.97 * height - tall, _STRIPS).clip(0, height - tall)
    chosen = (starts.astype(np.intp)[:, None] + np.arange(tall)).ravel()
    strips = cv2.cvtColor(image[chosen], cv2.COLOR_RGB2GRAY).reshape(_STRIPS, tall, width)
    return ImageSample((red, green, blue), lit, np.asarray(strips, np.uint8), height)


def dark_share(sample: ImageSample) -> float:
    """
    Measure darkness.

    :param sample: sample of the image.
    :return: the share of dark pixels, below 24 in every channel, 0..1.
    """
    return float(1 - sample.lit.mean())


def clipped_share(sample: ImageSample) -> float:
    """
    Measure overexposure; red alone is clipped in many good images of tissue.

    :param sample: sample of the image.
    :return: share of the lit pixels with two channels at 250 or more, 0..1.
    """
    return _share(sample, _clipped(sample))


def not_red_share(sample: ImageSample) -> float:
    """
    Measure how little an image looks like the inside of a body, where red dominates.

    :param sample: sample of the image.
    :return: the share of the pixels that are neither dark nor clipped whose red is not 8 (and not
        15 %) above green and blue, 0..1.
    """
    red, other = _red_and_other(sample)
    seen = sample.lit & ~_clipped(sample)
    total = np.count_nonzero(seen)
    pale = seen & (red <= other + np.minimum(np.float32(0.15) * other, 8))
    return float(np.count_nonzero(pale) / total) if total else 0.0


def haze(sample: ImageSample) -> float:
    """
    Measure smoke, with the dark channel prior.

    He, Sun, Tang, "Single Image Haze Removal Using Dark Channel Prior", CVPR 2009: without haze,
    nearly every patch has a pixel that is dark in some channel.

    :param sample: sample of the image.
    :return: the 30 % quantile, over the lit image, of the smallest channel in patches of 7x7 small
        pixels, 0..1.
    """
    red, green, blue = sample.planes
    dark = cv2.erode(cv2.min(cv2.min(red, green), blue), np.ones((7, 7), np.uint8))
    levels = np.bincount(dark[sample.lit], minlength=256).cumsum()
    return float(np.searchsorted(levels, 0.3 * levels[-1]) / 255)


def blood_share(sample: ImageSample) -> float:
    """
    Measure blood, which is deep red and, on the lens, without structure.

    :param sample: sample of the image.
    :return: the share of the lit pixels whose red is four times green and blue, in areas of 5x5
        small pixels that differ by less than 8 % (and 1.5) from their mean, 0..1.
    """
    red, other = _red_and_other(sample)
    mean = cv2.blur(red, (_FLAT, _FLAT))
    variance = cv2.blur(red * red, (_FLAT, _FLAT)) - mean * mean
    return _share(sample, (red >= 4 * other) & (variance < (0.08 * mean + 1.5) ** 2))


def sharpness(sample: ImageSample) -> float:
    """
    Measure focus: the variation within one column relative to that within four columns.

    The ratio of two structure functions, that is of root mean square differences at two
    distances, of rows that are averaged to 320 columns. A blurred edge is a slope: the ratio
    tends to 1/4, regardless of contrast and light. Black borders and their edges, which are
    sharp in a blurred image, do not count.

    :param sample: sample of the image.
    :return: about 0.25 (blurred) to 1 (noise); 1 if the image is uniform.
    """
    rows = max(1, min(sample.strips.shape[1], sample.height_px // 360))
    profile = sample.strips[:, :rows].sum(1, dtype=np.uint16) / np.float32(rows)
    columns = min(_PROFILE_COLUMNS, profile.shape[1])
    profile = np.asarray(
        cv2.resize(profile, (columns, len(profile)), interpolation=cv2.INTER_AREA), np.float32
    )
    if columns <= _LAG:
        return 1.0
    black = (profile <= _BLACK).astype(np.uint8)
    black = np.asarray(cv2.dilate(black, np.ones((1, 2 * _EDGE_COLUMNS + 1), np.uint8)), np.uint8)
    near, far = (_mean_square_difference(profile, black, lag) for lag in (1, _LAG))
    return math.sqrt(near / far) if far > 1 else 1.0


def _mean_square_difference(
    profile: NDArray[np.float32], black: NDArray[np.uint8], lag: int
) -> float:
    """Compare columns that are `lag` columns apart, with no black one from one to the other."""
    count = black.cumsum(1)
    inside = (count[:, lag:] == count[:, :-lag]) & (black[:, :-lag] == 0)
    squares = np.square(profile[:, lag:] - profile[:, :-lag])
    return float(squares[inside].mean()) if inside.any() else 0.0


def comb_share(sample: ImageSample) -> float:
    """
    Measure interlacing: in moving areas, a row differs from the next, but not the one after.

    :param sample: sample of the image.
    :return: the share of the blocks of 8x32 pixels, without black ones, in which neighbouring rows
        differ by more than 4, and by 1.3 times as much as rows two apart, 0..1.
    """
    if sample.strips.shape[1] < 3:
        return 0.0
    next_row, next_but_one = (_block_differences(sample.strips, step) for step in (1, 2))
    comb = (next_row > _MIN_COMB) & (next_row > 1.3 * next_but_one)
    seen = _block_means(sample.strips) > _BLACK
    return float(comb[seen].mean()) if seen.any() else 0.0


def _block_differences(strips: NDArray[np.uint8], step: int) -> NDArray[np.float32]:
    """Return the mean difference, (24, blocks), of rows that are `step` rows apart."""
    width = strips.shape[2]
    upper, lower = (np.ascontiguousarray(part) for part in (strips[:, step:], strips[:, :-step]))
    both = (part.reshape(-1, width) for part in (upper, lower))
    return _block_means(np.asarray(cv2.absdiff(*both), np.uint8).reshape(upper.shape))


def _block_means(strips: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the mean, (24, blocks), of the rows of a strip in blocks of 32 columns."""
    count, rows, width = strips.shape
    columns = strips.sum(1, dtype=np.uint16) / np.float32(rows)
    size = (max(1, width // _BLOCK_COLUMNS), count)
    return np.asarray(cv2.resize(columns, size, interpolation=cv2.INTER_AREA), np.float32)


def _red_and_other(sample: ImageSample) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return red, and the larger of green and blue."""
    red, green, blue = sample.planes
    return red.astype(np.float32), cv2.max(green, blue).astype(np.float32)


def _clipped(sample: ImageSample) -> NDArray[np.bool_]:
    """Return where two channels are clipped."""
    red, green, blue = sample.planes
    second = cv2.max(cv2.min(red, green), cv2.min(cv2.max(red, green), blue))
    return np.asarray(second, np.uint8) >= _CLIPPED


def _share(sample: ImageSample, which: NDArray[np.bool_]) -> float:
    lit = np.count_nonzero(sample.lit)
    return float(np.count_nonzero(which & sample.lit) / lit) if lit else 0.0
