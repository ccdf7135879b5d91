# SPDX-License-Identifier: Apache-2.0
"""
Processes that tests start: how many at once, and that none of them outlives the tests.

A test ends what it starts, by `running` or `end`. Should pytest itself be killed, nothing of that
is done; so every process inherits a mark in its environment, and a watchdog, which waits for
pytest's end, kills whatever carries that mark.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

MARK = 'SURGSEG_ROS_TEST_RUN'
NODE_GIB = 1.0
"""What a node takes, torch included."""

_LOOK_S = 0.2
_TRACKER = b'multiprocessing.resource_tracker'
"""Python's own helper, which ends by itself as soon as its parent has."""


def room_for(gib: float = NODE_GIB) -> int:
    """Tell how many processes of that size the machine carries at once, by cores and memory."""
    lines = Path('/proc/meminfo').read_text().splitlines()
    sizes = dict(line.split(':', 1) for line in lines)
    available_gib = int(sizes['MemAvailable'].split()[0]) / 2**20
    return max(1, min(len(os.sched_getaffinity(0)), int(available_gib / gib)))


@contextlib.contextmanager
def running(
    command: Sequence[str | Path], gently_s: float = 0.0, **options: Any
) -> Iterator['subprocess.Popen[Any]']:
    """Run a process; whatever happens, it ends, and all that it has started."""
    process = subprocess.Popen(command, start_new_session=True, **options)
    try:
        yield process
    finally:
        end(process, gently_s)


def end(process: 'subprocess.Popen[Any]', gently_s: float = 0.0) -> None:
    """
    End a process that has a session of its own, and all in that session.

    :param gently_s: how long it has to end by itself after Ctrl-C.
    :raises subprocess.TimeoutExpired: if that was too short; it has ended all the same.
    """
    try:
        if gently_s and process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(gently_s)
    finally:
        process.kill()
        with contextlib.suppress(ProcessLookupError):  # none is left in its session
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def mark_this_run() -> str:
    """Mark this process's environment, which all that it starts from now on inherit."""
    os.environ[MARK] = f'{os.getpid()}-{time.time_ns()}'
    return os.environ[MARK]


def start_watchdog(mark: str) -> 'subprocess.Popen[bytes]':
    """Start the process that kills what carries the mark once this process has ended."""
    command = [sys.executable, '-S', str(Path(__file__).resolve()), str(os.getpid()), mark]
    plain = {name: value for name, value in os.environ.items() if name != MARK}
    # In a session of its own, out of reach of Ctrl-C and of whoever kills pytest's group.
    return subprocess.Popen(command, env=plain, stdin=subprocess.DEVNULL, start_new_session=True)


def marked(mark: str) -> dict[int, str]:
    """List the processes that carry a mark, but for this one: number and command line."""
    found = {}
    wanted = f'{MARK}={mark}'.encode()
    for folder in Path('/proc').glob('[0-9]*'):
        with contextlib.suppress(OSError):  # it has just ended, or is another user's
            command = (folder / 'cmdline').read_bytes()
            variables = (folder / 'environ').read_bytes().split(b'\0')
            if wanted in variables and command and _TRACKER not in command:
                found[int(folder.name)] = command.replace(b'\0', b' ').decode(errors='replace')
    found.pop(os.getpid(), None)
    return found


def left_over(mark: str, patience_s: float) -> dict[int, str]:
    """Wait for the end of all that carries a mark; kill and list what is still there."""
    end_s = time.monotonic() + patience_s
    while (found := marked(mark)) and time.monotonic() < end_s:
        time.sleep(_LOOK_S)
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return found


def _watch(parent: int, mark: str) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_S)
    time.sleep(_LOOK_S)  # one that it started last has no command line and environment yet
    while left_over(mark, 0.0):  # again: it may have started another meanwhile
        time.sleep(_LOOK_S)


if __name__ == '__main__':
    _watch(int(sys.argv[1]), sys.argv[2])
