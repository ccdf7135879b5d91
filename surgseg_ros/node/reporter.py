# SPDX-License-Identifier: Apache-2.0
"""Tells `status` and `/diagnostics` of all cameras, from threads of its own."""

import threading
import uuid
from collections.abc import Callable

from rclpy.node import Node

from surgseg_ros.core.reasons import Reason, ReasonCode
from surgseg_ros.node.health import Health
from surgseg_ros.node.reports import Diagnostics, StatusReport
from surgseg_ros.node.ticker import Ticker

_STATUS_PERIOD_S = 0.02
"""Status is stale so much later than it should be, at most, and the time to wake up."""
_UPKEEP_PERIOD_S = 1.0


class Reporter:
    """
    Reports from the node's start to its end, on steady time, whatever its state.

    :param node: whose publishers these are.
    :param stale_after_ms: gives how long a mask is fresh.
    :param check_subscriptions: called once a second, before `/diagnostics`.
    """

    def __init__(
        self,
        node: Node,
        stale_after_ms: Callable[[], float],
        check_subscriptions: Callable[[], None],
    ) -> None:
        """Prepare; nothing is told before `start`."""
        self.model = ''
        """Name and hash of the model that is loaded."""
        self.device = ''
        """What runs it."""
        self.failed = False
        """Whether the node could not be configured or activated."""
        self.healths: tuple[Health, ...] = ()
        self.instance = uuid.uuid4().hex[:12]
        """Another one for each start: what `status` has for a `hardware_id`."""
        self._node = node
        self._stale_after_ms = stale_after_ms
        self._check_subscriptions = check_subscriptions
        self._lock = threading.Lock()
        self._names: tuple[str, ...] = ()
        self._reports: tuple[StatusReport, ...] = ()
        self._diagnostics = Diagnostics(node)
        self._status_ticker = Ticker(
            'status', _STATUS_PERIOD_S, self.publish_status, self._complain
        )
        self._check_ticker = Ticker(
            'upkeep', _UPKEEP_PERIOD_S, self._publish_diagnostics, self._complain
        )

    def start(self) -> None:
        """Begin to report."""
        self._status_ticker.start()
        self._check_ticker.start()

    def set_cameras(self, names: tuple[str, ...]) -> None:
        """
        Report on other cameras, where they are others; their counts begin again.

        :param names: prefixes of the `status` topics.
        """
        with self._lock:
            if names == self._names:
                return
            healths = tuple(Health() for _ in names)
            reports = tuple(
                StatusReport(self._node, name, health, self.instance)
                for name, health in zip(names, healths, strict=True)
            )
            for report in self._reports:
                report.destroy()
            self._names, self.healths, self._reports = names, healths, reports

    def report_inactive(self, code: ReasonCode, text: str) -> None:
        """
        Tell at once that no masks come.

        :param code: why not, for programs.
        :param text: why not, for people.
        """
        for health in self.healths:
            health.deactivate(Reason(code, text))
        self._status_ticker.soon()

    def report_failed(self, reason: str) -> None:
        """
        Tell at once that no masks come, though they should.

        :param reason: why not.
        """
        self.failed = True
        self.report_inactive(ReasonCode.TRANSITION_FAILED, reason)

    def check_soon(self) -> None:
        """Make the upkeep due at once."""
        self._check_ticker.soon()

    def stop(self, reason: str) -> None:
        """
        End both threads, with `inactive` as the last word, and see that listeners have it.

        :param reason: why no masks come any more.
        """
        self._check_ticker.stop()
        self._status_ticker.stop()
        with self._lock:
            for report in self._reports:
                report.end(Reason(ReasonCode.SHUT_DOWN, reason), self.model)

    def publish_status(self) -> None:
        """Publish each `status` that has changed, or is due again."""
        with self._lock:
            for report in self._reports:
                report.publish(self._stale_after_ms(), self.model)

    def _publish_diagnostics(self) -> None:
        self._check_subscriptions()
        with self._lock:
            self._diagnostics.publish(
                [
                    report.diagnostics(
                        self._stale_after_ms(), self.model, {'device': self.device}, self.failed
                    )
                    for report in self._reports
                ]
            )

    def _complain(self, error: Exception) -> None:
        self._node.get_logger().error(
            f'reporting failed: {type(error).__name__}: {error}', throttle_duration_sec=10.0
        )
