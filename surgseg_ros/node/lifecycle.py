# SPDX-License-Identifier: Apache-2.0
"""A lifecycle node that responds during transitions and reports their failures; its threads."""

import threading
import time
from collections.abc import Callable
from typing import Any

from lifecycle_msgs.srv import ChangeState
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import ShutdownException, SingleThreadedExecutor, TimeoutException
from rclpy.lifecycle import LifecycleNodeMixin, TransitionCallbackReturn
from rclpy.node import Node
from std_srvs.srv import Trigger

Transition = TransitionCallbackReturn


class LifecycleNode(LifecycleNodeMixin, Node):
    """
    A lifecycle node like rclpy's, with additions.

    It responds during a transition, rejects a second transition meanwhile, and reports why a
    transition failed.

    :param name: name of the node.
    :param options: for rclpy.node.Node.
    """

    def __init__(self, name: str, **options: Any) -> None:
        """Start in the unconfigured state."""
        Node.__init__(self, name, **options)
        self._transition = threading.Lock()
        self._stopping = False
        # A separate group: the node answers `get_state` while a transition runs.
        LifecycleNodeMixin.__init__(
            self, enable_communication_interface=True, callback_group=ReentrantCallbackGroup()
        )

    def start_by_itself(self) -> None:
        """Configure and activate; failures are reported in the log and in /diagnostics."""
        with self._transition:
            try:
                if self.trigger_configure() != Transition.SUCCESS:
                    self._report_remedy('configure', 'activate')
                elif not self._stopping and self.trigger_activate() != Transition.SUCCESS:
                    self._report_remedy('activate')
            except Exception as error:  # a lifecycle manager has already changed the state
                self.get_logger().warning(f'autostart refused: {error}')

    def _report_remedy(self, *transitions: str) -> None:
        name = self.get_fully_qualified_name()
        steps = ' && '.join(f'ros2 lifecycle set {name} {step}' for step in transitions)
        self.get_logger().error(
            f'autostart failed: fix the cause (for example, ros2 param set {name} model FOLDER), '
            f'then run {steps}'
        )

    def in_transition(self) -> bool:
        """Return whether a transition is in progress."""
        return self._transition.locked()

    def attempt(
        self,
        name: str,
        action: Callable[[], object],
        undo: Callable[[], None],
        otherwise: TransitionCallbackReturn = Transition.FAILURE,
    ) -> TransitionCallbackReturn:
        """
        Run a transition and report its errors, which rclpy would suppress.

        :param name: name of the transition.
        :param act: performs the transition.
        :param undo: called after a failure, before it is reported.
        :param otherwise: the result of a failure: FAILURE (back to the previous state) or ERROR.
        :return: SUCCESS, or `otherwise`.
        """
        try:
            action()
        except Exception as error:  # any type: from a model, a device or the middleware
            reason = f'{name} failed: {error}'
            try:
                undo()
            except Exception as second:  # the first error must still be reported
                reason += f'; undoing it failed, too: {second}'
            self.report_failed(reason)
            return otherwise
        return Transition.SUCCESS

    def report_failed(self, reason: str) -> None:
        """
        Log that a transition failed.

        :param reason: the reason.
        """
        self.get_logger().error(reason)

    def _LifecycleNodeMixin__on_change_state(self, request: Any, response: Any) -> Any:  # noqa: N802
        """
        Answer a request for a transition, even an invalid one.

        For an invalid request, rclpy's method raises in the executor, and the caller waits
        forever; it also allows a second transition during one. It has no public hook, hence the
        name.
        """
        handle = super()._LifecycleNodeMixin__on_change_state
        response.success = False
        if not self._transition.acquire(blocking=False):
            self.get_logger().warning('transition refused: another one is in progress')
            return response
        try:
            return handle(request, response)
        except Exception as error:  # RCLError is not public in every distribution
            self.get_logger().warning(f'transition refused: {error}')
            return response
        finally:
            self._transition.release()


_LONG = (ChangeState, Trigger)
"""Services that load a model."""


class ServiceThreadExecutor(SingleThreadedExecutor):
    """
    Runs callbacks sequentially, except services that load a model, which run in separate threads.

    So the node responds while its model loads. rclpy's MultiThreadedExecutor would also allow
    this, but it repeatedly submits a callback to its pool until a thread has started it, which can
    keep a core and the GIL busy for seconds.
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
            time.sleep(0.001)  # otherwise, it would be returned again


class Ticker(threading.Thread):
    """
    Calls a function periodically until stopped, by the steady clock.

    It is independent of /clock, transitions in progress and busy executors.

    :param name: name of the thread.
    :param period_s: maximum time between calls.
    :param function: the function to call.
    :param report_error: called with exceptions of the function; the ticker continues.
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
        if self.is_alive():  # a signal can arrive before it is started
            self.join()

    def run(self) -> None:
        """Call the function until stopped."""
        while not self._stopped:
            try:
                self._function()
            except Exception as error:  # the thread must continue after errors
                self._report_error(error)
            self._due.wait(self._period_s)
            self._due.clear()
