# SPDX-License-Identifier: Apache-2.0
"""Programs started with a Python that lacks their libraries name the remedy."""

import subprocess
import sys
from pathlib import Path

import pytest

from surgseg_ros.__main__ import VERBS
from surgseg_ros.core.errors import counted

ROOT = Path(__file__).resolve().parents[2]
REMEDY = '.venv/bin/python -m colcon build'

# Like the system's Python without the packages of this environment, and with all but torch.
RUN = f'import sys; sys.path.insert(0, {str(ROOT)!r}); from surgseg_ros.__main__ import main; '
BARE = [sys.executable, '-I', '-S', '-c', RUN + 'sys.exit(main(sys.argv[1:]))']
# Arguments of verbs that parse them before they import libraries.
READ_FIRST = {'bag_player': ['any'], 'benchmark': ['--model', 'any', '--json', '/dev/null']}
WITHOUT_TORCH = "sys.modules['torch'] = None; sys.exit(main(sys.argv[1:]))"


@pytest.mark.parametrize('verb', VERBS)
def test_every_verb_names_the_remedy_when_libraries_are_missing(verb):
    ran = subprocess.run([*BARE, verb, *READ_FIRST.get(verb, [])], capture_output=True, text=True)
    assert ran.returncode == (1 if VERBS[verb].is_node else 2)
    assert 'Traceback' not in ran.stderr
    *_, line = ran.stderr.splitlines()
    assert line.startswith(f'{verb}: No module named ')
    assert REMEDY in line
    assert sys.executable in line


def test_node_names_the_remedy_when_torch_is_missing():
    pytest.importorskip('rclpy', reason='needs rclpy')
    command = [sys.executable, '-c', RUN + WITHOUT_TORCH, 'segmenter']
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 1
    (line,) = ran.stderr.splitlines()
    assert line.startswith('segmenter: ')
    assert 'torch' in line
    assert REMEDY in line


def test_one_is_singular_and_any_other_number_plural() -> None:
    assert [counted(number, 'mask') for number in (0, 1, 2)] == ['0 masks', '1 mask', '2 masks']
