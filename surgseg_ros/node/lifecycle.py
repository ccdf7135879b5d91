# SPDX-License-Identifier: Apache-2.0
"""A lifecycle node that answers during transitions, and says why one failed."""

import threading
from collections.abc import Callable
from typing import Any

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.lifecycle import LifecycleNodeMixin, TransitionCallbackReturn
from rclpy.node import Node

Transition = TransitionCallbackReturn


class LifecycleNode(LifecycleNodeMixin, Node):
    """
    As rclpy's, with what that lacks: patience, one transition at a time, and reasons.

    :param name: the node's.
    :param options: for rclpy.node.Node.
    """

    def __init__(self, name: str, **options: Any) -> None:
        """Begin unconfigured."""
        Node.__init__(self, name, **options)
        self._transition = threading.Lock()
        self._stopping = False
        # A group of its own: the node answers `get_state` while a transition takes its time.
        LifecycleNodeMixin.__init__(
            self, enable_communication_interface=True, callback_group=ReentrantCallbackGroup()
        )

    def start_by_itself(self) -> None:
        """Configure and activate; what fails is in the log and in /diagnostics."""
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
            f'autostart failed, the node waits: fix the cause (such as by ros2 param set '
            f'{name} model FOLDER), then {steps}'
        )

    def in_transition(self) -> bool:
        """Tell whether a transition is in progress."""
        return self._transition.locked()

    def attempt(
        self,
        name: str,
        act: Callable[[], object],
        undo: Callable[[], None],
        otherwise: TransitionCallbackReturn = Transition.FAILURE,
    ) -> TransitionCallbackReturn:
        """
        Do what a transition asks for; rclpy swallows without a word what that raises.

        :param name: of the transition.
        :param act: what to do.
        :param undo: called after a failure, before it is told.
        :param otherwise: what a failure is: FAILURE (back to where it began) or ERROR.
        :return: SUCCESS, or `otherwise`.
        """
        try:
            act()
        except Exception as error:  # whatever a model, a device or the middleware has to say
            reason = f'{name} failed: {error}'
            try:
                undo()
            except Exception as second:  # half made things must not come apart
                reason += f'; undoing it as well: {second}'
            self.report_failed(reason)
            return otherwise
        return Transition.SUCCESS

    def report_failed(self, reason: str) -> None:
        """
        Tell people that a transition failed.

        :param reason: why.
        """
        self.get_logger().error(reason)

    def _LifecycleNodeMixin__on_change_state(self, request: Any, response: Any) -> Any:  # noqa: N802
        """
        Answer a request for a transition, also one that is not possible.

        rclpy's own method raises there, in the executor, and the caller waits for ever; it also
        lets a second transition begin during one. It has no public hook, hence the name.
        """
        handle = super()._LifecycleNodeMixin__on_change_state
        response.success = False
        if not self._transition.acquire(blocking=False):
            self.get_logger().warning('transition refused: another one is in progress')
            return response
        try:
            return handle(request, response)
        except Exception as error:  # rclpy's RCLError is not public everywhere
            self.get_logger().warning(f'transition refused: {error}')
            return response
        finally:
            self._transition.release()
