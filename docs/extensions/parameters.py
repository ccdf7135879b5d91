# SPDX-License-Identifier: Apache-2.0
"""
The directive `parameters`: rows of the node's own parameter table, so that no page can drift.

    ```{parameters}
    :gates:
    ```

Without an option it lists all parameters but those of the quality gates; `:gates:` lists those.
"""

from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import Directive, directives
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


class ParameterTable(Directive):
    """Directive that inserts a table of parameters."""

    option_spec: ClassVar[Any] = {'gates': directives.flag}

    def run(self) -> list[nodes.Node]:
        """Make the table."""
        gates = 'gates' in self.options
        rows = [row for row in TABLE if row.name.startswith('gates.') == gates]
        group = nodes.tgroup(cols=len(HEADINGS))
        group += [nodes.colspec(colwidth=width) for width in WIDTHS]
        group += nodes.thead('', _row(HEADINGS, literal=0))
        group += nodes.tbody('', *(_row(cells_of(row), literal=3) for row in rows))
        return [nodes.table('', group, classes=['parameters'])]


def _row(cells: tuple[str, ...], literal: int) -> nodes.row:
    """Make a row whose first cells are code, but for the second, the type."""
    row = nodes.row()
    for index, text in enumerate(cells):
        kind = nodes.literal if index < literal and index != 1 else nodes.Text
        inline = kind(text, text) if kind is nodes.literal else nodes.Text(text)
        row += nodes.entry('', nodes.paragraph('', '', inline))
    return row


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive('parameters', ParameterTable)
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
