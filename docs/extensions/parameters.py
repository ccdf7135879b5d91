# SPDX-License-Identifier: Apache-2.0
"""
The directive `parameters`: rows of the node's own parameter table, so that no page can drift.

    ```{parameters}
    :gates:
    ```

Without an option it lists all parameters but those of the quality gates; `:gates:` lists those.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import Directive, directives
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx

from surgseg_ros.core.parameters import TABLE, Parameter

HEADINGS = ('parameter', 'type', 'default', 'range', 'change', 'description')
WIDTHS = (18, 9, 9, 14, 10, 40)


def type_of(value: Any) -> str:
    """
    Name a parameter's type as `ros2 param describe` does.

    :param value: its default.
    :return: `boolean`, `integer`, `double`, `string`, or one of them with ` array`.
    """
    if isinstance(value, (list, tuple)):
        return f'{type_of(value[0])} array'
    # bool first: it is an int as well
    kinds = {bool: 'boolean', int: 'integer', float: 'double', str: 'string'}
    return kinds[type(value)]


def range_of(row: Parameter) -> str:
    """
    Write down what values are accepted.

    :param row: of the table.
    :return: the choices, or the least and the largest value; empty for any.
    """
    if row.choices:
        return ', '.join(row.choices)
    if row.span:
        low, high = row.span
        return f'{low:g} to {high:,.10g}' if high >= 1000 else f'{low:g} to {high:g}'
    return ''


def change_of(row: Parameter) -> str:
    """
    Write down when a change takes effect.

    :param row: of the table.
    :return: `live`, `configure`, or `see text` where the description says when.
    """
    if row.when:
        return 'see text'
    return 'live' if row.live else 'configure'


def cells_of(row: Parameter) -> tuple[str, ...]:
    """
    Write down one parameter.

    :param row: of the table.
    :return: the cells below HEADINGS.
    """
    default = str(row.default).lower() if isinstance(row.default, bool) else str(row.default)
    description = f'{row.description} {row.when}'.strip()
    return (
        row.name,
        type_of(row.default),
        default if default else "''",
        range_of(row),
        change_of(row),
        description,
    )


def inline(text: str) -> list[nodes.Node]:
    """
    Make code of `code`, and a link of the name of a page such as docs/models.md.

    :param text: a description.
    :return: its nodes.
    """
    parts: list[nodes.Node] = []
    for index, part in enumerate(re.split(r'`([^`]+)`|docs/(\w+)\.md', text)):
        if index % 3 == 0:
            parts.append(nodes.Text(part))
        elif index % 3 == 1 and part:
            parts.append(nodes.literal(part, part))
        elif part:
            options = {'refdomain': 'std', 'reftype': 'doc', 'refexplicit': True}
            name = nodes.Text(f'docs/{part}.md')
            parts.append(pending_xref('', name, reftarget=f'/{part}', **options))
    return parts


def table(
    headings: Sequence[str], widths: Sequence[int], rows: Iterable[Sequence[str]], code: set[int]
) -> nodes.table:
    """
    Make a table whose last column has descriptions.

    :param headings: of the columns.
    :param widths: of the columns, in proportion.
    :param rows: texts of the cells.
    :param code: indices of the columns that contain code.
    :return: the table.
    """
    group = nodes.tgroup(cols=len(headings))
    group += [nodes.colspec(colwidth=width) for width in widths]
    group += nodes.thead('', _row(headings, set()))
    group += nodes.tbody('', *(_row(row, code) for row in rows))
    return nodes.table('', group, classes=['parameters'])


def _row(cells: Sequence[str], code: set[int]) -> nodes.row:
    row = nodes.row()
    for index, text in enumerate(cells):
        content = [nodes.literal(text, text)] if text and index in code else inline(text)
        row += nodes.entry('', nodes.paragraph('', '', *content))
    return row


class ParameterTable(Directive):
    """Directive that inserts a table of parameters."""

    option_spec: ClassVar[Any] = {'gates': directives.flag}

    def run(self) -> list[nodes.Node]:
        """Make the table."""
        gates = 'gates' in self.options
        rows = [cells_of(row) for row in TABLE if row.name.startswith('gates.') == gates]
        return [table(HEADINGS, WIDTHS, rows, code={0, 2})]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive('parameters', ParameterTable)
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
