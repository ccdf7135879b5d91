# SPDX-License-Identifier: Apache-2.0
"""
Finds the part of the images that the endoscope fills: `roi_mode: auto`.

Black borders and the black around a round view are found by their edges: dark outside, sharp, and
straight or circular. Soft transitions (a vignette, a cavity), dark areas on one side only (a tool)
and moving ones belong to the content. In doubt, the whole image is used.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.segmentation import Circle, Roi

Image = NDArray[np.uint8]
Flags = NDArray[np.bool_]
Numbers = NDArray[np.float64]

LIT: Final = 32
"""A pixel with a channel of at least this is content; encoded black borders stay below it."""

_EDGE: Final = 24
"""Minimum increase of the largest channel across an edge, within a few pixels."""

_EVERY: Final = 15
"""Borders are searched in every nth image."""

_PENDING_EVERY: Final = 5
"""Likewise, while borders that have been found must be confirmed."""

_CONFIRMED: Final = 3
"""Number of consecutive searches that must find the same borders, without content outside."""

_MIN_SIDE_PX: Final = 64
_MIN_BORDER: Final = 0.01
"""Narrower borders, as a share of the image's side, are treated as content."""
_MIN_CONTENT: Final = 0.1
"""Smaller content, as a share of the image, is rejected: it is more likely a bright object."""
_MIN_LIT: Final = 0.4
"""Minimum share of the content that must be lit; otherwise nothing is decided."""
_MIN_STRAIGHT: Final = 0.25
"""Minimum share of the length of a straight edge that must be sharp."""
_MIN_ARC: Final = 0.4
"""Minimum share of the circle in the image that must be sharp; in each quadrant, half of it."""

_SAMPLE_PX: Final = 8
_LINES: Final = 96
"""Number of rows, and of columns, along which the edge of a circle is searched."""
_TRIPLES: Final = 120
_SECTORS: Final = 120


class _TrackedContent(NamedTuple):
    """
    Content that is tracked from image to image.

    :param first: the content when it was found.
    :param now: the same, extended by lit pixels that appeared outside since.
    """

    first: Roi
    now: Roi

    def widened(self, image: Image, turn: int, tolerance_px: int) -> _TrackedContent | None:
        """Extend by lit pixels of the next image; None if they are farther than the tolerance."""
        now = _widened(self.now, image, turn)
        return self._replace(now=now) if _are_alike(now, self.first, tolerance_px) else None


class ContentFinder:
    """
    Tracks the content of one camera's images; not thread-safe.

    The result depends only on the images, not on time. Lit pixels outside the found area extend
    it in the same image: by a few pixels, or else to the whole image.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all images, because another camera, activation or video starts."""
        self._size: tuple[int, int] | None = None
        self._found: _TrackedContent | None = None
        self._pending: _TrackedContent | None = None
        self._seen = self._count = 0

    def find(self, image: Image) -> Roi | None:
        """
        Process the next image.

        :param image: (H, W, 3) uint8 RGB; rows may be padded, it is neither modified nor kept.
        :return: the content; None for the whole image. Outside its rectangle, no pixel of this
            image reaches LIT; nor does one outside its circle, of which every fourth row is
            checked, in turn.
        """
        size = image.shape[0], image.shape[1]
        if size != self._size:
            self.reset()
            self._size = size
        turn, blur = self._count % 4, _blur(image)
        self._found = self._found and self._found.widened(image, turn, 4 * blur)
        self._pending = self._pending and self._pending.widened(image, turn, 3 * blur)
        if self._count % (_PENDING_EVERY if self._pending else _EVERY) == 0:
            self._search(image)
        self._count += 1
        return self._found and self._found.now

    def _search(self, image: Image) -> None:
        """Search borders; accept those that are found several times in a row."""
        candidate, blur = find_content(image), _blur(image)
        if candidate is None or (
            self._found and not _is_tighter(candidate, self._found.now, 2 * blur)
        ):
            self._pending = None
        elif self._pending is None or not _are_alike(candidate, self._pending.first, 3 * blur):
            self._pending, self._seen = _TrackedContent(candidate, candidate), 1
        else:
            both = _union(candidate, self._pending.now)
            self._pending, self._seen = self._pending._replace(now=both), self._seen + 1
            if self._seen == _CONFIRMED:
                self._found, self._pending = _TrackedContent(both, both), None


