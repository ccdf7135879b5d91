# SPDX-License-Identifier: Apache-2.0
"""The node's executor, and threads that call a function periodically."""

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
    Runs callbacks one after another, except services that load a model, in separate threads.

    So the node answers while its model loads. rclpy's MultiThreadedExecutor would allow that, too,
    but it submits a callback to its pool again and again until a thread has started it, and so
    can keep a core, and the interpreter's lock, busy for seconds.
    """

    def spin_once(self, timeout_sec: float | None = None) -> None:
        """
        Wait for one callback and run it, or start a thread for it if it loads a model.

        :param timeout_sec: maximum time to wait; None: no limit.
        """
        try:
            callback, entity, _ = self.wait_for_ready_callbacks(timeout_sec=timeout_sec)
        except (ShutdownException, TimeoutException):
            return
        if getattr(entity, 'srv_type', None) not in _LONG:
            callback()
            callback.result()  # raises the exception of the callback
            return
        threading.Thread(target=callback, name='long', daemon=True).start()
        while not callback.executing() and not callback.done():
            time.sleep(0.001)  # else it would be returned again


class Ticker(threading.Thread):
    """
    Calls a function periodically until stopped, by the steady clock.

    It depends neither on /clock nor on a transition in progress nor on a busy executor.

    :param name: name of the thread.
    :param period_s: maximum time between calls.
    :param function: the function to call.
    :param report_error: called with what the function raises; the ticker continues.
    """

    def __init__(
        self,
        name: str,
        period_s: float,
        function: Callable[[], None],
        report_error: Callable[[Exception], None],
    ) -> None:
        """Store the arguments; `start` starts the thread."""
        super().__init__(name=name, daemon=True)
        self._period_s = period_s
        self._function = function
        self._report_error = report_error
        self._due = threading.Event()
        self._stopped = False

    def soon(self) -> None:
        """Make the next call immediately."""
        self._due.set()

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._stopped = True
        self._due.set()
        if self.is_alive():  # a signal can arrive just before it is started
            self.join()

    def run(self) -> None:
        """Call the function until stopped."""
        while not self._stopped:
            try:
                self._function()
            except Exception as error:  # the thread must survive errors of a call
                self._report_error(error)
            self._due.wait(self._period_s)
            self._due.clear()
