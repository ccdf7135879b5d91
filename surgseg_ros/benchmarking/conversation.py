# SPDX-License-Identifier: Apache-2.0
"""How the benchmark talks with its processes: one line asks, one line of JSON answers."""

import contextlib
import json
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

_ANSWER_S: Final = 90.0
_END_S: Final = 20.0


class Child:
    """
    A process of the benchmark, which is this Python with a module to run.

    :param module: what to run.
    :param arguments: its arguments.
    :param environment: all of its environment.
    :param log: gets what it says to people.
    """

    def __init__(
        self, module: str, arguments: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> None:
        self._name = module.rpartition('.')[2]
        self._log = log
        with log.open('wb') as file:
            self._process = subprocess.Popen(
                [sys.executable, '-m', module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                env=environment,
                text=True,
            )

    @property
    def process_id(self) -> int:
        """The number of the process."""
        return self._process.pid

    def check(self) -> None:
        """
        See that it lives.

        :raises RuntimeError: if it has ended, with what it said.
        """
        if self._process.poll() is not None:
            said = self._log.read_text(errors='replace')[-2000:]
            raise RuntimeError(f'{self._name} ended with {self._process.returncode}:\n{said}')

    def ask(
        self,
        question: str,
        meanwhile: Callable[[], None] = lambda: None,
        lasting_s: float = 0.0,
    ) -> Any:
        """
        Ask, and wait for the answer.

        :param question: a line.
        :param meanwhile: called about once a second.
        :param lasting_s: how long what is asked for takes.
        :return: what the line of JSON holds.
        :raises RuntimeError: if it has ended, or does not answer.
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

    def end(self) -> None:
        """End it as Ctrl-C would, so that it leaves no shared memory behind."""
        try:
            if self._process.poll() is None:
                self._process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.communicate(timeout=_END_S)
        finally:  # an interrupt while it waits must not leave it
            self._process.kill()
            self._process.communicate()


def questions() -> Iterator[list[str]]:
    """Hear, in a child, one question after another, split into words, until the end of input."""
    for line in sys.stdin:
        yield line.split()


def answer(value: Any) -> None:
    """
    Answer, in a child, the question just heard.

    :param value: what JSON can hold.
    """
    print(json.dumps(value), flush=True)
