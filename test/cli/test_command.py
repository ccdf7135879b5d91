# SPDX-License-Identifier: Apache-2.0
"""How a verb ends: the output and exit status for each kind of exception."""

import errno
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from surgseg_ros import __main__ as commands
from surgseg_ros.cli import command
from surgseg_ros.core.model_folder import ModelError, ModelSpec


def _write(path: str) -> Callable[[], Any]:
    return lambda: Path(path).open('wb').write(bytes(10))


def _full() -> None:
    with Path('/dev/full').open('wb', buffering=0) as file:
        file.write(b'x')


def _too_many() -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        Path('/dev/null').open('rb').close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def _dead_worker() -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as pool:
        pool.submit(os._exit, 1).result()


def _raise(error: BaseException) -> Callable[[], Any]:
    def act() -> None:
        raise error

    return act


REPORTED: dict[str, tuple[Callable[[], Any], str]] = {
    'no room': (_full, 'No space left on device; free some space'),
    'no folder': (_write('/nowhere/x'), '/nowhere/x: No such file or directory; check the path'),
    'a folder': (_write('/'), '/: Is a directory; a folder has this path'),
    'in a file': (_write('/dev/null/x'), '/dev/null/x: Not a directory; a file is where'),
    'long': (_write('/' + 'x' * 300), 'File name too long; choose a shorter name'),
    'files': (_too_many, '/dev/null: Too many open files; raise the limit of open files'),
    'read-only': (_raise(OSError(errno.EROFS, os.strerror(errno.EROFS), 'x')), 'x: Read-only'),
    'quota': (_raise(OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), 'x')), 'x: Disk quota'),
    'no permission': (_raise(PermissionError(errno.EACCES, 'Denied', 'x')), 'change its perm'),
    'shared memory': (_raise(OSError(errno.ENOSPC, 'No space', '/dev/shm')), '--shm-size'),
    'bytes': (_raise(OSError(errno.EIO, 'I/O', b'x')), 'x: I/O; check the disk'),
    'no number': (_raise(OSError('the hub says no')), 'OSError: the hub says no; check the input'),
    'memory': (lambda: np.empty(1 << 62, np.uint8), 'Unable to allocate 4.00 EiB'),
    "torch's memory": (lambda: torch.empty(1 << 45), 'free some memory'),
    'threads': (_raise(RuntimeError("can't start new thread")), 'raise the limit of processes'),
    "a library's memory": (_raise(RuntimeError("can't allocate memory")), 'free some memory'),
    'a dead worker': (_dead_worker, 'a worker process was killed'),
    'ours': (_raise(ModelError('this one')), 'ours: this one'),
    'not given': (lambda: ModelSpec(name=''), 'name is'),
    'text': (lambda: bytes([255]).decode(), 'UnicodeDecodeError: '),
    'a library': (
        lambda: __import__('no_such_library'),
        "No module named 'no_such_library': this is",
    ),
}
"""Errors of a verb, and the line that is printed."""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    def run_it(name: str, act: Callable[[], Any], **more: Any) -> int:
        def main(arguments: Sequence[str]) -> int:
            act()
            return 0

        monkeypatch.setattr(sys.modules[__name__], 'verb_main', main, raising=False)
        monkeypatch.setitem(
            commands.VERBS, name, commands.Verb(f'{__name__}:verb_main', '', **more)
        )
        return commands.main([name])

    return run_it


@pytest.mark.parametrize('case', REPORTED)
def test_errors_of_input_or_machine_are_one_line(
    case: str, run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    act, text = REPORTED[case]
    assert run(case, act) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f'{case}: ')
    assert text in line


def test_a_node_exits_with_its_documented_status(
    run: Callable[..., int],
) -> None:
    assert run('node', _raise(ModelError('this one')), is_node=True) == 1


@pytest.mark.parametrize(
    'act',
    [
        lambda: {}['missing'],
        lambda: np.ones(2) + None,  # type: ignore[operator]
        lambda: torch.ones(2, 3) @ torch.ones(2, 3),
        _raise(AssertionError('so it was thought')),
    ],
)
def test_a_bug_keeps_its_traceback(
    act: Callable[[], Any], run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run('wrong', act) == 70
    assert 'Traceback' in capsys.readouterr().err


def test_an_interruption_reports_what_is_kept(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run('long', _raise(KeyboardInterrupt()), leftovers='go on by --resume') == 130
    assert capsys.readouterr().err == 'long: interrupted; go on by --resume\n'


@pytest.mark.parametrize('again', ['another thread', 'another signal'])
def test_the_line_of_an_interruption_is_printed_before_the_process_ends(
    again: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The time for cleaning up is over, or another signal arrives, while the line is printed."""
    ended, found = threading.Event(), list[str]()

    def end(status: int) -> None:
        found.append(f'{capfd.readouterr().err}exit {status}')
        ended.set()

    def print_line(name: str, text: str) -> None:
        if again == 'another thread':
            thread.start()
            ended.wait(0.5)
        else:
            signals._end_now()
        print(f'{name}: {text}', file=sys.stderr, flush=True)

    monkeypatch.setattr(command, '_GRACE_S', 120.0)
    monkeypatch.setattr(command, 'print_line', print_line)
    monkeypatch.setattr(command, 'kill_children', lambda: None)
    monkeypatch.setattr(command, 'remove_unfinished', lambda: None)
    monkeypatch.setattr(command.os, '_exit', end)
    signals = command.Signals(command.Command('long', ''))
    signals.number = signal.SIGINT
    thread = threading.Thread(target=signals._end_now)
    signals.report()
    if thread.ident:
        thread.join()
    assert found == ['long: interrupted\nexit 130']


def test_an_error_of_a_device_is_one_line(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    text = 'CUDA out of memory. Tried to allocate 2 GiB.\nIf reserved memory is >> allocated ...'
    assert run('device', _raise(torch.OutOfMemoryError(text))) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('device: CUDA out of memory. Tried to allocate 2 GiB: free some memory')


def test_no_garbage_is_collected_while_a_verb_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / 'a_verb.py').write_text('import gc\nduring = gc.isenabled()\nmain = len\n')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(commands.VERBS, 'verb', commands.Verb('a_verb:main', ''))
    assert commands.main(['verb', 'one', 'two']) == 2
    assert sys.modules.pop('a_verb').during is False
    assert gc.isenabled()


FREEZES = """
import atexit, gc, sys
from surgseg_ros import __main__ as commands
from surgseg_ros.cli import command
atexit.register(lambda: print(gc.get_freeze_count() > 1000, flush=True))  # the last to be called
sys.argv = ['-', *sys.argv[1:]]
commands.script()
"""


@pytest.mark.parametrize('arguments', [['make_bag', '--help'], ['compare', '/no', '/no']])
def test_objects_of_libraries_are_not_examined_again_at_the_exit(arguments: list[str]) -> None:
    words = [sys.executable, '-c', FREEZES, *arguments]
    run = subprocess.run(words, capture_output=True, text=True)
    assert run.stdout.endswith('True\n'), run.stderr


def test_the_exit_status_of_a_verb_is_returned(run: Callable[..., int]) -> None:
    assert run('fine', lambda: None) == 0
    with pytest.raises(SystemExit, match='3'):
        run('parser', _raise(SystemExit(3)))
