# SPDX-License-Identifier: Apache-2.0
"""The thread that turns frames into results."""

from __future__ import annotations

import copy
import itertools
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.detections import without_decision
from surgseg_ros.core.errors import describe
from surgseg_ros.core.pipeline import (
    CameraPipeline,
    FrameResult,
    InputFrame,
    PipelineSettings,
    complete,
)
from surgseg_ros.core.reasons import Reason, ReasonCode, ResultWarning
from surgseg_ros.core.segmentation import STEREO_LAYOUTS, Segmentation, split_views
from surgseg_ros.core.timing import StampAnomaly, Stopwatch
from surgseg_ros.messages.encodings import ImageError
from surgseg_ros.messages.images import image_from_msg, read_image
from surgseg_ros.messages.serialization import stamp_ns
from surgseg_ros.node.freshness import (
    PUBLISH_NO_DECISION,
    Age,
    Generation,
    ResultPolicy,
    clock_warning,
    staleness,
)
from surgseg_ros.node.health import CameraChannel, Frame, LastImage, ReceivedImage
from surgseg_ros.node.inference import Inference, Input
from surgseg_ros.node.mailbox import Mailbox, Pair

MODEL_STAGES: Final = ('fit', 'network', 'upsample')
"""Stages of the model itself, without conversion and transport of images and masks."""


class Logger(Protocol):
    """The methods of a logger that are needed here."""

    def info(self, message: str) -> Any:
        """Log at level info."""

    def warning(self, message: str) -> Any:
        """Log at level warning."""

    def error(self, message: str) -> Any:
        """Log at level error."""


class ModelSource(Protocol):
    """Provides the model in use."""

    @property
    def inference(self) -> Inference | None:
        """The inference with the model in use; another one after a change of model."""


