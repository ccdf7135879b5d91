# SPDX-License-Identifier: Apache-2.0
"""Too long functions and files are reported with their position."""

import pytest

from tools.check_sizes import FILE_LINES, FUNCTION_LINES, main

HEAD = ['def f(', '    x,', '):', '    """', '    Do it.', '    """']


def function(lines: int, indent: str = '', word: str = '') -> str:
    body = [*HEAD, *['    x += 1'] * (lines - len(HEAD))]
    return ''.join(f'{indent}{line}\n' for line in [word + body[0], *body[1:]])


def test_signature_and_docstring_are_counted_but_decorators_are_not(tmp_path, capsys):
    path = tmp_path / 'a.py'
    path.write_text('import g\n\n\n@g\n' + function(FUNCTION_LINES))
    assert main([str(path)]) == 0
    path.write_text('import g\n\n\n@g\n' + function(FUNCTION_LINES + 1))
    assert main([str(path)]) == 1
    assert capsys.readouterr().out == (
        f'{path}:5: f has 41 lines, more than 40: split the function\n'
    )


@pytest.mark.parametrize(
    'text',
    [
        'class C:\n    x = 1\n\n' + function(FUNCTION_LINES + 1, '    '),
        'if True:\n\n\n' + function(FUNCTION_LINES + 1, '    ', 'async '),
    ],
)
def test_methods_and_coroutines_are_found_in_any_folder(tmp_path, capsys, text):
    (tmp_path / 'b').mkdir()
    (tmp_path / 'b/c.py').write_text(text)
    (tmp_path / 'b/d.txt').write_text(text)
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().out.startswith(f'{tmp_path}/b/c.py:4: f has 41 lines')


def test_a_missing_path_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        main([str(tmp_path / 'nowhere')])


def test_a_file_is_measured_as_a_whole(tmp_path, capsys):
    path = tmp_path / 'a.py'
    path.write_text('x = 1\n' * FILE_LINES)
    assert main([str(path)]) == 0
    path.write_text('x = 1\n' * (FILE_LINES + 1))
    assert main([str(path)]) == 1
    assert capsys.readouterr().out == f'{path}:1: 401 lines, more than 400: split the file\n'
