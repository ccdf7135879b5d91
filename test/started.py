# SPDX-License-Identifier: Apache-2.0
"""
Processes that tests start: how many run at once, and that all end with the tests.

A test ends its processes with `running` or `end`. If pytest itself is killed, this does not
happen; so every process inherits a mark in its environment, and a watchdog, which waits for
the end of pytest, kills all processes with that mark.
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
"""Memory of a node, including torch."""

_POLL_S = 0.2
_TRACKER = b'multiprocessing.resource_tracker'
"""A helper of Python that exits by itself after its parent."""


def room_for(gib: float = NODE_GIB) -> int:
    """Return how many processes of that size can run at once, by cores and memory."""
    lines = Path('/proc/meminfo').read_text().splitlines()
    sizes = dict(line.split(':', 1) for line in lines)
    available_gib = int(sizes['MemAvailable'].split()[0]) / 2**20
    return max(1, min(len(os.sched_getaffinity(0)), int(available_gib / gib)))


@contextlib.contextmanager
def running(
    command: Sequence[str | Path], gently_s: float = 0.0, **options: Any
) -> Iterator['subprocess.Popen[Any]']:
    """Run a process; on exit, end it and all processes that it has started."""
    process = subprocess.Popen(command, start_new_session=True, **options)
    try:
        yield process
    finally:
        end(process, gently_s)


def end(process: 'subprocess.Popen[Any]', gently_s: float = 0.0) -> None:
    """
    End a process that has its own session, and all processes in that session.

    :param gently_s: how long to wait for its exit after Ctrl-C.
    :raises subprocess.TimeoutExpired: if that was too short; it was killed then.
    """
    try:
        if gently_s and process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(gently_s)
    finally:
        process.kill()
        with contextlib.suppress(ProcessLookupError):  # no process is left in its session
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def mark_this_run() -> str:
    """Mark the environment of this process, which its future child processes inherit."""
    os.environ[MARK] = f'{os.getpid()}-{time.time_ns()}'
    return os.environ[MARK]


def start_watchdog(mark: str) -> 'subprocess.Popen[bytes]':
    """Start the watchdog, which kills processes with the mark when this process has ended."""
    command = [sys.executable, '-S', str(Path(__file__).resolve()), str(os.getpid()), mark]
    plain = {name: value for name, value in os.environ.items() if name != MARK}
    # In its own session, so that neither Ctrl-C nor killing the group of pytest reaches it.
    return subprocess.Popen(command, env=plain, stdin=subprocess.DEVNULL, start_new_session=True)


def marked(mark: str) -> dict[int, str]:
    """Return the processes with a mark, except this one: process id and command line."""
    found = {}
    wanted = f'{MARK}={mark}'.encode()
    for folder in Path('/proc').glob('[0-9]*'):
        with contextlib.suppress(OSError):  # it has just ended, or belongs to another user
            command = (folder / 'cmdline').read_bytes()
            variables = (folder / 'environ').read_bytes().split(b'\0')
            if wanted in variables and command and _TRACKER not in command:
                found[int(folder.name)] = command.replace(b'\0', b' ').decode(errors='replace')
    found.pop(os.getpid(), None)
    return found


def left_over(mark: str, patience_s: float) -> dict[int, str]:
    """Wait for the end of all processes with a mark; kill and return those still running."""
    end_s = time.monotonic() + patience_s
    while (found := marked(mark)) and time.monotonic() < end_s:
        time.sleep(_POLL_S)
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return found


def _watch(parent: int, mark: str) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_S)
    time.sleep(_POLL_S)  # a process started last may not have its environment yet
    while left_over(mark, 0.0):  # repeat, since it may have started another one meanwhile
        time.sleep(_POLL_S)


if __name__ == '__main__':
    _watch(int(sys.argv[1]), sys.argv[2])
