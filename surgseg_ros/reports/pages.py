# SPDX-License-Identifier: Apache-2.0
"""
Pages: HTML files from the templates of this package, and the charts in them.

Charts are drawn by Matplotlib: `Figure` objects, never pyplot and its global state.
"""

import io
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from surgseg_ros.core.files import write_atomically
from surgseg_ros.core.labels import CLASS_COUNT, CLASS_NAMES, PALETTE
from surgseg_ros.reports import SHEET_IMAGE_PX

INK: Final = '#1d2733'
SOFT: Final = '#5d6b7a'
LINE: Final = '#d9e0e7'
BLUE: Final = '#1f5f99'
"""Colours that pages and charts share."""

_TEMPLATES: Final = Path(__file__).parent / 'templates'


def write_page(path: Path, template: str, **content: object) -> Path:
    """
    Render a template, and write the page.

    :param path: the file; its folder is created if it does not exist.
    :param template: name of a file in `templates/`.
    :param content: all variables of the template; text is escaped, `Markup` is not.
    :return: `path`.
    :raises OSError: if it cannot be written.
    """
    html = _environment().get_template(template).render(content)
    write_atomically(path, html.encode())
    return path


def class_colour(label: int) -> str:
    """
    Return the colour in which a class is drawn.

    :param label: the class.
    :return: a colour for CSS and Matplotlib, such as `#66ccee`.
    """
    return '#{:02x}{:02x}{:02x}'.format(*PALETTE[label])


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,  # a misspelt name is an error, not a gap in the page
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {'ink': INK, 'soft': SOFT, 'line': LINE}
    environment.filters |= {'cell': _cell, 'share': _share, 'class_colour': class_colour}
    return environment


def _cell(value: object) -> str:
    if value is None:
        return '–'  # noqa: RUF001 (an en dash is meant)
    return f'{value:.4f}' if isinstance(value, float) else str(value)


def _share(share: float | None) -> str:
    """Format a share in percent, short enough for a cell of a matrix."""
    if share is None:
        return _cell(None)
    return '·' if not share else '<0.1' if share < 0.001 else f'{100 * share:.1f}'


Array = NDArray[np.float64]

TEXT_PX: Final = 13
SMALL_PX: Final = 11
PX: Final = 1 / 72
"""Inches; Matplotlib writes 72 units of an SVG to the inch, so that a unit is a pixel here."""

_DPI: Final = 144
"""Resolution of images within the SVG: sharp on screens of twice the density."""

_SETTINGS: Final = {
    'axes.axisbelow': True,
    'axes.edgecolor': LINE,
    'axes.facecolor': 'none',
    'axes.labelcolor': INK,
    'axes.spines.right': False,
    'axes.spines.top': False,
    'font.family': ['sans-serif'],
    'font.sans-serif': ['DejaVu Sans'],  # Matplotlib ships it; texts are measured with it
    'font.size': TEXT_PX,
    'grid.color': LINE,
    'svg.fonttype': 'none',  # text stays text
    'svg.hashsalt': 'surgseg_ros',  # the same chart is the same bytes
    'text.color': INK,
    'xtick.bottom': False,
    'xtick.color': SOFT,
    'xtick.major.pad': 6,
    'ytick.left': False,
    'ytick.color': SOFT,
}
_NAMESPACES: Final = (
    ' xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
)
_STYLE_ELEMENT: Final = re.compile(r'\s*<defs>\s*<style.*?</style>\s*</defs>', re.DOTALL)
_GROUP_ID: Final = re.compile(r'<g id="[^"]*"')
_OUTLINE: Final = re.compile(r'(?<= d=")[^"]*')
_DIGITS: Final = re.compile(r'\d+\.\d{3,}')


def chart_style() -> AbstractContextManager[None]:
    """
    Use the settings of this package instead of those in a matplotlibrc.

    :return: context that restores Matplotlib's settings.
    """
    return style.context(['default', _SETTINGS])


