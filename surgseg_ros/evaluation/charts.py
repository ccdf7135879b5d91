# SPDX-License-Identifier: Apache-2.0
"""Pieces of a report as HTML: cards, bars, tables, a matrix, figures, and the page around them."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Final

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.labels import PALETTE
from surgseg_ros.evaluation.metrics import SCORED
from surgseg_ros.evaluation.panels import Panel
from surgseg_ros.evaluation.style import STYLE

_AXIS: Final = (0, 0.25, 0.5, 0.75, 1)
_DARK_CELL: Final = 0.45
"""From this share on, a cell of the matrix is so dark that its number is white."""

_NOTHING: Final = '&ndash;'


def page(title: str, body: str, style: str = '') -> str:
    """
    Make the whole file.

    :param title: what it is about.
    :param body: HTML of the sections.
    :param style: CSS of what this page alone has.
    :return: the HTML.
    """
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(title)}</title><style>{STYLE}{style}</style></head>\n'
        f'<body><main><h1>{escape(title)}</h1>\n{body}</main></body></html>\n'
    )


def section(title: str, content: str, note: str = '') -> str:
    """
    Put a heading and a note above something.

    :param title: the heading.
    :param content: HTML.
    :param note: a sentence or two.
    :return: the HTML.
    """
    said = explain(note) if note else ''
    return f'<section><h2>{escape(title)}</h2>{said}{content}</section>\n'


def explain(text: str) -> str:
    """
    Say something in small print.

    :param text: a sentence or two.
    :return: the HTML.
    """
    return f'<p class="note">{escape(text)}</p>'


def cards(scores: Iterable[tuple[str, float, float]]) -> str:
    """
    Show the few numbers that matter most.

    :param scores: name, value and floor of each.
    :return: the HTML.
    """
    shown = (
        f'<div class="card">{escape(name)}<b>{value:.4f}</b><span>floor {floor:.4f}</span></div>'
        for name, value, floor in scores
    )
    return f'<div class="cards">{"".join(shown)}</div>'


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """
    Lay values out.

    :param head: names of the columns.
    :param rows: text, integers, shares, or None where there is no value.
    :return: the HTML.
    """
    titles = ''.join(f'<th>{escape(title)}</th>' for title in head)
    body = ''.join(
        f'<tr>{"".join(f"<td>{_cell(value)}</td>" for value in row)}</tr>' for row in rows
    )
    return f'<table class="numbers"><tr>{titles}</tr>{body}</table>'


def _cell(value: object) -> str:
    if value is None:
        return _NOTHING
    return f'{value:.4f}' if isinstance(value, float) else escape(str(value))


def bars(
    names: Sequence[str],
    columns: Mapping[str, tuple[Sequence[float | None], Sequence[float] | None]],
) -> str:
    """
    Draw a bar for each class and each kind of value, on axes from 0 to 1.

    :param names: of the nine classes that are scored.
    :param columns: title to nine values (None where there is none), and nine floors, if any.
    :return: the HTML.
    """
    axis = ''.join(f'<span style="left:{100 * at:g}%">{at:g}</span>' for at in _AXIS)
    heads = ''.join(f'<div class="head">{escape(title)}</div>' for title in columns)
    rows = ''
    for place, (label, name) in enumerate(zip(SCORED, names, strict=True)):
        rows += f'<div class="name">{_swatch(label)}{escape(name)}</div>'
        for values, floors in columns.values():
            rows += _bar(label, values[place], None if floors is None else floors[place])
    feet = f'<div class="axis">{axis}</div>' * len(columns)
    return f'<div class="bars"><div></div>{heads}{rows}<div></div>{feet}</div>'


def _bar(label: int, value: float | None, floor: float | None) -> str:
    if value is None:
        return f'<div class="track"><span class="value">{_NOTHING}</span></div>'
    tick = '' if floor is None else f'<div class="tick" style="left:{100 * floor:.2f}%"></div>'
    return (
        f'<div class="track"><div class="bar" style="width:{100 * value:.2f}%;'
        f'background:{_colour(label)}"></div>{tick}<span class="value">{value:.2f}</span></div>'
    )


def matrix(counts: NDArray[np.int64], rows: Sequence[str], columns: Sequence[str]) -> str:
    """
    Draw a confusion matrix, each row in percent of its sum.

    :param counts: (R, C) integers.
    :param rows: R names.
    :param columns: C names; the first R are those of the rows.
    :return: the HTML.
    """
    heads = ''.join(f'<th>{escape(name)}</th>' for name in columns)
    body = ''
    for place, (name, row) in enumerate(zip(rows, counts, strict=True)):
        shares = row / row.sum() if row.any() else [None] * len(row)
        cells = ''.join(_share(share, place == at) for at, share in enumerate(shares))
        body += f'<tr><th class="row">{escape(name)}</th>{cells}</tr>'
    corner = '<th class="row corner">truth ↓<br>prediction →</th>'
    return f'<table class="matrix"><tr>{corner}{heads}</tr>{body}</table>'


def _share(share: float | None, same: bool) -> str:
    if share is None:
        return f'<td>{_NOTHING}</td>'
    text = '·' if not share else '<0.1' if share < 0.001 else f'{100 * share:.1f}'
    ink = '#fff' if share > _DARK_CELL else 'var(--ink)'
    kind = ' class="same"' if same else ''
    colour = f'rgb(31 95 153 / {share**0.6:.3f})'  # small shares stay visible
    return f'<td{kind} style="background:{colour};color:{ink}">{escape(text)}</td>'


def figure(title: str, values: str, panels: Iterable[Panel], below: str) -> str:
    """
    Show images side by side.

    :param title: stands above, left.
    :param values: stands above, right.
    :param panels: the images.
    :param below: HTML.
    :return: the HTML.
    """
    shown = ''.join(
        f'<div class="panel"><span>{escape(panel.title)}</span>{_picture(panel)}</div>'
        for panel in panels
    )
    caption = f'<figcaption>{escape(title)}<span>{escape(values)}</span></figcaption>'
    return f'<figure>{caption}<div class="panels">{shown}</div>{below}</figure>'


def _picture(panel: Panel) -> str:
    if panel.uri is None:
        return '<div class="none">none</div>'
    return f'<img src="{panel.uri}" alt="{escape(panel.title)}">'


def chip(label: int, text: str) -> str:
    """
    Say something about a class beside its colour.

    :param label: the class.
    :param text: what is said.
    :return: the HTML.
    """
    return f'<span class="chip">{_swatch(label)}{escape(text)}</span>'


def _swatch(label: int) -> str:
    return f'<span class="swatch" style="background:{_colour(label)}"></span>'


def _colour(label: int) -> str:
    return '#{:02x}{:02x}{:02x}'.format(*PALETTE[label])
