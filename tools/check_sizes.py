# SPDX-License-Identifier: Apache-2.0
"""
Reports functions over 40 lines and files over 400, as a part of `make check`.

The lines of a function are counted from `def` to the end, with signature and docstring.

python -m tools.check_sizes [PATH ...]
"""

import ast
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

FUNCTION_LINES: Final = 40
FILE_LINES: Final = 400

_FOLDERS: Final = ('surgseg_ros', 'tools', 'test', 'launch')


def violations(files: Iterable[Path]) -> Iterator[str]:
    """
    Find functions and files that are too long.

    :param files: Python files.
    :return: `path:line: name and length` of each.
    """
    for path in files:
        text = path.read_text()
        if (lines := len(text.splitlines())) > FILE_LINES:
            yield f'{path}:1: {lines} lines, more than {FILE_LINES}: split the file'
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES:
                long = f'{node.name} has {lines} lines, more than {FUNCTION_LINES}'
                yield f'{path}:{node.lineno}: {long}: split the function'


def main(argv: Sequence[str] | None = None) -> int:
    """
    Check files, and folders with all their Python files.

    :param argv: paths of files and folders; those of this repository by default.
    :return: 1 if something is too long, else 0.
    :raises FileNotFoundError: if there is no such path.
    """
    paths = [Path(word) for word in (sys.argv[1:] if argv is None else argv) or _FOLDERS]
    for path in paths:
        path.stat()
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob('*.py'))]
    found = list(violations(sorted(files)))
    print(*found, sep='\n', end='\n' if found else '')
    return 1 if found else 0


if __name__ == '__main__':
    sys.exit(main())