def svg_from_figure(
    figure: Figure, title: str, description: str, *, standalone: bool = False
) -> Markup:
    """
    Render a figure as SVG. Call it within `chart_style`.

    :param figure: the figure.
    :param title: its title, for screen readers and as a tooltip.
    :param description: a description of its content, for screen readers.
    :param standalone: whether it is a separate file, and not part of a page.
    :return: the element.
    """
    buffer = io.StringIO()
    nothing = dict.fromkeys(('Date', 'Creator', 'Format', 'Type'))
    figure.savefig(buffer, format='svg', dpi=_DPI, metadata=nothing)
    drawn = buffer.getvalue()
    drawn = drawn[drawn.index('>', drawn.index('<svg')) + 1 : drawn.rindex('</svg>')]
    # A page has many charts: styles of one must not apply to another, and ids must be unique.
    drawn = _GROUP_ID.sub('<g', _STYLE_ELEMENT.sub('', drawn, count=1))
    drawn = _OUTLINE.sub(lambda d: _DIGITS.sub(lambda n: f'{float(n[0]):.2f}', d[0]), drawn)
    width, height = (round(inches / PX) for inches in figure.get_size_inches())
    opening = (
        f'<svg class="chart" role="img" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" stroke-linejoin="round"{_NAMESPACES * standalone}>'
    )
    named = Markup('<title>{}</title><desc>{}</desc>').format(title, description)
    return Markup(f'{opening}{named}{drawn}</svg>\n')  # Matplotlib has escaped its texts


def _sentence(title: str, values: Mapping[str, float | None]) -> str:
    known = (f'{name} {value:.2f}' for name, value in values.items() if value is not None)
    return f'{title}: {", ".join(known) or "none"}.'


def class_bars(
    labels: Sequence[int],
    columns: Mapping[str, tuple[Sequence[float | None], Sequence[float] | None]],
) -> Markup:
    """
    Draw a bar for each class and each kind of value, on axes from 0 to 1.

    :param labels: the classes.
    :param columns: title to a value for each class (None if it is missing), and a floor for each,
        if any.
    :return: SVG.
    """
    positions, names = np.arange(len(labels)), [CLASS_NAMES[label] for label in labels]
    height = 32 * len(labels) + 60
    with chart_style():
        figure = Figure((1130 * PX, height * PX))
        all_axes = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
        figure.subplots_adjust(130 / 1130, 30 / height, 1090 / 1130, 0.92, wspace=0.2)
        for axes, (title, (values, floors)) in zip(all_axes, columns.items()):
            for position, label, value in zip(positions, labels, values):
                if value is not None:
                    colour = class_colour(label)
                    axes.barh(position, value, 0.6, color=colour, edgecolor=INK, linewidth=0.6)
                text = '–' if value is None else f'{value:.2f}'  # noqa: RUF001
                axes.text(1.03, position, text, va='center')
            if floors is not None:
                ends = (positions - 0.42, positions + 0.42)
                axes.vlines(floors, *ends, 'white', linewidth=5, clip_on=False)  # on dark bars
                axes.vlines(floors, *ends, INK, linewidth=3, clip_on=False)
            axes.set_title(title, loc='left', fontsize=TEXT_PX, fontweight='bold')
            axes.set(xlim=(0, 1), ylim=(len(labels) - 0.5, -0.5))
            axes.set_yticks(positions, names)
            axes.tick_params('y', labelcolor=INK)
            axes.set_xticks((0, 0.25, 0.5, 0.75, 1), ('0', '0.25', '0.5', '0.75', '1'))
            axes.grid(axis='x')
        words = (_sentence(key, dict(zip(names, of[0]))) for key, of in columns.items())
        return svg_from_figure(figure, 'Scores of each class', ' '.join(words))


