# SPDX-License-Identifier: Apache-2.0
"""Runs the node's callbacks, those that take their time apart from the others."""

import threading
import time

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
