# SPDX-License-Identifier: Apache-2.0
"""A bag over time as SVG: score, confidence, and the instruments present."""

import math
from collections.abc import Sequence
from html import escape
from typing import Final

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.bag_evaluation.series import Pieces, Series
from surgseg_ros.core.labels import CLASS_NAMES, PALETTE
from surgseg_ros.evaluation.metrics import SCORED

_MOST_PIECES: Final = 480
_WIDTH: Final = 1130
_LEFT: Final = 132
_RIGHT: Final = 1104
_SCORE_HEIGHT: Final = 112
_LOW_HEIGHT: Final = 56
_BETWEEN: Final = 20
_ROW: Final = 17
_STRIP: Final = 6
_LEVELS: Final = 4
"""Shades in which a class's share of the frames of a piece is drawn."""
_APART: Final = 0.1
"""Boxes that lie further apart are not one."""
_LEAST_WIDTH: Final = 0.8
_HAS_TRUTH: Final = '#e9edf2'
_LOST: Final = '#c0232c'

Array = NDArray[np.float64]


def draw_timeline(series: Series, name: str) -> str:
    """
    Draw a bag; the image's size does not depend on how many frames there are.

    :param series: its frames, at least one.
    :param name: of the bag, for people who cannot see the image.
    :return: SVG.
    """
    plot = _Plot(series)
    plot.draw_score()
    plot.draw_confidence()
    plot.draw_instruments()
    plot.draw_classes()
    plot.draw_lost()
    return plot.finish(name)