def confidence_plot(confidence: Array, iou: Array) -> Markup:
    """
    Plot the number of frames for each combination of confidence and IoU.

    :param confidence: (N,) confidence of the frames, at least one.
    :param iou: (N,) IoU of the frames.
    :return: SVG.
    """
    edges = np.linspace(round_down(float(confidence.min())), 1, 61), np.linspace(0, 1, 41)
    counts, *_ = np.histogram2d(confidence, iou, edges)
    colours = LinearSegmentedColormap.from_list('frames', ('#cfdeec', BLUE, '#0b2745'))
    with chart_style():
        figure = Figure((700 * PX, 340 * PX), layout='constrained')
        axes = figure.subplots()
        mesh = axes.pcolormesh(
            *edges, np.ma.masked_equal(counts.T, 0), cmap=colours, vmin=1, rasterized=True
        )
        axes.set(ylim=(0, 1), xlabel='confidence', ylabel='IoU')
        axes.grid()
        bar = figure.colorbar(mesh, ax=axes, label='frames', ticks=(1, counts.max()), pad=0.02)
        bar.outline.set_visible(False)
        fit = np.corrcoef(confidence, iou)[0, 1] if np.ptp(confidence) and np.ptp(iou) else None
        words = f'{len(iou)} frames' + ('' if fit is None else f'; correlation {fit:.2f}')
        return svg_from_figure(figure, 'Confidence against IoU', f'{words}.')


def round_down(confidence: float) -> float:
    """
    Choose the start of a confidence axis.

    :param confidence: the lowest confidence.
    :return: a round number that is not larger, at most 0.95.
    """
    return min(math.floor(confidence * 20) / 20, 0.95)


class Bar(NamedTuple):
    """
    One row of `time_bars`.

    :param name: its label on the left.
    :param parts: milliseconds by name, drawn end to end.
    :param marks: milliseconds by name, written after the bar, since they would be much longer.
    """

    name: str
    parts: Mapping[str, float]
    marks: Mapping[str, float]


def time_bars(
    title: str, note: str, rows: Sequence[Bar], kinds: Mapping[str, tuple[str, str]]
) -> Markup:
    """
    Draw rows of bars on one axis, as a separate file.

    :param title: title of the chart.
    :param note: a small note, such as the machine of the measurement.
    :param rows: at least one.
    :param kinds: colour and meaning of each part, in the order of the legend.
    :return: SVG.
    """
    above, row_px, below = 66, 64, 60 + 22 * math.ceil(len(kinds) / 3)
    height = above + row_px * len(rows) + below
    with chart_style():
        figure = Figure((970 * PX, height * PX))
        axes = figure.add_axes((190 / 970, below / height, 0.53, row_px * len(rows) / height))
        for position, row in enumerate(rows):
            _draw_parts(axes, position, row, kinds)
        axes.set(ylim=(len(rows) - 0.3, -0.4), xlabel='ms')
        axes.set_yticks(range(len(rows)), [row.name for row in rows])
        axes.tick_params('y', labelcolor=INK)
        axes.grid(axis='x')
        figure.text(16 / 970, 1 - 30 / height, title, fontsize=17)
        figure.text(16 / 970, 1 - 52 / height, note, fontsize=SMALL_PX, color=SOFT)
        handles = [Patch(color=colour, label=meaning) for colour, meaning in kinds.values()]
        at = (180 / 970, 4 / height)
        figure.legend(handles=handles, loc='lower left', bbox_to_anchor=at, ncols=3, frameon=False)
        words = ' '.join(_sentence(row.name, row.parts) for row in rows)
        return svg_from_figure(figure, title, f'In ms. {words}', standalone=True)


_PER_LINE: Final = 6
"""Number of parts of a bar that fit below it in one line."""


