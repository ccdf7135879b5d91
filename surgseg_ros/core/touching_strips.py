# SPDX-License-Identifier: Apache-2.0
"""Splits regions of shafts that touch or cross into straight strips."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.labels import BACKGROUND
from surgseg_ros.core.segmentation import MIN_CONTACT, Field, Points, select
from surgseg_ros.core.strips import Strip, angle_between, fit_strip

_MISFIT: Final = 0.12
"""A region is one strip if the share of it outside, plus that of tissue inside, is smaller."""

_SHARE: Final = 0.06
"""Each strip covers at least this share of the region alone."""

_OWN: Final = 0.35
"""Least share of a strip that no other strip covers."""

_MAX_STRIPS: Final = 4
_MAX_CANDIDATES: Final = 12
_MAX_EDGES: Final = 16
_MIN_EDGE: Final = 6.0
"""Shortest edge, in steps of the grid."""

_TOLERANCE: Final = 1.3
"""Largest distance between an outline and its polygon, in steps of the grid."""

_FREE: Final = 0.6
"""Least share of an edge beside which there is tissue; elsewhere something covers the region."""

_WEDGE_RAD: Final = 0.45
"""Largest angle between the two edges of a strip."""

_FILLED: Final = 0.8
"""Least share of the width of a strip that is not tissue, everywhere along it."""

_STUB: Final = 0.8
"""Shortest strip, in widths."""

_COVER_LENGTH: Final = 4.5
"""Longest bent end of a shaft, in its widths: a soft cover, and what overlaps with the shaft."""

_COVER_WIDTH: Final = 1.2
"""Largest width of a bent end, in widths of the shaft."""

_ACROSS: Final = np.linspace(-0.9, 0.9, 9)
_ALONG: Final = np.linspace(0.1, 0.9, 9)

_LOCAL: Final = 1.2
"""Length of the piece at the border to which a strip is fitted, in lengths of its contact."""

_QUANTILE: Final = 0.98
_BENT_RAD: Final = 0.07
_OPPOSITE_RAD: Final = 0.6
"""Two strips from opposite sides must meet at an angle, of _BENT_RAD to this."""

_MIN_POINTS: Final = 12

_Edge = tuple[Points, Points]
"""Start and end of a straight edge of a region, on the grid."""


class _Candidate(NamedTuple):
    """
    A strip that may be one of those that a region consists of.

    :param strip: the strip.
    :param covered: (n,) which points of the region it contains.
    """

    strip: Strip
    covered: NDArray[np.bool_]


def split_strips(
    points: Points, grid: NDArray[np.uint8], field: Field
) -> list[tuple[Strip, NDArray[np.bool_]]]:
    """
    Split the points of a region into strips that touch or cross.

    A region is split if a single strip does not fit it and several strips between its edges do, or
    if it consists of two strips from opposite sides of the image.

    :param points: (n, 2) on the field's grid; at least three.
    :param grid: the mask at the points of the grid, uint8 class index.
    :param field: the visible part of the image.
    :return: each strip with an (n,) mask of its points; every point belongs to one strip.
    """
    region, whole = _Region(points, grid, field), fit_strip(points, field)
    found = _choose_strips(region) if region.misfit(whole) > _MISFIT else []
    found = found or _opposite_strips(points, field)
    if found:
        owner = _nearest(points, [candidate.strip for candidate in found])
        owned = [np.asarray(owner == number) for number in range(len(found))]
        if min(map(np.count_nonzero, owned)) >= 3:
            return [
                (fit_strip(select(points, candidate.covered), field), own)
                for candidate, own in zip(found, owned)
            ]
    return [(whole, np.ones(len(points), bool))]


@dataclass(frozen=True)
class _Region:
    """
    A region of shafts.

    :param points: (n, 2) on the field's grid.
    :param grid: the mask at the points of the grid.
    :param field: the visible part of the image.
    """

    points: Points
    grid: NDArray[np.uint8]
    field: Field

    def misfit(self, strip: Strip) -> float:
        """Return the share of points outside a strip, plus the share of it that is tissue."""
        along, across = strip.coordinates(self.points)
        outside = np.abs(across) - strip.half_at(along) > 0.75 * self.field.step
        return float(outside.mean()) + 1 - float(np.nanmean(self._filled_shares(strip)[1]))

    def candidates(self) -> list[_Candidate]:
        """Return the strips between two edges of the region that it fills, largest first."""
        strips = itertools.starmap(_between, itertools.combinations(self._edges(), 2))
        found = [self._filled_part(strip) for strip in strips if strip is not None]
        large = [candidate for candidate in found if candidate is not None]
        large.sort(key=lambda candidate: -np.count_nonzero(candidate.covered))
        return large[:_MAX_CANDIDATES]

    def _edges(self) -> list[_Edge]:
        """Return straight edges beside tissue, longest first; all have the region on one side."""
        cells = (self.points / self.field.step).astype(np.intp)
        low = cells.min(axis=0)
        shape = np.ptp(cells, axis=0)[::-1] + 1
        image = np.zeros(shape, np.uint8)
        image[cells[:, 1] - low[1], cells[:, 0] - low[0]] = 1
        outlines, _ = cv2.findContours(image, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        edges = []
        for outline in outlines:
            if len(outline) < 2 * _MIN_EDGE:
                continue
            corners = (cv2.approxPolyDP(outline, _TOLERANCE, True)[:, 0] + low).astype(float)
            for start, stop in zip(corners, np.roll(corners, -1, axis=0)):
                if math.dist(start, stop) >= _MIN_EDGE and self._is_free(start, stop):
                    edges.append((start, stop))
        edges.sort(key=lambda edge: -math.dist(*edge))
        step = self.field.step
        return [(a * step + step // 2, b * step + step // 2) for a, b in edges[:_MAX_EDGES]]

    def _is_free(self, start: Points, stop: Points) -> bool:
        """Return whether there is tissue beside an edge, which is given in cells of the grid."""
        along = stop - start
        outwards = 2 * np.array([-along[1], along[0]]) / math.hypot(*along)
        places = np.rint(start + _ALONG[:, None] * along + outwards).astype(np.intp)
        inside = ((places >= 0) & (places < self.grid.shape[::-1])).all(axis=1)
        columns, rows = places[inside].T
        tissue = np.count_nonzero(self.grid[rows, columns] == BACKGROUND)
        return bool(tissue >= _FREE * len(places))

    def _filled_part(self, strip: Strip) -> _Candidate | None:
        """Cut a strip where tissue begins; return None if it is short then."""
        step = self.field.step
        along, across = strip.coordinates(self.points)
        inside = np.abs(across) <= strip.half_px + strip.slope * along + 0.75 * step
        if not inside.any():
            return None
        low, high = float(along[inside].min()), float(along[inside].max())
        places, shares = self._filled_shares(dataclasses.replace(strip, start_px=low, end_px=high))
        gaps = places[shares < _FILLED]  # none beyond the image
        middle = (strip.start_px + strip.end_px) / 2
        low = float(gaps[gaps <= middle].max(initial=-np.inf)) + step
        high = float(gaps[gaps >= middle].min(initial=np.inf)) - step
        covered = inside & (along >= low) & (along <= high)
        if not covered.any():
            return None
        ends = float(along[covered].min()), float(along[covered].max())
        part = dataclasses.replace(strip, start_px=ends[0], end_px=ends[1])
        return _Candidate(part, covered) if part.length_px >= _STUB * part.width_px else None

    def _filled_shares(self, strip: Strip) -> tuple[Points, Points]:
        """
        Return positions along a strip, and the share of its width there that is not tissue.

        The share is NaN beyond the image.
        """
        step = self.field.step
        count = max(2, int(strip.length_px / (2 * step)))
        along = np.linspace(strip.start_px + step, strip.end_px - step, count)
        across = np.asarray(strip.half_at(along))[:, None] * _ACROSS
        places = strip.origin + along[:, None, None] * strip.direction
        columns, rows = ((places + across[..., None] * strip.normal) // step).astype(np.intp).T
        height, width = self.grid.shape
        inside = (rows >= 0) & (columns >= 0) & (rows < height) & (columns < width)
        filled = self.grid[np.where(inside, rows, 0), np.where(inside, columns, 0)] != BACKGROUND
        seen = inside.sum(axis=0)
        shares = (filled & inside).sum(axis=0) / np.maximum(seen, 1)
        return along, np.where(seen > 0, shares, np.nan)


def _between(first: _Edge, second: _Edge) -> Strip | None:
    """Return the strip between two edges; None if they are not opposite sides of one."""
    (start, stop), (other_stop, other_start) = first, second  # opposite edges run opposite ways
    one, other = stop - start, other_stop - other_start
    one, other = one / math.hypot(*one), other / math.hypot(*other)
    turn = math.atan2(float(one[0] * other[1] - one[1] * other[0]), float(one @ other))
    if abs(turn) > _WEDGE_RAD:
        return None
    direction = (one + other) / math.hypot(*(one + other))
    normal = np.array([-direction[1], direction[0]])
    corners = np.stack([start, stop, other_start, other_stop])
    origin = corners.mean(axis=0)
    along, across = (corners - origin) @ direction, (corners - origin) @ normal
    slopes = (across[1::2] - across[::2]) / (along[1::2] - along[::2])
    offsets = across[::2] - slopes * along[::2]
    half, slope = float(offsets[0] - offsets[1]) / 2, float(slopes[0] - slopes[1]) / 2
    if half <= 0:  # the region is not between them
        return None
    ends = float(along.min()), float(along.max())
    return Strip(origin + offsets.mean() * normal, direction, *ends, half, slope, 1.0)


def _choose_strips(region: _Region) -> list[_Candidate]:
    """Choose two or more strips that cover the region; return none if it takes only one."""
    candidates, chosen = region.candidates(), list[_Candidate]()
    if not candidates:
        return []
    maximum = float(np.count_nonzero(candidates[0].covered)) + _SHARE * len(region.points)
    for pair in itertools.combinations(candidates, 2):
        both = float(np.count_nonzero(pair[0].covered | pair[1].covered))
        if both > maximum and _are_separate(*pair):
            chosen, maximum = list(pair), both
    if not chosen:
        return _with_rest(candidates[0], region)
    while len(chosen) < _MAX_STRIPS:
        uncovered = ~np.any([known.covered for known in chosen], axis=0)
        others = [c for c in candidates if all(_are_separate(c, known) for known in chosen)]
        best = max(others, key=lambda c: np.count_nonzero(c.covered & uncovered), default=None)
        if best is None or np.count_nonzero(best.covered & uncovered) < _SHARE * len(uncovered):
            break
        chosen.append(best)
    return chosen


def _with_rest(candidate: _Candidate, region: _Region) -> list[_Candidate]:
    """Add what a strip leaves of a region, if that enters the image; else return nothing."""
    rest = ~candidate.covered
    if np.count_nonzero(rest) < max(3, _SHARE * len(rest)):
        return []
    beside = select(region.points, rest)
    enters = np.count_nonzero(region.field.touches(beside)) >= MIN_CONTACT
    return [candidate, _Candidate(fit_strip(beside, region.field), rest)] if enters else []


def _are_separate(first: _Candidate, second: _Candidate) -> bool:
    """Return whether two strips differ, and are not a shaft and its bent end."""
    for one, other in ((first, second), (second, first)):
        alone = np.count_nonzero(one.covered & ~other.covered)
        if alone < max(_SHARE * len(one.covered), _OWN * np.count_nonzero(one.covered)):
            return False
    short, long = sorted((first.strip, second.strip), key=lambda strip: strip.length_px)
    return not _is_bent_end(short, long)


def _is_bent_end(strip: Strip, shaft: Strip) -> bool:
    """Return whether a short strip continues a shaft beyond its end, as a soft cover does."""
    width_px = shaft.width_px
    if strip.length_px > _COVER_LENGTH * width_px or strip.width_px > _COVER_WIDTH * width_px:
        return False
    ends = [[(s.start, s.direction), (s.end, -s.direction)] for s in (strip, shaft)]
    pairs = itertools.product(*ends)
    (end, inwards), (other, back) = min(pairs, key=lambda pair: math.dist(pair[0][0], pair[1][0]))
    return math.dist(end, other) < width_px and float(inwards @ back) < 0


def _opposite_strips(points: Points, field: Field) -> list[_Candidate]:
    """Find two strips that enter from opposite sides and touch."""
    contacts = field.contacts(points)[:2] if len(points) >= _MIN_POINTS else []
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
    places = [strip.coordinates(points) for strip in strips]
    inside = [
        np.abs(across) < strip.half_at(along) + field.step
        for strip, (along, across) in zip(strips, places)
    ]
    found = []
    for strip, (along, _), own, others in zip(strips, places, inside, inside[::-1]):
        alone = along[own & ~others]  # each strip ends with its last own point
        end = float(np.quantile(alone, _QUANTILE)) if len(alone) else float(strip.end_px)
        found.append(dataclasses.replace(strip, end_px=end))
    owner = _nearest(points, found)
    return [_Candidate(strip, owner == number) for number, strip in enumerate(found)]


def _nearest(points: Points, strips: Sequence[Strip]) -> NDArray[np.intp]:
    """Return the nearest strip of each point; distances from the axis are in half widths."""
    gaps = []
    for strip in strips:
        along, across = strip.coordinates(points)
        beyond = np.maximum(0, np.maximum(strip.start_px - along, along - strip.end_px))
        gaps.append(np.hypot(across / strip.half_at(along), beyond / strip.half_px))
    return np.asarray(np.argmin(gaps, axis=0))
