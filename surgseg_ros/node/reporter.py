# SPDX-License-Identifier: Apache-2.0
"""Publishes status and /diagnostics of all cameras."""

import threading
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile

from surgseg_ros.core.reasons import Reason, ReasonCode
from surgseg_ros.node.health import DEGRADED, INACTIVE, STALE, VALID, Health, Verdict
from surgseg_ros.node.lifecycle import Ticker
from surgseg_ros.node.outputs import prefixed

STATUS_DEADLINE_S: Final = 1.5
_REPEAT_S: Final = 0.5
"""Repetition period of `status`, so that a single lost message does not miss the deadline."""
_LAST_STATUS_S: Final = 3.0
"""
Maximum time to wait for subscribers of the last status.

A subscriber on a busy machine may be slow; launch kills a process after 5 s.
"""
_MIN_RATE_TIME_S: Final = 0.5
"""Minimum time over which rates are computed."""

LEVELS: Final = {
    VALID: DiagnosticStatus.OK,
    DEGRADED: DiagnosticStatus.WARN,
    STALE: DiagnosticStatus.STALE,
    INACTIVE: DiagnosticStatus.ERROR,
}


class StatusReport:
    """
    The `status` topic of one camera, and its part of `/diagnostics`.

    The `hardware_id` of `status` is `instance`. In `/diagnostics` it is the node's full name: the
    same for all cameras, as with diagnostic_updater, and the same after every start, because
    viewers group by it, and their layouts contain it.

    :param node: the node that publishes.
    :param camera_name: prefix of the topic.
    :param health: counts and state to report.
    :param instance: distinguishes this node's `status` from that of another node of the same name.
    """

    def __init__(self, node: Node, camera_name: str, health: Health, instance: str = '') -> None:
        self._node = node
        self._instance = instance
        self._health = health
        self._node_name = node.get_fully_qualified_name().lstrip('/')
        self._name = f'{self._node_name}: {camera_name}' if camera_name else self._node_name
        profile = QoSProfile(
            depth=1,
            durability=DurabilityPolicy.TRANSIENT_LOCAL,
            deadline=Duration(seconds=STATUS_DEADLINE_S),
        )
        # An ordinary publisher: a lifecycle publisher would be silent when `status` is needed.
        self._publisher = node.create_publisher(
            DiagnosticStatus,
            prefixed(camera_name, 'status'),
            profile,
            callback_group=MutuallyExclusiveCallbackGroup(),
        )
        self._last = Verdict('')
        self._last_s = 0.0
        self._past = _Past(time.monotonic(), {})
        self._last_rates = {'in_hz': 0.0, 'out_hz': 0.0}

    def publish(self, stale_after_ms: float, info: Mapping[str, str]) -> None:
        """
        Publish the status if it has changed, or must be repeated.

        :param stale_after_ms: how long a mask is fresh.
        :param info: values of the whole node: `model`, name and hash of the model, and others.
        """
        now_ns = time.monotonic_ns()
        verdict = self._health.verdict(now_ns, stale_after_ms)
        if verdict == self._last and now_ns / 1e9 - self._last_s < _REPEAT_S:
            return
        self._last, self._last_s = verdict, now_ns / 1e9
        self._publish_status(verdict, info)

    def end(self, reason: Reason, info: Mapping[str, str]) -> None:
        """
        Publish a last `inactive`, and wait a limited time for reliable subscribers to receive it.

        :param reason: why no more masks are published.
        :param info: see `publish`.
        """
        self._publish_status(Verdict(INACTIVE, (reason,)), info)
        self._publisher.wait_for_all_acked(Duration(seconds=_LAST_STATUS_S))

    def destroy(self) -> None:
        """Destroy the publisher."""
        self._node.destroy_publisher(self._publisher)

    def diagnostics(
        self, stale_after_ms: float, info: Mapping[str, str], failed: bool
    ) -> DiagnosticStatus:
        """
        Create the camera's part of `/diagnostics`.

        :param stale_after_ms: how long a mask is fresh.
        :param info: values of the whole node: `model`, `device` and others.
        :param failed: whether the node could not be configured or activated.
        :return: the verdict and info as text, and each rate, count and time as a number.
        """
        verdict = self._health.verdict(time.monotonic_ns(), stale_after_ms)
        texts = self._values(verdict, info)
        last_stamp = {'last_stamp_s': stamp} if (stamp := texts.pop('last_stamp')) else {}
        numbers = {
            **last_stamp,
            **self._roi(),
            **(self._distances() if verdict.state in (VALID, DEGRADED) else {}),
            **self._rates(),
            **self._counts(),
            **self._times(),
        }
        status = self._status(verdict, {**texts, **numbers})
        status.hardware_id = self._node_name
        # An operator may have deactivated the node on purpose, which is not an error.
        if verdict.state == INACTIVE:
            status.level = DiagnosticStatus.ERROR if failed else DiagnosticStatus.WARN
        status.message = f'{verdict.state}: {verdict.reason}' if verdict.reason else verdict.state
        return status

    def _publish_status(self, verdict: Verdict, info: Mapping[str, str]) -> None:
        self._publisher.publish(self._status(verdict, self._values(verdict, info)))

    def _status(self, verdict: Verdict, values: Mapping[str, str]) -> DiagnosticStatus:
        return DiagnosticStatus(
            level=LEVELS[verdict.state],
            name=self._name,
            message=verdict.state,
            hardware_id=self._instance,
            values=[KeyValue(key=key, value=value) for key, value in values.items()],
        )

    def _values(self, verdict: Verdict, info: Mapping[str, str]) -> dict[str, str]:
        stamp_ns = self._health.last_stamp_ns()
        stamp = '' if stamp_ns is None else f'{stamp_ns // 10**9}.{stamp_ns % 10**9:09d}'
        return {
            'reason': verdict.reason,
            'last_stamp': stamp,
            'model': info['model'],
            'reason_codes': ','.join(verdict.codes),
            **info,
        }

    def _distances(self) -> dict[str, str]:
        """Return distances between instruments in the last mask, and their standard deviations."""
        distances = self._health.distances()
        return {
            f'{name}_{part}': f'{getattr(distance, part):.1f}'
            for name, distance in ({} if distances is None else distances._asdict()).items()
            if distance is not None
            for part in ('px', 'sigma_px')
        }

    def _roi(self) -> dict[str, str]:
        """Return the region of interest; empty for the whole image."""
        roi = self._health.roi()
        if roi is None:
            return {}
        sides = {
            f'roi_{side}_px': f'{getattr(roi, side + "_px")}'
            for side in ('x', 'y', 'width', 'height')
        }
        if roi.circle is None:
            return sides
        circle = {
            f'roi_circle_{name}_px': f'{getattr(roi.circle, name + "_px"):.1f}'
            for name in ('x', 'y', 'radius')
        }
        return sides | circle

    def _rates(self) -> dict[str, str]:
        counts, now_s = self._health.counts(), time.monotonic()
        elapsed_s = now_s - self._past.time_s
        if elapsed_s >= _MIN_RATE_TIME_S:
            self._last_rates = {
                f'{direction}_hz': (counts[key] - self._past.counts.get(key, 0)) / elapsed_s
                for direction, key in (('in', 'received'), ('out', 'published'))
            }
            self._past = _Past(now_s, counts)
        return {key: f'{rate:.1f}' for key, rate in self._last_rates.items()}

    def _counts(self) -> dict[str, str]:
        counts = self._health.counts()
        named = {
            'received': counts['received'],
            'published': counts['published'],
            'lost_on_the_way': counts['lost'],
            'overwritten_unread': max(0, counts['missing'] - counts['lost']),
            'dropped_for_newer': counts['dropped'],
            'rejected': counts['rejected'],
            'too_old': counts['too_old'],
            'undecided': counts['undecided'],
            'no_decision_published': counts['no_decision'],
            'discarded': counts['discarded'],
            'pairs': counts['pairs'],
            'singles': counts['singles'],
        }
        return {key: str(value) for key, value in named.items()}

    def _times(self) -> dict[str, str]:
        return {
            f'{stage}_{percentile}_ms': f'{ms:.2f}'
            for stage, times in self._health.times_ms().items()
            for percentile, ms in times._asdict().items()
        }


