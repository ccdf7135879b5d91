# SPDX-License-Identifier: Apache-2.0
"""Splits regions of shafts that touch or cross into straight strips."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.parts import Part
from surgseg_ros.core.segmentation import MIN_CONTACT, Field, Points, select
from surgseg_ros.core.strip_candidates import (
    Candidates,
    StripArrays,
    TissueGrid,
    fill,
    find_candidates,
    sample_evenly,
)
from surgseg_ros.core.strips import Strip, angle_between, fit_strip

_MAX_FIT_ERROR: Final = 0.12
"""A region is one strip if the share of it outside, plus that of tissue inside, is smaller."""

_WEDGE: Final = 0.25
"""One whose half width changes more than this along it may also be two that form a wedge."""

_ALONE: Final = 0.55
"""Each strip, fitted again, contains at least this share of its points alone: of 15 shafts that
were split wrongly in 200 drawn frames 0.5 at most, of 14 that are two 0.61 at least."""

_ALIGNED: Final = math.cos(0.35)
_PARALLEL: Final = math.cos(0.15)
_STEP: Final = 0.35
"""What a strip leaves is a step of the same shaft if it is parallel, and at most this wide."""

_SHARE: Final = 0.06
"""Each strip covers at least this share of the region alone."""

_OWN: Final = 0.35
"""Least share of a strip that no other strip covers."""

_MAX_STRIPS: Final = 4
_POSITIONS, _FINE_POSITIONS = 64, 256
"""Number of positions at which the width of a strip is examined: of all, and of those chosen."""

_COVER_LENGTH: Final = 4.5
"""Longest bent end of a shaft, in its widths: a soft cover, and what overlaps with the shaft."""

_COVER_WIDTH: Final = 1.2
"""Largest width of a bent end, in widths of the shaft."""

_LOCAL: Final = 1.2
"""Length of the piece at the border to which a strip is fitted, in lengths of its contact."""

_QUANTILE: Final = 0.98
_BENT_RAD: Final = 0.07
_OPPOSITE_RAD: Final = 0.6
"""Two strips from opposite sides must meet at an angle, of _BENT_RAD to this."""

_MIN_POINTS: Final = 12


class _Found(NamedTuple):
    """
    One of the strips that a region consists of.

    :param strip: the strip.
    :param covered: (n,) which points of the region it contains.
    """

    strip: Strip
    covered: NDArray[np.bool_]


def split_strips(
    part: Part, tissue: TissueGrid, field: Field
) -> list[tuple[Strip, NDArray[np.bool_]]]:
    """
    Split the points of a region of shafts into strips that touch or cross.

    A region is split if a single strip does not fit it and several strips between its edges do, or
    if it consists of two strips from opposite sides of the image.

    :param part: the region; at least three points.
    :param tissue: what surrounds it.
    :param field: the visible part of the image.
    :return: each strip with an (n,) mask of its points; every point belongs to one strip.
    """
    points, whole = part.points, fit_strip(part.points, field, part.rim)
    found = []
    if abs(whole.slope) > _WEDGE or _fit_error(whole, points, tissue) > _MAX_FIT_ERROR:
        found = _choose_strips(points, tissue, field)
    found = found or _opposite_strips(part, field)
    if found:
        owner = _nearest(points, [each.strip for each in found])
        owned = [np.asarray(owner == number) for number in range(len(found))]
        if min(map(np.count_nonzero, [*owned, *(each.covered for each in found)])) >= 3:
            strips = [_refit(each, points, field) for each in found]
            if _min_alone(strips, sample_evenly(points, field.step), field.step) >= _ALONE:
                return list(zip(strips, owned))
    return [(whole, np.ones(len(points), bool))]


def _min_alone(strips: list[Strip], points: Points, step: int) -> float:
    """Return the least share of a strip's points that no other strip contains."""
    arrays = StripArrays.of(*strips)
    along, across = arrays.coordinates(points)
    inside = arrays.within(along, across, step)
    inside &= (along >= arrays.starts_px - step) & (along <= arrays.ends_px + step)
    alone = inside & (np.count_nonzero(inside, axis=1) == 1)[:, None]
    shares = np.count_nonzero(alone, axis=0) / np.maximum(1, np.count_nonzero(inside, axis=0))
    return float(shares.min())


def _refit(found: _Found, points: Points, field: Field) -> Strip:
    """Fit a strip to its points, unless that turns it: the axis of a short one is uncertain."""
    strip = fit_strip(select(points, found.covered), field)
    aligned = abs(float(strip.direction @ found.strip.direction))
    return strip if aligned > _ALIGNED or not math.isfinite(found.strip.start_px) else found.strip


def _fit_error(strip: Strip, points: Points, tissue: TissueGrid) -> float:
    """Return the share of points outside a strip, plus the share of it that is tissue."""
    along, across = strip.coordinates(points)
    outside = np.abs(across) - strip.half_at(along) > 0.75 * tissue.step
    count = max(2, min(_POSITIONS, int(strip.length_px / (2 * tissue.step))))
    positions = np.linspace(strip.start_px + tissue.step, strip.end_px - tissue.step, count)
    shares = tissue.filled_shares(StripArrays.of(strip), positions[:, None])
    seen = shares[shares >= 0]
    return np.count_nonzero(outside) / len(points) + 1 - float(seen.sum()) / max(1, len(seen))


