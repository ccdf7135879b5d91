# SPDX-License-Identifier: Apache-2.0
"""Pages: what templates can rely on."""

from pathlib import Path

import pytest
from jinja2 import UndefinedError
from page import Page

from surgseg_ros import reports
from surgseg_ros.core.labels import PALETTE
from surgseg_ros.reports.pages import class_colour, write_page

TEMPLATES = Path(reports.__file__).parent / 'templates'
CONTENT = {
    **{'title': '<b> & "title"', 'frames': 1, 'missing': 0, 'flicker': '', 'bars': '<svg>'},
    **{'meanings': {'floor': 'the least'}, 'scores': [('mIoU', 0.5, 0.25)]},
    **{'classes': [('thread', 3, None)], 'videos': [], 'confusion': [('thread', [0.5, 0, None])]},
    **{'predicted_names': ['thread'], 'worst': []},
}


def write(path, **changes):
    return write_page(path, 'evaluation.html.j2', **{**CONTENT, **changes}).read_text()


def test_text_is_escaped_and_values_have_few_digits(tmp_path):
    html = write(tmp_path / 'deep/er/page.html')
    page = Page(html)
    assert not page.open
    assert '<b> & "title"' in page.text
    assert '<b> &' not in html
    assert '<svg>' not in html, 'plain text must be escaped'
    assert 'floor 0.2500' in page.text
    assert '>–</td>' in html  # noqa: RUF001
    assert '>50.0</td>' in html


def test_an_undefined_name_is_an_error(tmp_path):
    content = {name: value for name, value in CONTENT.items() if name != 'missing'}
    with pytest.raises(UndefinedError, match='missing'):
        write_page(tmp_path / 'page.html', 'evaluation.html.j2', **content)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('path', sorted(TEMPLATES.iterdir()), ids=lambda path: path.name)
def test_templates_load_nothing_and_mark_nothing_as_safe(path):
    text = path.read_text()
    assert path.name.endswith('.html.j2')
    assert not any(word in text for word in ('http', 'src="/', '<script', '|safe', 'autoescape'))


def test_classes_have_the_colors_of_overlays():
    assert class_colour(1) == '#66ccee'
    assert int(class_colour(9)[1:3], 16) == PALETTE[9][0]