def find_content(image: Image) -> Roi | None:
    """
    Find the content of a single image; `ContentFinder` combines several, which is reliable.

    :param image: (H, W, 3) uint8 RGB.
    :return: the content; None if there are no borders, or the image is too dark.
    """
    height, width = image.shape[:2]
    if min(height, width) < _MIN_SIDE_PX:
        return None
    size = width // _SAMPLE_PX, height // _SAMPLE_PX
    lit = _largest(cv2.resize(image, size, interpolation=cv2.INTER_NEAREST)) >= LIT
    is_lit_up_to = [side.any() for side in (lit[0], lit[-1], lit[:, 0], lit[:, -1])]
    if not lit.any() or (all(is_lit_up_to) and lit[[0, 0, -1, -1], [0, -1, 0, -1]].any()):
        return None
    box = _straight_sides(image)
    content = _in_circle(image, box) or box
    rows, columns = np.ogrid[: size[1], : size[0]]
    inside = _covers(content, (rows + 0.5) * _SAMPLE_PX, (columns + 0.5) * _SAMPLE_PX)
    share = inside.mean()
    if content == Roi(0, 0, width, height) or not _MIN_CONTENT <= share <= 1 - _MIN_BORDER:
        return None
    return content if lit[inside].mean() >= _MIN_LIT else None


def _covers(content: Roi, rows: Numbers, columns: Numbers) -> Flags:
    """Return which positions lie in the content."""
    right, bottom = content.x_px + content.width_px, content.y_px + content.height_px
    inside = (content.y_px <= rows) & (rows < bottom) & (content.x_px <= columns)
    inside &= columns < right
    if content.circle is not None:
        inside &= content.circle.distances(rows, columns) <= content.circle.radius_px
    return np.asarray(inside)


def _straight_sides(image: Image) -> Roi:
    """Find straight borders, left and right or above and below; otherwise, use the whole sides."""
    height, width = image.shape[:2]
    left, right = _ends(image.max(0).max(1))
    top, bottom = _ends(image.max((1, 2)))
    upright = image[top:bottom].transpose(1, 0, 2)  # (W, …, 3)
    level = image[:, left:right]  # (H, …, 3)
    blur = _blur(image)
    if not _are_sharp(upright, left, right, blur):
        left, right = 0, width
    if not _are_sharp(level, top, bottom, blur):
        top, bottom = 0, height
    return Roi(left, top, right - left, bottom - top)


def _ends(profile: NDArray[np.uint8]) -> tuple[int, int]:
    """Return the index of the first lit value, and that after the last."""
    lit = np.flatnonzero(profile >= LIT)
    return (int(lit[0]), int(lit[-1]) + 1) if len(lit) else (0, len(profile))


def _are_sharp(lines: Image, start: int, end: int, blur: int) -> bool:
    """Check that (L, n, 3) lines have borders before `start` and from `end`, with sharp edges."""
    count = len(lines)
    if min(start, count - end) < max(2 * blur, _MIN_BORDER * count) or end - start < 4 * blur:
        return False
    return all(
        (_rise(lines[outer], lines[inner]) >= _EDGE).mean() >= _MIN_STRAIGHT
        for outer, inner in ((start - blur, start + blur), (end - 1 + blur, end - 1 - blur))
    )


def _rise(outer: Image, inner: Image) -> NDArray[np.int16]:
    """Return the increase of the largest of the channels of (…, 3) pixels."""
    return np.asarray(inner.max(-1).astype(np.int16) - outer.max(-1))