class _Past(NamedTuple):
    """Counts at an earlier time, for rates."""

    time_s: float
    counts: Mapping[str, int]


class Diagnostics:
    """
    The `/diagnostics` topic.

    :param node: the node that publishes.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._publisher = node.create_publisher(DiagnosticArray, '/diagnostics', 10)

    def publish(self, statuses: list[DiagnosticStatus]) -> None:
        """
        Publish all statuses in one message.

        :param statuses: one per camera.
        """
        message = DiagnosticArray(status=statuses)
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(message)


_STATUS_PERIOD_S = 0.02
"""Maximum delay until status becomes stale, apart from the time for waking up a thread."""
_CHECK_PERIOD_S = 1.0


class Reporter:
    """
    Publishes `status` and `/diagnostics` while the node exists, in every state.

    It uses the steady clock.

    :param node: the node that publishes.
    :param stale_after_ms: returns how long a mask is fresh.
    :param detections_3d: returns whether `detections_3d` is published, or why not; None without
        two cameras.
    :param check_subscriptions: called once a second, before `/diagnostics`.
    """

    def __init__(
        self,
        node: Node,
        stale_after_ms: Callable[[], float],
        detections_3d: Callable[[], str | None],
        check_subscriptions: Callable[[], None],
    ) -> None:
        """Create the publishers; nothing is published before `start`."""
        self.model = ''
        """Name and hash of the model that is loaded."""
        self.device = ''
        """Description of the runtime and device."""
        self.failed = False
        """Whether the node could not be configured or activated."""
        self.healths: tuple[Health, ...] = ()
        self.instance = uuid.uuid4().hex[:12]
        """The `hardware_id` of `status`, different after each start."""
        self._node = node
        self._stale_after_ms = stale_after_ms
        self._detections_3d = detections_3d
        self._check_subscriptions = check_subscriptions
        self._lock = threading.Lock()
        self._names: tuple[str, ...] = ()
        self._reports: tuple[StatusReport, ...] = ()
        self._diagnostics = Diagnostics(node)
        self._status_ticker = Ticker(
            'status', _STATUS_PERIOD_S, self.publish_status, self._report_error
        )
        self._check_ticker = Ticker(
            'check', _CHECK_PERIOD_S, self._publish_diagnostics, self._report_error
        )

    def start(self) -> None:
        """Start to report."""
        self._status_ticker.start()
        self._check_ticker.start()

    def set_cameras(self, names: tuple[str, ...]) -> None:
        """
        Change the cameras to report on, if they differ; their counts start again.

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
        Report immediately that no masks are published.

        :param code: the reason code.
        :param text: the reason as a text.
        """
        for health in self.healths:
            health.deactivate(Reason(code, text))
        self._status_ticker.soon()

    def report_failed(self, reason: str) -> None:
        """
        Report immediately that no masks are published because of a failure.

        :param reason: what failed.
        """
        self.failed = True
        self.report_inactive(ReasonCode.TRANSITION_FAILED, reason)

    def check_soon(self) -> None:
        """Run the next check immediately."""
        self._check_ticker.soon()

    def stop(self, reason: str) -> None:
        """
        Stop both threads, and publish `inactive` as the last status.

        :param reason: why no more masks are published.
        """
        self._check_ticker.stop()
        self._status_ticker.stop()
        with self._lock:
            for report in self._reports:
                report.end(Reason(ReasonCode.SHUT_DOWN, reason), self._info())

    def publish_status(self) -> None:
        """Publish each `status` that has changed, or must be repeated."""
        with self._lock:
            for report in self._reports:
                report.publish(self._stale_after_ms(), self._info())

    def _publish_diagnostics(self) -> None:
        self._check_subscriptions()
        info = {**self._info(), 'device': self.device}
        with self._lock:
            self._diagnostics.publish(
                [
                    report.diagnostics(self._stale_after_ms(), info, self.failed)
                    for report in self._reports
                ]
            )

    def _info(self) -> dict[str, str]:
        """Return the values of the whole node that are also in `status`."""
        state = self._detections_3d()
        return {'model': self.model, **({} if state is None else {'detections_3d': state})}

    def _report_error(self, error: Exception) -> None:
        self._node.get_logger().error(
            f'publishing status or /diagnostics failed: {type(error).__name__}: {error}',
            throttle_duration_sec=10.0,
        )
