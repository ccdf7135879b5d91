# SPDX-License-Identifier: Apache-2.0
"""Tells people what a long command is doing, so that no silence looks like a hang."""

import contextlib
import sys
import threading
import time
from typing import Final, TextIO

LONGEST_SILENCE_S: Final = 5.0
"""Half of the ten seconds that are promised, because a busy machine wakes a thread late."""


class Progress:
    """
    A context that prints what is being done, and prints it again while it goes on.

    :param command: begins every line, `benchmark` for example.
    :param file: where to print; standard error by default, so that results stay alone on standard
        output.
    :param silence_s: seconds without a line after which the last one is repeated, with the time
        that the activity has taken so far.
    """

    def __init__(
        self, command: str, file: TextIO | None = None, silence_s: float = LONGEST_SILENCE_S
    ) -> None:
        self._command, self._file, self._silence_s = command, file, silence_s
        self._changed = threading.Condition()
        self._activity = 'starting'
        self._began_s = time.monotonic()
        self._said = self._ended = False
        self._thread = threading.Thread(target=self._repeat, name='progress', daemon=True)

    def __enter__(self) -> 'Progress':
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join()

    def print_line(self, activity: str) -> None:
        """
        Begin an activity, and print it.

        :param activity: what is being done.
        """
        with self._changed:
            self._activity, self._began_s = activity, time.monotonic()
            self._print(activity)
            self._said = True
            self._changed.notify()

    def update(self, activity: str) -> None:
        """
        Say how far the activity is, the next time that it is printed.

        :param activity: replaces what is being done.
        """
        self._activity = activity  # a single assignment, so no lock in the loops that call this

    def _repeat(self) -> None:
        with self._changed:
            while not self._ended:
                self._said = False
                self._changed.wait(self._silence_s)
                if not (self._said or self._ended):
                    self._print(f'{self._activity} ({time.monotonic() - self._began_s:.0f} s)')

    def _print(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # nobody reads any more
            print(f'{self._command}: {text}', file=self._file or sys.stderr, flush=True)