class Worker(threading.Thread):
    """
    Takes frames from the mailbox, one batch at a time, until it is closed.

    :param models: provides the model before each batch.
    :param mailbox: holds the frames.
    :param channels: the cameras, by index.
    :param generation: the node's generation.
    :param policy: returns the present rules for publishing results.
    :param now_ns: the node's clock, compared with the stamps of headers.
    :param logger: the node's logger.
    :param settings: settings of each camera's pipeline; thresholds are those of the policy.
    :param report: publishes `status` immediately.
    :param stereo_layout: how each image holds the views of both cameras, one of STEREO_LAYOUTS.
    """

    def __init__(
        self,
        models: ModelSource,
        mailbox: Mailbox,
        channels: tuple[CameraChannel, ...],
        generation: Generation,
        policy: Callable[[], ResultPolicy],
        now_ns: Callable[[], int],
        logger: Logger,
        settings: PipelineSettings | None = None,
        report: Callable[[], None] = lambda: None,
        stereo_layout: str = STEREO_LAYOUTS[0],
    ) -> None:
        """Store the arguments; `start` starts the thread."""
        super().__init__(name='segment', daemon=True)
        self._models = models
        self._used: Inference | None = None
        self._mailbox = mailbox
        self._channels = channels
        self._generation = generation
        self._policy = policy
        self._now_ns = now_ns
        self._logger = logger
        self._report = report
        self._layout = stereo_layout
        self._pipelines = tuple(CameraPipeline(settings, channel.roi) for channel in channels)
        self._last_generation = -1
        self._last_used: Callable[[], Inference | None] = lambda: None

    def run(self) -> None:
        """Process frames. One that fails is reported and counted, and the next one is taken."""
        while frames := self._mailbox.take(self._max_batch_size()):
            inference = self._begin(frames[0].generation)
            if inference is None:  # the node has just been cleaned up
                continue
            self._count(frames)
            for image, result in self._results(frames, inference):
                self._answer(image, result)
            del inference
            self._used = None  # else a replaced model would stay in memory

    def _of_cameras(self, frame: Frame) -> tuple[Frame, ...]:
        """Return the frame for each camera that it holds a view of."""
        if self._layout == STEREO_LAYOUTS[0]:
            return (frame,)
        return tuple(frame._replace(camera=camera) for camera in range(len(self._channels)))

    def _count(self, frames: tuple[Frame, ...]) -> None:
        every = [each for frame in frames for each in self._of_cameras(frame)]
        is_pair = isinstance(frames, Pair) or len(every) > len(frames)
        for frame in every:
            self._channels[frame.camera].health.count('pairs' if is_pair else 'singles')

    def _results(
        self, frames: Sequence[Frame], inference: Inference
    ) -> Iterator[tuple[ReceivedImage, FrameResult]]:
        """Yield the result of each image, as soon as the batch that it belongs to is ready."""
        images = itertools.chain.from_iterable(map(self._read, frames))
        while batch := tuple(itertools.islice(images, inference.max_batch_size)):
            inputs = [self._find_roi(image) for image in batch]
            outputs = inference.segment(inputs, self._needs_confidence(batch))
            for image, output in zip(batch, outputs):
                pipeline = self._pipelines[image.frame.camera]
                yield image, pipeline.track(complete(pipeline.decide(image.input, output)))

    def _max_batch_size(self) -> int:
        inference = self._models.inference
        return 1 if inference is None else inference.max_batch_size

    def _begin(self, generation: int) -> Inference | None:
        """Take the model in use; reset the pipelines after a change of model or activation."""
        with self._generation.held(generation):
            inference = self._used = self._models.inference
        if inference is None:
            return None
        policy = self._policy()
        for pipeline in self._pipelines:
            pipeline.set_thresholds(policy.min_confidence, policy.least_area)
            if generation != self._last_generation or self._last_used() is not inference:
                pipeline.reset()
        self._last_generation, self._last_used = generation, weakref.ref(inference)
        return inference

    def _find_roi(self, image: ReceivedImage) -> Input:
        roi = self._pipelines[image.frame.camera].find_roi(image.input.image)
        return Input(image.input.image, roi)

    def _needs_confidence(self, images: Sequence[ReceivedImage]) -> bool:
        """Return whether the confidence of each pixel is needed, which costs time."""
        return any(
            self._pipelines[image.frame.camera].needs_confidence
            or image.channel.outputs.wants_confidence()
            for image in images
        )

    def _read(self, frame: Frame) -> tuple[ReceivedImage, ...]:
        """Read the image of each camera in a frame; none if it cannot be read."""
        try:
            return self._images(frame)
        except ImageError as error:
            cause, reasons = error.cause, _rejected(error)
        except Exception as error:  # a frame must never end the thread
            cause, reasons = _reported(error, 'no mask for an image')
        for each in self._of_cameras(frame):
            self._reject(each, self._channels[each.camera], cause, reasons)
        return ()

    def _images(self, frame: Frame) -> tuple[ReceivedImage, ...]:
        watch = Stopwatch()
        message = read_image(frame.cdr, self._channels[frame.camera].type_name)
        header, received = message.header, image_from_msg(message)
        warnings = tuple(ResultWarning(*known) for known in received.warnings)
        frames, views = self._of_cameras(frame), self._split(received.rgb)
        watch.lap('parse')
        images = []
        for each, view in zip(frames, views):
            given = InputFrame(view, stamp_ns(header), frame.received_ns, warnings)
            channel, own_watch = self._channels[each.camera], copy.deepcopy(watch)
            images.append(ReceivedImage(each, channel, header, given, own_watch))
            self._record(images[-1])
        return tuple(images)

    def _split(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], ...]:
        try:
            return split_views(image, self._layout)
        except ValueError as error:
            raise ImageError(str(error), 'stereo_layout') from error

    def _record(self, image: ReceivedImage) -> None:
        frame, channel, header, given, _ = image
        at_ns = frame.received_ns - frame.age_ns
        channel.health.record_image(
            LastImage(stamp_ns(header), header.frame_id, given.size, at_ns)
        )

    def _answer(self, image: ReceivedImage, result: FrameResult) -> None:
        try:
            self._log_anomalies(image.channel, result.anomalies)
            self._judge(image, result)
        except Exception as error:  # a frame must never end the thread
            self._reject(image.frame, image.channel, *_reported(error, 'no mask for an image'))

    def _judge(self, image: ReceivedImage, result: FrameResult) -> None:
        """Publish the result, or that there is no decision."""
        policy, age = self._policy(), self._age(image)
        clocks = clock_warning(age, policy)
        clock_warnings = () if clocks is None else (clocks,)
        if result.failed:
            self._refuse(image, result.code, _without_decision(result.reasons))
        elif late := staleness(age, policy):
            reasons, publish = (late, *clock_warnings), policy.fail_safe == PUBLISH_NO_DECISION
            self._refuse(image, 'too_old', reasons, count='too_old', publish=publish)
        elif not result.is_decided:
            reasons = _without_decision(result.reasons)
            self._refuse(image, result.code, reasons, count='undecided')
        else:
            self._warn_once(image.channel, result)
            found = (warning.reason for warning in result.warnings)
            self._publish(image, result, (*found, *clock_warnings))

    def _log_anomalies(self, channel: CameraChannel, anomalies: Sequence[StampAnomaly]) -> None:
        for anomaly in anomalies:
            text = f'{channel.prefix}{anomaly.text}: {anomaly.remedy} (processed; reported once)'
            if not channel.health.first_time(anomaly.remedy):
                continue
            if anomaly.degrades:
                self._logger.warning(text)
            else:  # rclpy allows only one severity per line of code
                self._logger.info(text)

    def _warn_once(self, channel: CameraChannel, result: FrameResult) -> None:
        logged = {anomaly.code for anomaly in result.anomalies}
        for code, text, _ in result.warnings:
            if code not in logged and channel.health.first_time(code.value):
                self._logger.warning(f'{channel.prefix}{text} (reported once; see status)')

    def _publish(
        self, image: ReceivedImage, result: FrameResult, warning: tuple[Reason, ...]
    ) -> None:
        """Publish a mask, and before it why it cannot be trusted."""
        frame, channel, header, given, watch = image
        with self._generation.held(frame.generation) as current:
            if not current or self._used is not self._models.inference:
                channel.health.count('discarded')
                return
            if warning:  # published before the mask, as far as two topics have an order
                channel.health.record_warning(*warning)
                self._report()
            watch.resume()
            channel.outputs.publish(
                header, given.image, result.segmentation, result.instruments, result.raw_mask
            )
            watch.lap('publish')
            times_ms = {
                'wait': (watch.started_ns - frame.received_ns) / 1e6,
                **watch.times_ms(),
                **result.stage_ms,
                'model': sum(result.stage_ms.get(stage, 0.0) for stage in MODEL_STAGES),
                'age': (frame.age_ns + watch.last_ns - frame.received_ns) / 1e6,
            }
            image_ns = frame.received_ns - frame.age_ns
            channel.health.record_roi(result.roi)
            channel.health.record_mask(image_ns, stamp_ns(header), times_ms, warning)

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
            if current and publish and self._used is self._models.inference:
                unknown = Segmentation.undecided(given.size), without_decision(given.size)
                channel.outputs.publish(header, given.image, *unknown)
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
        if channel.health.first_time(cause):
            text = '; '.join(reason.text for reason in reasons)
            line = f'{channel.prefix}{text} (reported once; all are counted in /diagnostics)'
            self._logger.error(line)

    def _age(self, image: ReceivedImage) -> Age:
        frame = image.frame
        receipt_ns = frame.age_ns + time.monotonic_ns() - frame.received_ns
        return Age(receipt_ns / 1e6, (self._now_ns() - stamp_ns(image.header)) / 1e6)


def _without_decision(reasons: tuple[Reason, ...]) -> tuple[Reason, ...]:
    first, *others = reasons
    return first._replace(text=f'no decision on an image: {first.text}'), *others


def _rejected(error: ImageError) -> tuple[Reason, ...]:
    return (Reason(ReasonCode.IMAGE_REJECTED, f'image dropped: {error}'),)


def _reported(error: Exception, what: str) -> tuple[str, tuple[Reason, ...]]:
    """Return the cause of a failure, to report it once, and the reason."""
    reason = Reason(ReasonCode.PROCESSING_FAILED, f'{what}: {describe(error)}')
    return type(error).__name__, (reason,)
