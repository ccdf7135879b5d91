# SPDX-License-Identifier: Apache-2.0
"""Child processes that are killed with this one."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from surgseg_ros.core import processes


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Iterator[set['subprocess.Popen[str]']]:
    """Give the registered processes, none of which is left."""
    found: set[subprocess.Popen[str]] = set()
    monkeypatch.setattr(processes, '_children', found)
    yield found
    for child in found:
        child.kill()
        child.communicate()


def start(program: str) -> 'subprocess.Popen[str]':
    arguments = [sys.executable, '-c', program]
    child = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    processes.register(child)
    return child


def test_registered_processes_that_have_ended_are_forgotten(
    known: set['subprocess.Popen[str]'],
) -> None:
    start('pass').communicate()
    waiting = start('import sys; sys.stdin.read()')
    assert known == {waiting}


def test_registered_processes_are_killed(known: set['subprocess.Popen[str]']) -> None:
    waiting = start('import sys; sys.stdin.read()')
    processes.kill_children()
    assert waiting.wait(60) < 0
