# SPDX-License-Identifier: Apache-2.0
"""A lifecycle node that answers during transitions, and reports why one failed."""

import threading
from collections.abc import Callable
from typing import Any

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.lifecycle import LifecycleNodeMixin, TransitionCallbackReturn
from rclpy.node import Node

Transition = TransitionCallbackReturn


class LifecycleNode(LifecycleNodeMixin, Node):
    """
    A lifecycle node like rclpy's, with additions.

    It answers while a transition runs, allows one transition at a time, and reports why one
    failed.

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
            except Exception as error:  # a lifecycle manager was quicker
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
        act: Callable[[], object],
        undo: Callable[[], None],
        otherwise: TransitionCallbackReturn = Transition.FAILURE,
    ) -> TransitionCallbackReturn:
        """
        Run a transition and report its errors, which rclpy would swallow.

        :param name: name of the transition.
        :param act: does the work.
        :param undo: called after a failure, before it is reported.
        :param otherwise: the result of a failure: FAILURE (back to the previous state) or ERROR.
        :return: SUCCESS, or `otherwise`.
        """
        try:
            act()
        except Exception as error:  # of any kind: from a model, a device or the middleware
            reason = f'{name} failed: {error}'
            try:
                undo()
            except Exception as second:  # the first error must be reported all the same
                reason += f'; undoing it failed, too: {second}'
            self.report_failed(reason)
            return otherwise
        return Transition.SUCCESS

    def report_failed(self, reason: str) -> None:
        """
        Log that a transition failed.

        :param reason: why.
        """
        self.get_logger().error(reason)

    def _LifecycleNodeMixin__on_change_state(self, request: Any, response: Any) -> Any:  # noqa: N802
        """
        Answer a request for a transition, even an invalid one.

        For an invalid one, rclpy's method raises in the executor, and the caller waits forever;
        it also lets a second transition start during one. It has no public hook, hence the name.
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