def _choose_strips(points: Points, tissue: TissueGrid, field: Field) -> list[_Found]:
    """Choose two or more strips that cover a region; return none if it takes only one."""
    sample = sample_evenly(points, tissue.step)
    min_points = _SHARE * len(sample)
    candidates = find_candidates(points, sample, tissue, min_points)
    if not len(candidates.covered):
        return []
    chosen = _choose_candidates(candidates, min_points)
    if not chosen and np.count_nonzero(~candidates.covered[0]) < min_points:
        return []
    strips, covered = fill(candidates.strips.take(chosen or [0]), points, tissue, _FINE_POSITIONS)
    found = [_Found(strips.strip(number), own) for number, own in enumerate(covered)]
    return found if chosen else _with_rest(found[0], points, field)


def _choose_candidates(candidates: Candidates, min_points: float) -> list[int]:
    """List the numbers of two or more strips of which each covers enough alone; or none."""
    covered = candidates.covered.astype(np.float32)
    sizes = covered.sum(axis=1)
    alone = sizes[:, None] - covered @ covered.T  # (k, k) points of one that another lacks
    apart = alone >= np.maximum(min_points, _OWN * sizes)[:, None]
    apart &= apart.T

    def are_separate(first: int, second: int) -> bool:
        strips = (candidates.strips.strip(number) for number in (first, second))
        short, long = sorted(strips, key=lambda strip: strip.length_px)
        return bool(apart[first, second]) and not _is_bent_end(short, long)

    both = np.triu(np.where(apart, sizes[:, None] + alone.T, 0.0))
    order = np.argsort(-both, axis=None, kind='stable')
    large = order[: np.count_nonzero(both > sizes[0] + min_points)].tolist()
    pairs = (divmod(index, len(sizes)) for index in large)
    chosen = list(next((pair for pair in pairs if are_separate(*pair)), ()))
    while chosen and len(chosen) < _MAX_STRIPS:
        gains = np.count_nonzero(candidates.covered & ~candidates.covered[chosen].any(0), axis=1)
        order = np.argsort(-gains, kind='stable')
        others = order[: np.count_nonzero(gains >= min_points)].tolist()
        fits = (n for n in others if all(are_separate(n, known) for known in chosen))
        best = next(fits, None)
        if best is None:
            break
        chosen.append(best)
    return chosen


def _with_rest(strip: _Found, points: Points, field: Field) -> list[_Found]:
    """Add what a strip leaves of a region, if that enters the image; else return nothing."""
    rest = ~strip.covered
    if np.count_nonzero(rest) < max(3, _SHARE * len(rest)):
        return []
    beside = select(points, rest)
    if np.count_nonzero(field.touches(beside)) < MIN_CONTACT:
        return []
    other = fit_strip(beside, field)
    is_step = (
        abs(float(other.direction @ strip.strip.direction)) > _PARALLEL
        and other.width_px < _STEP * strip.strip.width_px
    )
    return [] if is_step else [strip, _Found(other, rest)]


def _is_bent_end(strip: Strip, shaft: Strip) -> bool:
    """Return whether a short strip continues a shaft beyond its end, as a soft cover does."""
    width_px = shaft.width_px
    if strip.length_px > _COVER_LENGTH * width_px or strip.width_px > _COVER_WIDTH * width_px:
        return False
    ends = [[(s.start, s.direction), (s.end, -s.direction)] for s in (strip, shaft)]
    pairs = itertools.product(*ends)
    (end, inwards), (other, back) = min(pairs, key=lambda pair: math.dist(pair[0][0], pair[1][0]))
    return math.dist(end, other) < width_px and float(inwards @ back) < 0


def _opposite_strips(part: Part, field: Field) -> list[_Found]:
    """Find two strips that enter from opposite sides and touch."""
    points = part.points
    contacts = field.contacts(part.rim)[:2] if len(points) >= _MIN_POINTS else []
    if len(contacts) < 2:
        return []
    strips = []
    for contact in contacts:
        middle, length = contact.mean(axis=0), float(np.hypot(*np.ptp(contact, axis=0)))
        near = select(points, np.hypot(*(points - middle).T) < _LOCAL * length)
        if len(near) < _MIN_POINTS:
            return []
        strip = fit_strip(near, field)
        away = float((near.mean(axis=0) - middle) @ strip.direction)
        strip = strip if away > 0 else strip.reversed()
        strips.append(dataclasses.replace(strip, start_px=-math.inf))
    turn = math.pi - angle_between(strips[0].direction, strips[1].direction)
    if not _BENT_RAD < turn < _OPPOSITE_RAD:
        return []
    positions = [strip.coordinates(points) for strip in strips]
    inside = [
        np.abs(across) < strip.half_at(along) + field.step
        for strip, (along, across) in zip(strips, positions)
    ]
    found = []
    for strip, (along, _), own, others in zip(strips, positions, inside, inside[::-1]):
        alone = along[own & ~others]  # each strip ends with its last own point
        end = float(np.quantile(alone, _QUANTILE)) if len(alone) else float(strip.end_px)
        found.append(dataclasses.replace(strip, end_px=end))
    owner = _nearest(points, found)
    return [_Found(strip, owner == number) for number, strip in enumerate(found)]


def _nearest(points: Points, strips: Sequence[Strip]) -> NDArray[np.intp]:
    """Return the nearest strip of each point; distances from the axis are in half widths."""
    gaps = []
    for strip in strips:
        along, across = strip.coordinates(points)
        beyond = np.maximum(0, np.maximum(strip.start_px - along, along - strip.end_px))
        gaps.append(np.hypot(across / strip.half_at(along), beyond / strip.half_px))
    return np.asarray(np.argmin(gaps, axis=0))
