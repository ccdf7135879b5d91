# SPDX-License-Identifier: Apache-2.0
"""Requests to the benchmark's processes: one line, answered by one line of JSON."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from surgseg_ros.core.processes import register

_ANSWER_S: Final = 90.0
_END_S: Final = 20.0


_START: Final = """
import ctypes, os, runpy, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: end when the parent is killed
if os.getppid() == int(sys.argv[1]):
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)
"""


class Child:
    """
    A process of the benchmark, which runs a module with this Python.

    :param module: module to run.
    :param arguments: its arguments.
    :param environment: its complete environment.
    :param log: file for its standard error.
    """

    def __init__(
        self, module: str, arguments: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> None:
        self._name = module.rpartition('.')[2]
        self._log = log
        with log.open('wb') as file:
            self._process = subprocess.Popen(
                [sys.executable, '-c', _START, str(os.getpid()), module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                env=environment,
                text=True,
            )
        register(self._process)

    @property
    def process_id(self) -> int:
        """The process ID."""
        return self._process.pid

    def check(self) -> None:
        """
        Check that it is running.

        :raises RuntimeError: if it has exited; with the end of its log.
        """
        if self._process.poll() is not None:
            log = self._log.read_text(errors='replace')[-2000:]
            raise RuntimeError(f'{self._name} ended with {self._process.returncode}:\n{log}')

    def ask(
        self,
        question: str,
        meanwhile: Callable[[], None] = lambda: None,
        lasting_s: float = 0.0,
    ) -> Any:
        """
        Send a request, and wait for the answer.

        :param question: the request, one line.
        :param meanwhile: called about once a second.
        :param lasting_s: expected duration of the requested work in seconds.
        :return: the decoded JSON of the answer.
        :raises RuntimeError: if it has exited, or does not answer.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise RuntimeError(f'{self._name} has no pipes')
        self.check()
        stdin.write(question + '\n')
        stdin.flush()
        end_s = time.monotonic() + _ANSWER_S + lasting_s
        while not select.select([stdout], [], [], 1.0)[0]:
            meanwhile()
            if time.monotonic() > end_s:
                raise RuntimeError(f'{self._name} does not answer {question!r}: see {self._log}')
        line = stdout.readline()
        if not line:
            self._process.wait(_END_S)
            self.check()
        return json.loads(line)

    def stop(self) -> None:
        """Send SIGINT, so that it cleans up its shared memory."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)

    def end(self, patience_s: float = _END_S) -> None:
        """
        Stop it, and wait until it has exited.

        :param patience_s: seconds after which it is killed.
        """
        try:
            self.stop()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.communicate(timeout=patience_s)
        finally:  # an interrupt during the wait must not leave it running
            self._process.kill()
            self._process.communicate()


def questions() -> Iterator[list[str]]:
    """Yield, in a child, each request, split into words, until the end of input."""
    for line in sys.stdin:
        yield line.split()


def answer(value: Any) -> None:
    """
    Answer, in a child, the last request.

    :param value: can be encoded as JSON.
    """
    print(json.dumps(value), flush=True)