class _Plot:
    """Puts one strip below the other."""

    def __init__(self, series: Series) -> None:
        self._series = series
        whole = Pieces(series.at, _MOST_PIECES)
        self._first, self._last = whole.left[0], whole.right[-1]
        self._scale = (_RIGHT - _LEFT) / max(self._last - self._first, 1e-9)
        self._drawn = ''
        self._y = 8.0

    def draw_score(self) -> None:
        """Draw IoU and NSD above the floor, where there is a truth."""
        if np.isnan(self._series.iou).all():
            return
        self._frame('score', _SCORE_HEIGHT, (0, 0.25, 0.5, 0.75, 1))
        self._area('floor', self._series.floor, _SCORE_HEIGHT)
        self._band('iou', self._series.iou, _SCORE_HEIGHT)
        self._line('nsd', self._series.nsd, _SCORE_HEIGHT)
        self._line('iou', self._series.iou, _SCORE_HEIGHT)
        self._y += _SCORE_HEIGHT + _BETWEEN

    def draw_confidence(self) -> None:
        """Draw the confidence, and where there was no decision."""
        undecided = np.nansum(self._series.no_decision) > 0
        if np.isnan(self._series.confidence).all() and not undecided:
            return
        # Background makes the mean high, so the axis begins below the least that occurs.
        least = round_down(float(np.nanmin(self._series.confidence, initial=1)))
        self._frame('confidence', _LOW_HEIGHT, (0, 1), f'{least:g}')
        if undecided:
            self._area('lost', self._series.no_decision, _LOW_HEIGHT)
        confidence = (self._series.confidence - least) / (1 - least)
        self._band('sure', confidence, _LOW_HEIGHT)
        self._line('sure', confidence, _LOW_HEIGHT)
        self._y += _LOW_HEIGHT + _BETWEEN

    def draw_instruments(self) -> None:
        """Draw how many instruments were found."""
        most = np.nanmax(self._series.instruments, initial=0)
        if not most:
            return
        self._frame('instruments', _LOW_HEIGHT / 2, (0, 1), top=f'{most:g}')
        self._band('many', self._series.instruments / most, _LOW_HEIGHT / 2)
        self._line('many', self._series.instruments / most, _LOW_HEIGHT / 2)
        self._y += _LOW_HEIGHT / 2 + _BETWEEN

    def draw_classes(self) -> None:
        """Draw a row for each class that is there: above in the truth, below in the mask."""
        truth, mask = self._series.truth, self._series.predicted
        has_truth = not np.isnan(truth).all()
        top, height = (_STRIP + 1, _STRIP) if has_truth else (0, 2 * _STRIP)
        for place, label in enumerate(SCORED):
            if not (np.nansum(truth[:, place]) or np.nansum(mask[:, place])):
                continue
            colour = '#{:02x}{:02x}{:02x}'.format(*PALETTE[label])
            self._drawn += text(_LEFT - 8, self._y + 10, CLASS_NAMES[label], 'end', 'name')
            self._strip(truth[:, place] * 0 + 1, self._y, _STRIP, _HAS_TRUTH)
            self._strip(truth[:, place], self._y, _STRIP, colour)
            self._strip(mask[:, place], self._y + top, height, colour)
            y = self._y + 2 * _STRIP + 2.5
            self._drawn += f'<path class="grid" d="M{_LEFT} {y}H{_RIGHT}"/>'
            self._y += _ROW

    def draw_lost(self) -> None:
        """Draw where frames have no mask of the network."""
        if self._series.lost.any():
            self._drawn += text(_LEFT - 8, self._y + 10, 'without a mask', 'end', 'name')
            self._strip(self._series.lost, self._y, 2 * _STRIP, _LOST)
            self._y += _ROW

    def finish(self, name: str) -> str:
        """Draw the axis, and close."""
        unit = ' s' if self._series.is_time else ''
        for value in _ticks(self._first, self._last):
            x = self._x(np.array([value]))[0]
            self._drawn += f'<path class="grid" d="M{x:.1f} {self._y}v6"/>'
            self._drawn += text(x, self._y + 20, f'{value:g}{unit}', 'middle')
        if not self._series.is_time:
            self._drawn += text(_LEFT - 8, self._y + 20, 'frame', 'end')
        title = f'<title>{escape(name)} over time</title>'
        return (
            f'<svg class="timeline" role="img" viewBox="0 0 {_WIDTH} {self._y + 28:.0f}">'
            f'{title}{self._drawn}</svg>'
        )

    def _x(self, at: Array) -> Array:
        return np.asarray(_LEFT + (at - self._first) * self._scale)

    def _frame(
        self, name: str, height: float, ticks: Sequence[float], bottom: str = '0', top: str = '1'
    ) -> None:
        """Draw the axis of a strip; `bottom` and `top` are what 0 and 1 stand for."""
        self._drawn += text(10, self._y + height / 2 + 4, name, 'start', 'name')
        for tick in ticks:
            y = self._y + height * (1 - tick)
            said = bottom if tick == 0 else top if tick == 1 else f'{tick:g}'
            self._drawn += f'<path class="grid" d="M{_LEFT} {y:.1f}H{_RIGHT}"/>'
            self._drawn += text(_LEFT - 8, y + 4, said, 'end')

    def _known(self, values: Array) -> tuple[Pieces, Array] | None:
        """Take the frames together that have a value."""
        known = ~np.isnan(values)
        if not known.any():
            return None
        return Pieces(self._series.at[known], _MOST_PIECES), values[known]

    def _line(self, kind: str, values: Array, height: float) -> None:
        if not (found := self._known(values)):
            return
        pieces, known = found
        x, y, path = self._x(pieces.middle), self._height(pieces.mean(known), height), ''
        for run in _runs(pieces):
            path += _path(x[run], y[run])
            path += 'h.01' if len(run) == 1 else ''  # round ends make a dot of it
        self._drawn += f'<path class="line {kind}" d="{path}"/>'

    def _band(self, kind: str, values: Array, height: float) -> None:
        if found := self._known(values):
            low, high = found[0].range(found[1])
            if (high > low).any():
                self._fill(f'band {kind}', found[0], low, high, height)

    def _area(self, kind: str, values: Array, height: float) -> None:
        if found := self._known(values):
            mean = found[0].mean(found[1])
            self._fill(kind, found[0], np.zeros_like(mean), mean, height)

    def _fill(self, kind: str, pieces: Pieces, low: Array, high: Array, height: float) -> None:
        path = ''
        for run in _runs(pieces):
            left, right = self._x(pieces.left[run]), self._x(pieces.right[run])
            right[:-1] = left[1:]
            x = np.stack((left, right), 1).ravel()
            above, below = (np.repeat(self._height(y[run], height), 2) for y in (high, low))
            path += _path(np.append(x, x[::-1]), np.append(above, below[::-1])) + 'z'
        self._drawn += f'<path class="{kind}" d="{path}"/>'

    def _height(self, values: Array, height: float) -> Array:
        return np.asarray(self._y + height * (1 - values))

    def _strip(self, values: Array, top: float, height: float, colour: str) -> None:
        """Shade the share of frames in each piece; runs of one shade are one box."""
        if not (found := self._known(values)):
            return
        pieces, known = found
        levels = np.ceil(pieces.mean(known) * _LEVELS).astype(int)
        left, right = self._x(pieces.left), self._x(pieces.right)
        is_apart = (np.diff(levels) != 0) | (left[1:] - right[:-1] > _APART)
        starts = np.concatenate(([0], np.flatnonzero(is_apart) + 1))
        ends = np.append(starts[1:], len(levels)) - 1
        boxes: dict[int, str] = {}
        for start, end in zip(starts, ends, strict=True):
            if level := int(levels[start]):
                width = max(right[end] - left[start], _LEAST_WIDTH)
                box = f'M{left[start]:.1f} {top:.1f}h{width:.1f}v{height}h-{width:.1f}z'
                boxes[level] = boxes.get(level, '') + box
        self._drawn += ''.join(
            f'<path fill="{colour}" fill-opacity="{level / _LEVELS:g}" d="{path}"/>'
            for level, path in sorted(boxes.items())
        )


def round_down(confidence: float) -> float:
    """
    Choose where an axis of confidences begins.

    :param confidence: the least.
    :return: a round number that is not above it, 0.95 at most.
    """
    return min(math.floor(confidence * 20) / 20, 0.95)


def _runs(pieces: Pieces) -> list[NDArray[np.intp]]:
    """Find the pieces that follow each other without a gap."""
    lengths = pieces.right - pieces.left
    apart = pieces.left[1:] - pieces.right[:-1] > 1e-6 * lengths[:-1]
    return np.split(np.arange(len(lengths)), np.flatnonzero(apart) + 1)


def _path(x: Array, y: Array) -> str:
    return 'M' + 'L'.join(f'{one:.1f} {other:.1f}' for one, other in zip(x, y, strict=True))


def _ticks(first: float, last: float) -> list[float]:
    """Choose round numbers, five to twelve."""
    rough = max(last - first, 1e-9) / 10
    power = 10.0 ** np.floor(np.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [float(round(n * step, 9)) for n in range(int(last / step) + 1) if n * step >= first]


def text(x: float, y: float, said: str, anchor: str, kind: str = '') -> str:
    """
    Write into an SVG.

    :param x: where the anchor lies.
    :param y: the base line.
    :param said: the text.
    :param anchor: `start`, `middle` or `end`.
    :param kind: class for the style.
    :return: the element.
    """
    named = f' class="{kind}"' if kind else ''
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{named}>{escape(said)}</text>'
