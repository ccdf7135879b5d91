# SPDX-License-Identifier: Apache-2.0
"""Draws a recording over time as SVG, whose size does not depend on the number of frames."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from surgseg_ros.reports.pages import INK, LINE, PX, Array, chart_style, svg_from_figure

GAP: Final = 6
"""A step that is more than this many times longer than usual is a gap."""

_MAX_BINS: Final = 480
_WIDTH_PX, _LEFT_PX, _RIGHT_PX = 1130, 150, 1104
_TOP_PX, _BETWEEN_PX, _BOTTOM_PX, _ROW_PX = 8, 20, 34, 17
_MIN_SHARE: Final = 0.4
"""Minimum opacity of a class that is only in few of the frames of a bin."""
_MIN_WIDTH_PX: Final = 1.0
_KNOWN: Final = '#e9edf2'


class Curve(NamedTuple):
    """
    A value over time: a line through the means, with a band from minimum to maximum.

    :param values: (N,), NaN for unknown values.
    """

    name: str
    values: Array
    colour: str
    has_band: bool = True


class Panel(NamedTuple):
    """
    Curves on one axis.

    :param name: its label on the left.
    :param curves: each has at least one value.
    :param areas: (N,) shares from 0 to 1, drawn as an area from the bottom, each with its colour.
    :param low: start of the axis; `high` is its end.
    """

    name: str
    height_px: int
    curves: Sequence[Curve]
    areas: Sequence[tuple[Array, str]] = ()
    low: float = 0
    high: float = 1
    ticks: Sequence[float] = (0, 1)


class Row(NamedTuple):
    """
    When something is present, as one or several strips.

    :param name: its label on the left.
    :param strips: (N,) each with its colour: 1 if it is present, 0 if not, NaN if it is unknown,
        which is drawn white instead of grey.
    """

    name: str
    strips: Sequence[tuple[Array, str]]


def timeline(
    at: Array, panels: Sequence[Panel], rows: Sequence[Row], title: str, unit: str
) -> Markup:
    """
    Plot a recording; the size of the chart does not depend on the number of frames.

    :param at: (N,) ascending positions of the frames, at least one.
    :param panels: from top to bottom.
    :param rows: below them.
    :param title: title of the chart.
    :param unit: unit of `at`, such as 'second'.
    :return: SVG.
    """
    whole = Bins(at)
    heights = [*(panel.height_px for panel in panels), _ROW_PX * len(rows) + 1]
    height = _TOP_PX + sum(heights) + _BETWEEN_PX * len(panels) + _BOTTOM_PX
    left, width = _LEFT_PX / _WIDTH_PX, (_RIGHT_PX - _LEFT_PX) / _WIDTH_PX
    top_px = height - _TOP_PX
    with chart_style():
        figure = Figure((_WIDTH_PX * PX, height * PX))
        for index, height_px in enumerate(heights):
            bottom = (top_px - height_px) / height
            axes = figure.add_axes((left, bottom, width, height_px / height))
            axes.spines[:].set_visible(False)
            axes.set_xlim(whole.left[0], whole.right[-1])
            axes.tick_params('x', labelbottom=False)
            if index < len(panels):
                _draw_panel(axes, at, panels[index])
                middle = (top_px - height_px / 2) / height
                figure.text(10 / _WIDTH_PX, middle, panels[index].name, va='center')
            top_px -= height_px + _BETWEEN_PX
        _draw_rows(axes, at, rows)
        axes.tick_params('x', labelbottom=True, bottom=True)
        figure.text(10 / _WIDTH_PX, (_BOTTOM_PX - 14) / height, unit, va='center')
        words = (_sentence(curve, at, unit) for panel in panels for curve in panel.curves)
        return svg_from_figure(figure, title, ' '.join(words))


def _sentence(curve: Curve, at: Array, unit: str) -> str:
    minimum = int(np.nanargmin(curve.values))
    mean, low = np.nanmean(curve.values), curve.values[minimum]
    return f'{curve.name}: {mean:.3f} on average, minimum {low:.3f} at {unit} {at[minimum]:.6g}.'


def _draw_panel(axes: Axes, at: Array, panel: Panel) -> None:
    axes.set_ylim(panel.low, panel.high)
    axes.set_yticks(panel.ticks, [f'{tick:g}' for tick in panel.ticks])
    axes.grid(axis='y', clip_on=False)
    for shares, colour in panel.areas:
        bins, known = _known(at, shares)
        high = panel.low + (panel.high - panel.low) * bins.mean(known)
        _boxes(axes, bins, panel.low, high, to_rgba(colour))
    for curve in panel.curves:
        bins, known = _known(at, curve.values)
        if curve.has_band:
            _boxes(axes, bins, *bins.range(known), to_rgba(curve.colour, 0.22))
        gaps = np.flatnonzero(bins.is_before_gap) + 1
        x, y = (np.insert(v, gaps, np.nan) for v in (bins.middle, bins.mean(known)))
        axes.plot(x, y, color=curve.colour, linewidth=1.6, clip_on=False)
        alone = np.diff(gaps, prepend=0, append=len(known)) == 1
        first = np.append(0, gaps)[alone]  # a line through one point is not visible
        axes.plot(bins.middle[first], bins.mean(known)[first], '.', color=curve.colour)


def _draw_rows(axes: Axes, at: Array, rows: Sequence[Row]) -> None:
    axes.set_ylim(_ROW_PX * len(rows) + 1, 0)
    axes.set_yticks([_ROW_PX * index + 6.5 for index in range(len(rows))], [r.name for r in rows])
    axes.tick_params('y', labelcolor=INK)
    axes.hlines(
        [_ROW_PX * (index + 1) - 2.5 for index in range(len(rows))], *axes.get_xlim(), LINE,
        linewidth=1, clip_on=False,
    )  # fmt: skip
    for index, row in enumerate(rows):
        height = 13 / len(row.strips) - 1
        for number, (values, colour) in enumerate(row.strips):
            top = _ROW_PX * index + number * (height + 1)
            bins, known = _known(at, values)
            share = bins.mean(known)
            shades = np.tile(to_rgba(colour), (len(share), 1))
            shades[:, 3] = np.where(share > 0, np.maximum(share, _MIN_SHARE), 0)
            _boxes(axes, bins, top, top + height, to_rgba(_KNOWN))
            _boxes(axes, bins, top, top + height, shades)


def _boxes(
    axes: Axes, bins: 'Bins', low: Array | float, high: Array | float, colours: object
) -> None:
    """Fill a box for each bin, as an image within the SVG, whose size is bounded."""
    minimum = (axes.get_xlim()[1] - axes.get_xlim()[0]) * _MIN_WIDTH_PX / (_RIGHT_PX - _LEFT_PX)
    right = np.maximum(bins.right, bins.left + minimum)
    corners = ((bins.left, low), (bins.left, high), (right, high), (right, low))
    vertices = [np.stack(np.broadcast_arrays(*corner), 1) for corner in corners]
    axes.add_collection(
        PolyCollection(
            list(np.stack(vertices, 1)), facecolors=colours, linewidths=0, antialiaseds=False,
            rasterized=True, zorder=1,
        ),
        autolim=False,
    )  # fmt: skip


def _known(at: Array, values: Array) -> tuple['Bins', Array]:
    """Group the frames that have a value into bins."""
    is_known = ~np.isnan(values)
    return Bins(at[is_known]), values[is_known]


class Bins:
    """
    Bins of consecutive frames, so that few bins represent many frames.

    A bin ends where the next one starts, but does not cover a gap.

    :param at: (N,) ascending positions of the frames; if empty, there are no bins.
    :param maximum: maximum number of bins; gaps may add half as many.
    """

    def __init__(self, at: Array, maximum: int = _MAX_BINS) -> None:
        """Divide the frames evenly, and at gaps."""
        steps = np.diff(at)
        step = float(np.median(steps)) if steps.size else 1.0
        gaps = np.flatnonzero(steps > GAP * step) + 1
        even = np.linspace(0, len(at), min(len(at), maximum), endpoint=False).astype(int)
        self._starts = np.union1d(even, gaps if len(gaps) <= maximum // 2 else gaps[:0])
        self._sizes = np.diff(self._starts, append=len(at))
        ends = self._starts + self._sizes
        self.left = at[self._starts]
        following = np.append(at, at[-1:] + step)[ends]
        self.right = np.minimum(following, at[ends - 1] + GAP * step)
        self.middle = (self.left + self.right) / 2
        tolerance = 1e-6 * (self.right - self.left)[:-1]
        self.is_before_gap = self.left[1:] - self.right[:-1] > tolerance

    def mean(self, values: Array) -> Array:
        """
        Compute the mean of each bin.

        :param values: (N,).
        :return: (P,).
        """
        return np.asarray(np.add.reduceat(values, self._starts) / self._sizes)

    def range(self, values: Array) -> tuple[Array, Array]:
        """
        Compute the minimum and the maximum of each bin.

        :param values: (N,).
        :return: (P,) each.
        """
        return np.minimum.reduceat(values, self._starts), np.maximum.reduceat(values, self._starts)