def _draw_parts(axes: Axes, position: int, row: Bar, kinds: Mapping[str, tuple[str, str]]) -> None:
    whole = 0.0
    for name, time_ms in row.parts.items():
        axes.barh(position, time_ms, 0.5, whole, color=kinds[name][0])
        whole += time_ms
    marks = ', '.join(f'{name} {time_ms:.1f}' for name, time_ms in row.marks.items())
    text = f'{whole:.1f} ms ({marks})'
    axes.annotate(text, (whole, position), (6, 0), textcoords='offset points', va='center')
    parts = [f'{name} {time_ms:.2f}' for name, time_ms in row.parts.items()]
    lines = (
        ', '.join(parts[start : start + _PER_LINE]) for start in range(0, len(parts), _PER_LINE)
    )
    axes.text(0, position + 0.31, ',\n'.join(lines), va='top', fontsize=10, color=SOFT)


_SHEET_COLUMNS: Final = 4
_SHEET_PX: Final = _SHEET_COLUMNS * SHEET_IMAGE_PX
"""Width of a data sheet."""

_MIN_SHARE: Final = 1e-6
"""Start of the logarithmic axis of the pixels' shares."""


def data_sheet(
    pixel_share: Sequence[float],
    frame_share: Sequence[float],
    frame_count: int,
    images: Sequence[tuple[str, NDArray[np.uint8]]],
) -> bytes:
    """
    Draw the frequencies of the classes in a data set, with images of it below.

    :param pixel_share: share of the pixels by class, 0..1.
    :param frame_share: share of the frames by class, 0..1.
    :param frame_count: number of frames.
    :param images: their names, and (h, SHEET_IMAGE_PX, 3) uint8 RGB each.
    :return: a PNG file, as wide as four images.
    """
    bars_px, name_px = 34 * CLASS_COUNT + 90, TEXT_PX + 11
    rows = [images[at : at + _SHEET_COLUMNS] for at in range(0, len(images), _SHEET_COLUMNS)]
    heights = [max(len(image) for _, image in row) + name_px for row in rows]
    whole = bars_px + sum(heights)
    with chart_style():
        figure = Figure((_SHEET_PX * PX, whole * PX), dpi=1 / PX)
        bottom, height = 1 - (bars_px - 45) / whole, (bars_px - 90) / whole
        left = figure.add_axes((0.1, bottom, 0.38, height), xscale='log', xlim=(_MIN_SHARE, 1))
        _draw_shares(left, 'pixels (logarithmic)', pixel_share, 4)
        right = figure.add_axes((0.56, bottom, 0.38, height), xlim=(0, 1))
        _draw_shares(right, f'{frame_count} frames', frame_share, 1)
        right.tick_params(labelleft=False)
        below = whole - bars_px
        for row, row_px in zip(rows, heights):
            for column, (name, image) in enumerate(row):
                x_px = column * SHEET_IMAGE_PX
                figure.figimage(image, x_px, below - name_px - len(image), origin='upper')
                at = (x_px + 6) / _SHEET_PX, (below - name_px + 6) / whole
                figure.text(*at, name)
            below -= row_px
        buffer = io.BytesIO()
        figure.savefig(buffer, format='png', metadata={'Software': None})
        return buffer.getvalue()


def _draw_shares(axes: Axes, title: str, shares: Sequence[float], digits: int) -> None:
    """Draw a bar for each class, with its share in percent."""
    for label, share in enumerate(shares):
        colour = class_colour(label)
        axes.barh(label, share, 0.7, color=colour, edgecolor=INK, linewidth=0.6)
        axes.annotate(
            f'{100 * share:.{digits}f} %',
            (max(share, axes.get_xlim()[0]), label),
            (6, 0),
            textcoords='offset points',
            va='center',
        )
    axes.set_title(f'share of {title}', loc='left', fontsize=TEXT_PX, fontweight='bold')
    axes.set_ylim(len(shares) - 0.5, -0.5)
    axes.set_yticks(range(len(shares)), CLASS_NAMES)
    axes.tick_params('y', labelcolor=INK)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f'{100 * share:g} %'))
    axes.minorticks_off()
    axes.grid(axis='x')
