# SPDX-License-Identifier: Apache-2.0
"""The node's executor and tickers, which end when they are asked to."""

import threading
import time
from collections.abc import Callable

from lifecycle_msgs.srv import ChangeState
from rclpy.executors import ShutdownException, SingleThreadedExecutor, TimeoutException
from std_srvs.srv import Trigger

_LONG = (ChangeState, Trigger)
"""Services that load a model."""


class PatientExecutor(SingleThreadedExecutor):
    """
    Runs callbacks one after another, but what loads a model in a thread of its own.

    So the node answers while its model loads. With rclpy's MultiThreadedExecutor it would as well,
    but that hands a callback to its pool again and again until a thread there has begun it, and
    so can keep a core busy, and the interpreter's lock, for seconds.
    """

    def spin_once(self, timeout_sec: float | None = None) -> None:
        """
        Wait for one callback and run it, or begin it if it takes its time.

        :param timeout_sec: how long to wait; for ever where None.
        """
        try:
            callback, entity, _ = self.wait_for_ready_callbacks(timeout_sec=timeout_sec)
        except (ShutdownException, TimeoutException):
            return
        if getattr(entity, 'srv_type', None) not in _LONG:
            callback()
            callback.result()  # raises what the callback has raised
            return
        threading.Thread(target=callback, name='long', daemon=True).start()
        while not callback.executing() and not callback.done():
            time.sleep(0.001)  # or it would be given out again


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
