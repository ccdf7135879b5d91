# SPDX-License-Identifier: Apache-2.0
"""Numbers are right-aligned: in each column of a table that holds nothing but numbers."""

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

NUMBER = r'[+\-]?\d[\d.]*(,\d{3})*(\s?(%|ms|s|Hz|MB|MiB))?'
NUMBERS = re.compile(f'{NUMBER}(, {NUMBER})*')


def align(app: Sphinx, doctree: nodes.document) -> None:
    """Mark the cells of numeric columns, and their headings."""
    for body in doctree.findall(nodes.tbody):
        texts = [[cell.astext().strip() for cell in row] for row in body]
        columns = [[text for text in column if text not in ('', '-')] for column in zip(*texts)]
        numeric = [bool(column) and all(map(NUMBERS.fullmatch, column)) for column in columns]
        for row in body.parent.findall(nodes.row):
            for cell, right in zip(row, numeric, strict=False):
                if right and not cell['classes']:
                    cell['classes'] = ['text-right']


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the step."""
    app.connect('doctree-read', align)
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
