# SPDX-License-Identifier: Apache-2.0
"""
The code uses only names that the oldest supported Python, OpenCV and NumPy have.

OpenCV is that of Humble (4.5.4), NumPy that of setup.py (1.26). `names_of` has the output of
`dir()` for each, with submodules of NumPy, without classes of OpenCV's (`dnn_…`, `detail_…`).
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMES = Path(__file__).parent / 'names_of'
SOURCES = [ROOT / 'setup.py'] + [
    path
    for top in ('surgseg_ros', 'tools', 'launch')
    for path in sorted((ROOT / top).rglob('*.py'))
]
OLDEST = {'cv2': 'opencv-4.5.4.txt', 'numpy': 'numpy-1.26.txt'}


def used(source: str, module: str) -> set[str]:
    """Return the names of a module that a source uses, under any alias."""
    tree, local, found = ast.parse(source), set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for imported in node.names:
                top, _, below = imported.name.partition('.')
                if top == module:
                    found |= {below.partition('.')[0]} - {''}
                    local |= (
                        {imported.asname or top} if not below or not imported.asname else set()
                    )
        elif isinstance(node, ast.ImportFrom) and node.module:
            top, _, below = node.module.partition('.')
            if top == module:
                found |= {below.partition('.')[0]} if below else {name.name for name in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found |= {node.attr} if node.value.id in local else set()
    return found


def known(module: str) -> set[str]:
    return set((NAMES / OLDEST[module]).read_text().split())


@pytest.mark.parametrize('module', OLDEST)
def test_all_names_exist_in_the_oldest_libraries(module):
    asked = {
        path.relative_to(ROOT).as_posix(): sorted(used(path.read_text(), module) - known(module))
        for path in SOURCES
    }
    assert {path: names for path, names in asked.items() if names} == {}


def test_the_syntax_is_that_of_python_3_10():
    trees = [ast.parse(path.read_text(), str(path), feature_version=(3, 10)) for path in SOURCES]
    assert len(trees) > 100


@pytest.mark.parametrize(
    ('source', 'module', 'young'),
    [
        ('import cv2\ndef f(a: cv2.typing.MatLike): ...', 'cv2', {'typing'}),
        ('from cv2.typing import MatLike', 'cv2', {'typing'}),
        ('import cv2.typing', 'cv2', {'typing'}),
        ('import cv2 as cv\ncv.blur(cv.resize(a, b), c)', 'cv2', set()),
        (
            'def f():\n    import numpy as np\n    np.trapezoid(np.zeros(3))',
            'numpy',
            {'trapezoid'},
        ),
        ('from numpy import unique_values, zeros', 'numpy', {'unique_values'}),
        ('import numpy.typing as npt\nnpt.NDArray', 'numpy', set()),
        ('import torch\ntorch.typing', 'cv2', set()),
    ],
)
def test_a_newer_name_is_found(source, module, young):
    assert used(source, module) - known(module) == young
