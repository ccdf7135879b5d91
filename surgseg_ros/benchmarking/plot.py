# SPDX-License-Identifier: Apache-2.0
"""Times as an image that needs nothing but a browser: an SVG of bars."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Final, NamedTuple

_COLOURS: Final = {
    'rest': '#c44e52',
    'slot': '#ccb974',
    'model': '#4c72b0',
    'wait': '#ccb974',
    'parse': '#c44e52',
    'fit': '#8fb3dd',
    'network': '#4c72b0',
    'upsample': '#2f4b7c',
    'download': '#937860',
    'detections': '#55a868',
    'publish': '#dd8452',
}
_NAMES: Final = {
    'rest': 'all that is not the model',
    'slot': 'wait for the one before',
    'model': 'model: fit, network, upsampling and argmax',
}
_LEFT, _WIDTH, _RIGHT, _ROW, _TOP = 190, 520, 260, 46, 84


class Bar(NamedTuple):
    """
    One row.

    :param name: stands to its left.
    :param parts: milliseconds by name, laid end to end.
    :param marks: milliseconds by name, told behind the bar: on its axis they would dwarf others.
    """

    name: str
    parts: Mapping[str, float]
    marks: Mapping[str, float]


def bars(title: str, note: str, rows: Sequence[Bar]) -> str:
    """
    Draw rows of bars on one axis.

    :param title: above.
    :param note: in small print: what it was measured on.
    :param rows: at least one.
    :return: SVG.
    """
    longest = max(sum(row.parts.values()) for row in rows) or 1.0
    scale = _WIDTH / longest
    names = list(dict.fromkeys(name for row in rows for name in row.parts))
    height = _TOP + _ROW * len(rows) + 34 + 20 * len(names)
    body = ''.join(_row(row, _TOP + _ROW * place, scale) for place, row in enumerate(rows))
    legend = ''.join(
        _legend(name, _TOP + _ROW * len(rows) + 10 + 20 * place)
        for place, name in enumerate(names)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + _RIGHT}" '
        f'height="{height}" font-family="sans-serif" font-size="13">'
        '<rect width="100%" height="100%" fill="#fff"/>'
        f'{_text(16, 28, title, size=17)}{_text(16, 52, note, colour="#666", size=11)}'
        f'{body}{legend}</svg>\n'
    )


def _row(row: Bar, top: int, scale: float) -> str:
    drawn, at = _text(16, top + 18, row.name), float(_LEFT)
    for name, time_ms in row.parts.items():
        width = max(0.0, time_ms * scale)
        label = escape(f'{name} {time_ms:.2f} ms')
        drawn += (
            f'<rect x="{at:.1f}" y="{top}" width="{width:.1f}" height="26" '
            f'fill="{_COLOURS.get(name, "#888")}"><title>{label}</title></rect>'
        )
        at += width
    marks = ', '.join(f'{name} {time_ms:.1f}' for name, time_ms in row.marks.items())
    drawn += _text(at + 6, top + 18, f'{sum(row.parts.values()):.1f} ms ({marks})')
    parts = ', '.join(f'{name} {time_ms:.1f}' for name, time_ms in row.parts.items())
    drawn += _text(_LEFT, top + 38, parts, colour='#666', size=10)
    return drawn


def _legend(name: str, top: int) -> str:
    colour, said = _COLOURS.get(name, '#888'), _NAMES.get(name, name)
    square = f'<rect x="{_LEFT}" y="{top}" width="12" height="12" fill="{colour}"/>'
    return square + _text(_LEFT + 18, top + 11, said, size=12)


def _text(x: float, y: float, text: str, colour: str = '#222', size: int = 13) -> str:
    return f'<text x="{x:.1f}" y="{y}" fill="{colour}" font-size="{size}">{escape(text)}</text>'