def _blur(image: Image) -> int:
    """Return the width of an edge in pixels, since edges are not perfectly sharp."""
    return max(2, int(min(image.shape[:2])) // 270)


class _Edge(NamedTuple):
    """
    Ends of the content in rows and columns.

    :param rows: (n,) their rows.
    :param columns: (n,) their columns.
    :param sharp: (n,) whether there is an edge, rather than a slope.
    """

    rows: Numbers
    columns: Numbers
    sharp: Flags


def _in_circle(image: Image, box: Roi) -> Roi | None:
    """Find a circle that the content fills within the box, if there is one."""
    edge = _edge(image, box)
    tolerance = max(1.5, min(image.shape[:2]) / 720)
    circle = _fit(edge.rows[edge.sharp], edge.columns[edge.sharp], tolerance)
    if circle is None:
        return None
    distances = circle.distances(edge.rows, edge.columns)
    on_it = edge.sharp & (np.abs(distances - circle.radius_px) <= tolerance)
    if distances.max() > circle.radius_px + 4 * _blur(image) or not _is_seen(
        circle, box, edge, on_it
    ):
        return None
    return _box_of(replace(circle, radius_px=circle.radius_px + 1), box)


def _edge(image: Image, box: Roi) -> _Edge:
    """Find the ends of the content in rows and columns, except on the sides of the box."""
    view, blur = box.view(image), _blur(image)
    found: list[tuple[Numbers, Numbers, Flags]] = []
    for axis in (0, 1):
        count, length = view.shape[axis], view.shape[1 - axis]
        chosen = np.unique(np.linspace(0, count - 1, _LINES).astype(np.intp))
        lines = view[chosen] if axis == 0 else view[:, chosen].transpose(1, 0, 2)
        lit = _largest(np.ascontiguousarray(lines)) >= LIT  # (n, length)
        some = lit.any(1)
        for ends, inward in ((lit.argmax(1), 1), (length - 1 - lit[:, ::-1].argmax(1), -1)):
            use = np.flatnonzero(some & (np.minimum(ends, length - 1 - ends) > blur))
            at = ends[use]
            outer, inner = (
                lines[use, (at + step * inward).clip(0, length - 1)] for step in (-blur, blur)
            )
            sharp = _rise(outer, inner) >= _EDGE
            indices = (chosen[use], at) if axis == 0 else (at, chosen[use])
            rows, columns = (axis_indices.astype(np.float64) for axis_indices in indices)
            found.append((rows + box.y_px, columns + box.x_px, sharp))
    return _Edge(*(np.concatenate(part) for part in zip(*found, strict=True)))


def _fit(rows: Numbers, columns: Numbers, tolerance: float) -> Circle | None:
    """Find the circle through most of the points; all others may lie only inside it."""
    if len(rows) < _LINES // 4:
        return None
    rng = np.random.default_rng(0)  # deterministic
    chosen = rng.integers(0, len(rows), (3, _TRIPLES))
    x, y = columns[chosen], rows[chosen]
    # The centre is as far from the first point as from both others.
    (ax, bx), (ay, by) = x[1:] - x[0], y[1:] - y[0]
    twice = 2 * (ax * by - ay * bx)
    good = np.abs(twice) > 1.0
    a2, b2 = (ax**2 + ay**2)[good], (bx**2 + by**2)[good]
    ax, ay, bx, by, twice = ax[good], ay[good], bx[good], by[good], twice[good]
    if not len(twice):
        return None
    dx, dy = (by * a2 - ay * b2) / twice, (ax * b2 - bx * a2) / twice
    cx, cy, radius = x[0][good] + dx, y[0][good] + dy, np.hypot(dx, dy)
    distances = np.hypot(columns - cx[:, None], rows - cy[:, None])
    near = np.abs(distances - radius[:, None]) <= tolerance  # (triples, n)
    kept = near[near.sum(1).argmax()]
    for _ in range(2):
        points = np.stack([columns[kept], rows[kept], np.ones(int(kept.sum()))], 1)
        squares = columns[kept] ** 2 + rows[kept] ** 2
        (u, v, w), *_ = np.linalg.lstsq(points, squares, rcond=None)
        circle = Circle(
            float(u / 2), float(v / 2), float(np.sqrt(max(0.0, w + (u**2 + v**2) / 4)))
        )
        kept = np.abs(circle.distances(rows, columns) - circle.radius_px) <= tolerance
        if kept.sum() < _LINES // 4:
            return None
    return circle


def _is_seen(circle: Circle, box: Roi, edge: _Edge, on_it: Flags) -> bool:
    """Check that there are sharp edges all along the circle, where it is in the box."""
    angles = (np.arange(_SECTORS) + 0.5) * (2 * np.pi / _SECTORS) - np.pi
    rows = circle.y_px + circle.radius_px * np.sin(angles)
    columns = circle.x_px + circle.radius_px * np.cos(angles)
    visible = _covers(box, rows, columns)
    around = np.arctan2(edge.rows[on_it] - circle.y_px, edge.columns[on_it] - circle.x_px)
    seen = np.zeros(_SECTORS, bool)
    seen[((around + np.pi) * (_SECTORS / (2 * np.pi))).astype(np.intp) % _SECTORS] = True
    quadrants = [
        (count, np.count_nonzero(part_seen & part))
        for part, part_seen in zip(np.split(visible, 4), np.split(seen, 4), strict=True)
        if (count := np.count_nonzero(part))
    ]
    total = np.count_nonzero(visible)
    return bool(
        len(quadrants) >= 3
        and total >= _SECTORS // 10
        and np.count_nonzero(seen & visible) >= _MIN_ARC * total
        and all(found >= _MIN_ARC / 2 * count for count, found in quadrants)
    )


def _box_of(circle: Circle, box: Roi) -> Roi:
    """Reduce a box to the part that contains the circle."""
    x, y, radius = circle.x_px, circle.y_px, circle.radius_px
    left, top, right, bottom = _sides(box)
    left, top = max(left, int(x - radius)), max(top, int(y - radius))
    right, bottom = min(right, int(x + radius) + 2), min(bottom, int(y + radius) + 2)
    return Roi(left, top, right - left, bottom - top, circle)


def _widened(content: Roi, image: Image, turn: int) -> Roi:
    """Extend the content by lit pixels outside it; `turn`: see `_is_lit_outside`."""
    if not _is_lit_outside(content, image, turn):
        return content
    lit = _largest(image) >= LIT
    content.view(lit)[content.outside() == 0] = False
    rows, columns = np.nonzero(lit)
    left, top, right, bottom = _sides(content)
    left, right = min(left, int(columns.min())), max(right, int(columns.max()) + 1)
    top, bottom = min(top, int(rows.min())), max(bottom, int(rows.max()) + 1)
    circle = content.circle
    if circle is not None:
        radius = max(circle.radius_px, float(circle.distances(rows, columns).max()) + 0.5)
        circle = replace(circle, radius_px=radius)
    return Roi(left, top, right - left, bottom - top, circle)


def _is_lit_outside(content: Roi, image: Image, turn: int) -> bool:
    """Check the pixels around the rectangle, and rows turn, turn + 4 … around the circle."""
    left, top, right, bottom = _sides(content)
    rows = image[top:bottom]
    around = image[:top], image[bottom:], rows[:, :left], rows[:, right:]
    if any(part.size and cv2.norm(part, cv2.NORM_INF) >= LIT for part in around):
        return True
    if content.circle is None or turn >= content.height_px:
        return False
    view, outside = content.view(image)[turn::4], content.outside()[turn::4]
    return cv2.norm(view, cv2.NORM_INF, outside) >= LIT


def _sides(content: Roi) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom; the last two are exclusive."""
    x, y = content.x_px, content.y_px
    return x, y, x + content.width_px, y + content.height_px


def _are_alike(one: Roi, other: Roi, tolerance_px: float) -> bool:
    """Return whether two contents are equal within a tolerance."""
    circle, other_circle = one.circle, other.circle
    differences = [a - b for a, b in zip(_sides(one), _sides(other), strict=True)]
    if circle is None or other_circle is None:
        return circle is other_circle and max(map(abs, differences)) <= tolerance_px
    centres = circle.x_px - other_circle.x_px, circle.y_px - other_circle.y_px
    numbers = *differences, *centres, circle.radius_px - other_circle.radius_px
    return max(map(abs, numbers)) <= tolerance_px


def _is_tighter(one: Roi, other: Roi, tolerance_px: float) -> bool:
    """Return whether one content excludes something that the other includes."""
    (left, top, right, bottom), (x0, y0, x1, y1) = _sides(one), _sides(other)
    if max(left - x0, top - y0, x1 - right, y1 - bottom) > tolerance_px:
        return True
    if one.circle is None or other.circle is None:
        return one.circle is not None
    return one.circle.radius_px < other.circle.radius_px - tolerance_px


def _union(one: Roi, other: Roi) -> Roi:
    """Return the union of two similar contents."""
    (left, top, right, bottom), (x0, y0, x1, y1) = _sides(one), _sides(other)
    left, top, right, bottom = min(left, x0), min(top, y0), max(right, x1), max(bottom, y1)
    circle = one.circle
    if circle is not None and other.circle is not None:
        apart = np.hypot(circle.x_px - other.circle.x_px, circle.y_px - other.circle.y_px)
        radius = max(circle.radius_px, float(apart) + other.circle.radius_px)
        circle = replace(circle, radius_px=radius)
    return Roi(left, top, right - left, bottom - top, circle)


def _largest(image: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the largest channel: (…, 3) to (…)."""
    red, green, blue = cv2.split(image)
    return np.asarray(cv2.max(cv2.max(red, green), blue), np.uint8)
