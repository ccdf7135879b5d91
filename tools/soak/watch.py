# SPDX-License-Identifier: Apache-2.0
"""The listener of the soak test: compares each mask with its image, and records the status."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image

from surgseg_ros.core.labels import CLASS_COUNT

TIMEOUT_S: Final = 60.0
NAMESPACE: Final = '/soak'

_ALLOWED: Final = frozenset([*range(CLASS_COUNT), 255])


class Watch:
    """A node that receives messages from its creation to `close`."""

    def __init__(self) -> None:
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        self.masks = 0
        self.without_image = 0
        self.injections: list[str] = []
        self.states: Counter[str] = Counter()
        self.history: list[tuple[str, int, int]] = []
        """Changes of the state: the state, steady clock in ns, and number of masks until then."""
        self._news = threading.Condition()
        self._node = rclpy.create_node(
            'watch', namespace=NAMESPACE, start_parameter_services=False
        )
        latched = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._node.create_subscription(Image, 'mask', self._on_mask, 10)
        self._node.create_subscription(DiagnosticStatus, 'status', self._on_status, latched)
        self._change = self._node.create_client(ChangeState, 'segmenter/change_state')
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin)
        self._thread.start()

    def close(self) -> None:
        """End."""
        self._executor.shutdown()
        self._thread.join()
        self._node.destroy_node()
        rclpy.try_shutdown()

    def wait(self, holds: Callable[[], Any], what: str) -> None:
        """
        Wait until messages fulfil a condition.

        :param holds: the condition.
        :param what: its description, for the error.
        :raises RuntimeError: if it is not fulfilled in time.
        """
        with self._news:
            if not self._news.wait_for(holds, TIMEOUT_S):
                raise RuntimeError(f'not within {TIMEOUT_S:g} s: {what}')

    def wait_for_state(self, states: tuple[str, ...], since: int) -> tuple[str, int, int]:
        """
        Wait for a change of the state.

        :param states: the expected states.
        :param since: index into `history` from which entries are considered.
        :return: the entry of `history`.
        """

        def found() -> list[tuple[str, int, int]]:
            return [entry for entry in self.history[since:] if entry[0] in states]

        self.wait(found, f'status {" or ".join(states)}')
        return found()[0]

    def wait_for_masks(self, number: int) -> None:
        """
        Wait for a number of new masks.

        :param number: number of masks.
        """
        before = self.masks
        self.wait(lambda: self.masks >= before + number, f'{number} masks')

    def change(self, label: str) -> None:
        """
        Trigger a transition of the node.

        :param label: label of the transition, such as `deactivate`.
        :raises RuntimeError: if it fails.
        """
        answered = threading.Event()
        request = ChangeState.Request(transition=Transition(label=label))
        self._change.wait_for_service(timeout_sec=TIMEOUT_S)
        future = self._change.call_async(request)
        future.add_done_callback(lambda _: answered.set())
        if not answered.wait(TIMEOUT_S) or not future.result().success:
            raise RuntimeError(f'{label} failed')

    def _on_mask(self, mask: Any) -> None:
        data = bytes(mask.data)
        stamp_ns = mask.header.stamp.sec * 10**9 + mask.header.stamp.nanosec
        stamp, size = mask.header.frame_id.split()
        fits = mask.encoding == 'mono8' and len(data) == mask.width * mask.height
        fits = fits and size == f'{mask.width}x{mask.height}' and set(data) <= _ALLOWED
        with self._news:
            self.masks += 1
            if fits and int(stamp) != stamp_ns and set(data) == {255}:
                self.without_image += 1  # from the fail-safe, whose header belongs to no image
            elif int(stamp) != stamp_ns or not fits:
                reported = f'{mask.width}x{mask.height} {mask.encoding}, {len(data)} bytes'
                self.injections.append(f'a mask of {mask.header.frame_id}: {stamp_ns} {reported}')
            self._news.notify_all()

    def _on_status(self, status: Any) -> None:
        now_ns = time.monotonic_ns()
        with self._news:
            self.states[status.message] += 1
            if not self.history or self.history[-1][0] != status.message:
                self.history.append((status.message, now_ns, self.masks - self.without_image))
            self._news.notify_all()

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            return
