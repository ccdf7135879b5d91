# SPDX-License-Identifier: Apache-2.0
"""A plain thread that does something again and again, by no clock of ROS and no executor."""

import threading
from collections.abc import Callable


class Ticker(threading.Thread):
    """
    Calls a function at least once in a period, on steady time, until stopped.

    It depends neither on /clock nor on a transition in progress nor on a busy executor.

    :param name: of the thread.
    :param period_s: longest time between calls.
    :param function: what to call.
    :param complain: gets what the function raises; the ticker goes on.
    """

    def __init__(
        self,
        name: str,
        period_s: float,
        function: Callable[[], None],
        complain: Callable[[Exception], None],
    ) -> None:
        """Prepare; `start` begins."""
        super().__init__(name=name, daemon=True)
        self._period_s = period_s
        self._function = function
        self._complain = complain
        self._due = threading.Event()
        self._stopped = False

    def soon(self) -> None:
        """Make the next call due at once."""
        self._due.set()

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._stopped = True
        self._due.set()
        if self.is_alive():  # a signal can come just before it is started
            self.join()

    def run(self) -> None:
        """Tick; see the class."""
        while not self._stopped:
            try:
                self._function()
            except Exception as error:  # the thread must outlive whatever happens in a call
                self._complain(error)
            self._due.wait(self._period_s)
            self._due.clear()
