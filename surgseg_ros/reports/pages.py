# SPDX-License-Identifier: Apache-2.0
"""Pages: self-contained HTML files, rendered from the templates of this package."""

from functools import cache
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from surgseg_ros.core.files import write_whole
from surgseg_ros.core.labels import PALETTE

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
    write_whole(path, html.encode())
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
