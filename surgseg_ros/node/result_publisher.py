# SPDX-License-Identifier: Apache-2.0
"""Publishes results: first the mask, then the other topics; or that there is no decision."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol

from surgseg_ros.core.errors import describe
from surgseg_ros.core.gates import StampAnomaly
from surgseg_ros.core.reasons import Reason, ReasonCode
from surgseg_ros.core.results import Decision, FrameResult, InputFrame, without_instruments
from surgseg_ros.core.timing import Stopwatch
from surgseg_ros.messages.encodings import ImageError
from surgseg_ros.messages.serialization import stamp_ns
from surgseg_ros.node.freshness import (
    PUBLISH_NO_DECISION,
    Age,
    Generation,
    ResultPolicy,
    clock_warning,
    staleness,
)
from surgseg_ros.node.health import CameraChannel, Frame

MODEL_STAGES: Final = ('fit', 'network', 'upsample')
"""Stages of the model itself, without conversion and transport of images and masks."""

LATER_STAGES: Final = ('detections', 'instruments', 'publish_others', 'detections_age')
"""Stages after the mask."""

Warnings = tuple[Reason, ...]
"""Why a mask cannot be trusted; empty if it can."""


class Logger(Protocol):
    """The methods of a logger that are used here."""

    def info(self, message: str) -> Any:
        """Log at level info."""

    def warning(self, message: str) -> Any:
        """Log at level warning."""

    def error(self, message: str) -> Any:
        """Log at level error."""


class ReceivedImage(NamedTuple):
    """
    A frame that was read and is waiting for its result.

    :param frame: the serialized frame.
    :param channel: its camera.
    :param header: std_msgs/Header of the image.
    :param input: input of the pipeline.
    :param watch: started before the frame was read.
    """

    frame: Frame
    channel: CameraChannel
    header: Any
    input: InputFrame
    watch: Stopwatch


class ResultPublisher:
    """
    Publishes results of all cameras, except those that are too old or of an earlier generation.

    :param generation: generation of the node; held during a publication.
    :param policy: returns the current rules for publishing results.
    :param now_ns: the node's clock, compared with the stamps of headers.
    :param logger: the node's logger.
    :param report: publishes `status` immediately.
    :param is_current: whether the results are of the model in use.
    """

    def __init__(
        self,
        generation: Generation,
        policy: Callable[[], ResultPolicy],
        now_ns: Callable[[], int],
        logger: Logger,
        report: Callable[[], None],
        is_current: Callable[[], bool],
    ) -> None:
        self._generation = generation
        self._policy = policy
        self._now_ns = now_ns
        self._logger = logger
        self._report = report
        self._is_current = is_current

    def publish_mask(self, image: ReceivedImage, decision: Decision) -> Warnings | None:
        """
        Publish the mask of an image, or that there is no decision; errors are only reported.

        :param image: the image.
        :param decision: the decision on it.
        :return: why the published mask cannot be trusted; None if it was not published.
        """
        try:
            self._log_anomalies(image.channel, decision.anomalies)
            return self._publish_decision(image, decision)
        except Exception as error:  # a frame must never end the thread
            self._reject(image.frame, image.channel, *_described(error, 'no mask for an image'))
            return None

    def publish_rest(self, image: ReceivedImage, result: FrameResult, warnings: Warnings) -> None:
        """
        Publish the other topics after a mask; errors are reported, not raised.

        :param image: the image.
        :param result: the result, with its instruments.
        :param warnings: from `publish_mask`.
        """
        try:
            self._publish_rest(image, self._drop_late(image, result), warnings)
        except Exception as error:  # a frame must never end the thread
            cause, reasons = _described(error, 'publishing detections or a later topic failed')
            with self._generation.held(image.frame.generation) as current:
                if current:
                    image.channel.health.record_warning(*warnings, *reasons)
            self._log_once(image.channel, cause, reasons)

    def reject(self, frame: Frame, channel: CameraChannel, error: Exception) -> None:
        """
        Count and report an image that cannot be read; nothing is published.

        :param frame: its frame.
        :param channel: its camera.
        :param error: the error.
        """
        if isinstance(error, ImageError):
            reason = Reason(ReasonCode.IMAGE_REJECTED, f'image dropped: {error}')
            self._reject(frame, channel, error.cause, (reason,))
        else:
            self._reject(frame, channel, *_described(error, 'no mask for an image'))

    def _publish_decision(self, image: ReceivedImage, decision: Decision) -> Warnings | None:
        """Publish the mask, or that there is no decision."""
        policy, age = self._policy(), self._age(image)
        clocks = clock_warning(age, policy)
        clock_warnings = () if clocks is None else (clocks,)
        if decision.failed:
            self._refuse(image, decision.code, _without_decision(decision.reasons))
        elif late := staleness(age, policy):
            reasons, publish = (late, *clock_warnings), policy.fail_safe == PUBLISH_NO_DECISION
            self._refuse(image, 'too_old', reasons, count='too_old', publish=publish)
        elif not decision.is_decided:
            reasons = _without_decision(decision.reasons)
            self._refuse(image, decision.code, reasons, count='undecided')
        else:
            self._warn_once(image.channel, decision)
            found = (warning.reason for warning in decision.warnings)
            return self._publish_mask(image, decision, (*found, *clock_warnings))
        return None

    def _drop_late(self, image: ReceivedImage, result: FrameResult) -> FrameResult:
        """Remove instruments that were found too late."""
        late = staleness(self._age(image), self._policy())
        return result if late is None else without_instruments(result, late)

    def _log_anomalies(self, channel: CameraChannel, anomalies: Sequence[StampAnomaly]) -> None:
        for anomaly in anomalies:
            text = f'{channel.prefix}{anomaly.text}: {anomaly.remedy} (processed; reported once)'
            if not channel.health.first_time(anomaly.remedy):
                continue
            if anomaly.degrades:
                self._logger.warning(text)
            else:  # rclpy allows only one severity per line of code
                self._logger.info(text)

    def _warn_once(self, channel: CameraChannel, decision: Decision) -> None:
        logged = {anomaly.code for anomaly in decision.anomalies}
        for code, text, _ in decision.warnings:
            if code not in logged and channel.health.first_time(code.value):
                self._logger.warning(f'{channel.prefix}{text} (reported once; see status)')

    def _publish_mask(
        self, image: ReceivedImage, decision: Decision, warnings: Warnings
    ) -> Warnings | None:
        """Publish a mask, and before it the reasons why it cannot be trusted."""
        frame, channel, header, _, watch = image
        with self._generation.held(frame.generation) as current:
            if not current or not self._is_current():
                channel.health.count('discarded')
                return None
            if warnings:  # published before the mask; the order of two topics is not guaranteed
                channel.health.record_warning(*warnings)
                self._report()
            watch.resume()
            channel.outputs.publish_mask(header, decision.mask)
            watch.lap('publish')
            stages = decision.stage_ms
            times_ms = {
                'wait': (watch.started_ns - frame.received_ns) / 1e6,
                **watch.times_ms(),
                **stages,
                'model': sum(stages.get(stage, 0.0) for stage in MODEL_STAGES),
                'age': frame.age_ms(watch.last_ns),
            }
            image_ns = frame.received_ns - frame.age_ns
            channel.health.record_roi(decision.roi)
            channel.health.record_mask(image_ns, stamp_ns(header), times_ms, warnings)
            return warnings

    def _publish_rest(self, image: ReceivedImage, result: FrameResult, warnings: Warnings) -> None:
        """Publish the other topics after a mask, unless the generation has ended."""
        frame, channel, header, given, watch = image
        with self._generation.held(frame.generation) as current:
            if not current or not self._is_current():
                return
            found = tuple(warning.reason for warning in result.warnings)
            if not set(found) <= set(warnings):
                self._warn_once(channel, result)
                channel.health.record_warning(*dict.fromkeys((*warnings, *found)))
                self._report()
            watch.resume()
            channel.outputs.publish_detections(header, result.instruments)
            watch.lap('publish_others')
            age_ms = frame.age_ms(watch.last_ns)
            channel.outputs.publish_others(
                header, given.image, result.segmentation, result.instruments, result.raw_mask
            )
            watch.lap('publish_others')
            times_ms = {**result.stage_ms, **watch.times_ms(), 'detections_age': age_ms}
            # Without a decision on instruments, or on any pixel, some stages were skipped.
            channel.health.record_times(
                {stage: times_ms[stage] for stage in LATER_STAGES if stage in times_ms}
            )

    def _refuse(
        self,
        image: ReceivedImage,
        cause: str,
        reasons: tuple[Reason, ...],
        count: str = 'rejected',
        publish: bool = True,
    ) -> None:
        """Publish that there is no decision on an image, rather than nothing."""
        frame, channel, header, given, _ = image
        with self._generation.held(frame.generation) as current:
            if current and publish and self._is_current():
                channel.outputs.publish_no_decision(header, given.image)
        self._reject(frame, channel, cause, reasons, count)

    def _reject(
        self,
        frame: Frame,
        channel: CameraChannel,
        cause: str,
        reasons: tuple[Reason, ...],
        count: str = 'rejected',
    ) -> None:
        with self._generation.held(frame.generation) as current:
            if not current:
                channel.health.count('discarded')
                return
            channel.health.record_failure(*reasons, count=count)
        self._log_once(channel, cause, reasons)

    def _log_once(self, channel: CameraChannel, cause: str, reasons: Warnings) -> None:
        if channel.health.first_time(cause):
            text = '; '.join(reason.text for reason in reasons)
            line = f'{channel.prefix}{text} (reported once; all are counted in /diagnostics)'
            self._logger.error(line)

    def _age(self, image: ReceivedImage) -> Age:
        header_ns = self._now_ns() - stamp_ns(image.header)
        return Age(image.frame.age_ms(time.monotonic_ns()), header_ns / 1e6)


def _without_decision(reasons: tuple[Reason, ...]) -> tuple[Reason, ...]:
    first, *others = reasons
    return first._replace(text=f'no decision on an image: {first.text}'), *others


def _described(error: Exception, what: str) -> tuple[str, tuple[Reason, ...]]:
    """Return the cause of a failure, to report it once, and the reason."""
    reason = Reason(ReasonCode.PROCESSING_FAILED, f'{what}: {describe(error)}')
    return type(error).__name__, (reason,)
