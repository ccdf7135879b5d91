# SPDX-License-Identifier: Apache-2.0
"""Processes of a run always end, and errors name the failed one."""

import os
import signal
from pathlib import Path

import pytest

from surgseg_ros.core.errors import explain
from tools.end_to_end import processes
from tools.end_to_end.processes import Child

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


def test_a_process_that_ignores_an_interrupt_is_killed(child: Child) -> None:
    assert child.ask('are you there') == ['are', 'you', 'there']
    child.end(patience_s=0.1)
    assert status(child) == -signal.SIGKILL


def test_an_interrupt_during_the_wait_does_not_leave_the_process(
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


def test_error_names_a_failed_process_with_the_end_of_its_log(tmp_path: Path) -> None:
    child = Child('no_such_module', [], os.environ, tmp_path / 'camera.log')
    child._process.wait()
    with pytest.raises(RuntimeError, match='camera ended with 1') as caught:
        child.ask('are you there')
    child.end()
    text = explain(caught.value)
    assert text is not None, 'otherwise the verb would end with its own traceback'
    assert text.rstrip().endswith('No module named no_such_module')


def test_two_cameras_are_views_in_one_image_and_the_second_one_is_measured() -> None:
    one = processes.Settings('m', Path('images.npy'), 60.0, 9, Path(), outputs=('detections',))
    arguments = processes._node_arguments(one)
    assert arguments[:4] == ['segmenter', '--ros-args', '-r', f'image:={processes.TOPIC}']
    assert not any('stereo' in word or 'right' in word for word in arguments)
    arguments = processes._node_arguments(one._replace(cameras=2))
    assert 'stereo_layout:=side_by_side' in arguments
    assert 'right/mask:=mask' in arguments
    assert 'right/detections:=detections' in arguments
