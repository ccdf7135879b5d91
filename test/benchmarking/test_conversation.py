# SPDX-License-Identifier: Apache-2.0
"""A process of the benchmark ends, whatever it or the benchmark does."""

import os
import signal
from pathlib import Path

import pytest

from surgseg_ros.benchmarking import conversation
from surgseg_ros.benchmarking.conversation import Child

STUBBORN = """
import json, signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
for line in sys.stdin:
    print(json.dumps(line.split()), flush=True)
time.sleep(1000)
"""


@pytest.fixture
def child(tmp_path: Path) -> Child:
    (tmp_path / 'stubborn.py').write_text(STUBBORN)
    return Child('stubborn', [], {**os.environ, 'PYTHONPATH': f'{tmp_path}'}, tmp_path / 'log')


def status(child: Child) -> int | None:
    return child._process.returncode


def test_one_that_does_not_heed_an_interrupt_is_killed(
    child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation, '_END_S', 0.1)
    assert child.ask('are you there') == ['are', 'you', 'there']
    child.end()
    assert status(child) == -signal.SIGKILL


def test_an_interrupt_while_it_is_waited_for_does_not_leave_it(
    child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert child.ask('there') == ['there']
    communicate, calls = child._process.communicate, []

    def interrupted(*arguments: object, **more: object) -> object:
        calls.append(more)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return communicate()

    monkeypatch.setattr(child._process, 'communicate', interrupted)
    with pytest.raises(KeyboardInterrupt):
        child.end()
    assert status(child) == -signal.SIGKILL
