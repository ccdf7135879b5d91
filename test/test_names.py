# SPDX-License-Identifier: Apache-2.0
"""Names are the field's own: those that were once private to this project do not come back."""

import ast
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]
SOURCES: Final = sorted(
    path for folder in ('surgseg_ros', 'tools', 'test') for path in (ROOT / folder).rglob('*.py')
)

PRIVATE: Final = {
    *('scrutiny', 'Eye', 'Doubt', 'Oddity', 'Course', 'signs', 'Look', 'look_at', 'sureness'),
    *(
        'drop_unsure',
        'Steadier',
        'Steadied',
        'steadied',
        'lay',
        'settle',
        'certainty',
        'Certainty',
    ),
    *('intake', 'Intake', 'Rescue', 'halve', 'upkeep', 'look_after', 'folding', 'fold', 'bounds'),
    *('give_back', 'share_cores', 'Rules', 'lateness', 'most_pictures', 'lockstep', 'tally'),
    *('Tally', 'Shelf', 'fate', 'Way', 'ways', 'here', 'Guess', 'Aside', 'Lost', 'ahead'),
    *('Helpers', 'moments', 'cloud', 'survey', 'look_over', 'end_with_parent', 'remains'),
    *('CutMcap', 'Views', 'Stretch', 'sift', 'faults', 'card', 'Wishes', 'lying', 'handheld'),
    *('reach', 'Picture', 'Ear', 'Told', 'told', 'way'),
}
"""Each has another name now; see the changelog."""

PREFIXES: Final = ('see_', 'say_', 'tell_')


def defined(tree):
    """Give the names of classes, functions, parameters, attributes and variables, with lines."""
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                yield node.name, node.lineno
            case ast.arg():
                yield node.arg, node.lineno
            case ast.Attribute(ctx=ast.Store()):
                yield node.attr, node.lineno
            case ast.Name(ctx=ast.Store()):
                yield node.id, node.lineno


@pytest.mark.parametrize('path', SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_name_is_private_to_the_project(path):
    names = [(path.stem, 0), *defined(ast.parse(path.read_text(encoding='utf-8')))]
    found = [
        f'{path.relative_to(ROOT)}:{line}: {name}'
        for name, line in names
        if name.lstrip('_') in PRIVATE or name.lstrip('_').startswith(PREFIXES)
    ]
    assert not found
