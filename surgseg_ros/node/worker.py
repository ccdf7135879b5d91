# SPDX-License-Identifier: Apache-2.0
"""The thread that turns frames into results: runs the network on a batch, handles its failures."""

from __future__ import annotations

import copy
import itertools
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.errors import describe, is_of_machine
from surgseg_ros.core.pipeline import CameraPipeline, PipelineSettings
from surgseg_ros.core.processes import empty_device_cache
from surgseg_ros.core.reasons import ResultWarning
from surgseg_ros.core.results import Decision, InputFrame, complete
from surgseg_ros.core.segmentation import STEREO_LAYOUTS, Roi, Segmentation, split_views
from surgseg_ros.core.timing import Stopwatch
from surgseg_ros.messages.encodings import ImageError
from surgseg_ros.messages.images import image_from_msg, read_image
from surgseg_ros.messages.serialization import IMAGE, stamp_ns
from surgseg_ros.node.freshness import Generation, ResultPolicy
from surgseg_ros.node.health import CameraChannel, Frame, LastImage
from surgseg_ros.node.mailbox import PAUSE, Mailbox, Pair, Speculation
from surgseg_ros.node.result_publisher import Logger, ReceivedImage, ResultPublisher, Warnings

if TYPE_CHECKING:
    from surgseg_ros.core.segmenter import Segmenter


Result = Segmentation | Exception


class Input(NamedTuple):
    """
    One camera's input of the network.

    :param image: (H, W, 3) uint8 RGB.
    :param roi: the part to segment; None: the whole image.
    """

    image: NDArray[np.uint8]
    roi: Roi | None


class FallbackHandler(Protocol):
    """Handles failures of the machine that `Inference` reports."""

    def fall_back(self, error: Exception) -> bool:
        """
        Start to replace the runtime that failed.

        :param error: raised by the second attempt, too.
        :return: whether a replacement is being loaded; until it is ready, retrying is useless.
        """

    def disable_batching(self, reason: str) -> None:
        """Record that images are segmented one at a time from now on."""


class Inference:
    """
    Segments images with one model; not thread-safe.

    :param segmenter: the model.
    :param fallback: handles failures of the machine.
    """

    def __init__(self, segmenter: Segmenter, fallback: FallbackHandler) -> None:
        """Start with the batch size that the model supports."""
        self.segmenter = segmenter
        self.max_batch_size = segmenter.max_batch_size
        self._fallback = fallback
        self._failed: Exception | None = None

    @property
    def can_speculate(self) -> bool:
        """Whether `begin` saves time, as on a GPU."""
        return self._failed is None and self.segmenter.max_in_flight > 1

    def begin(
        self, inputs: Sequence[Input], confidence: bool = False
    ) -> Callable[[], list[Result]]:
        """
        Begin to segment a batch.

        :param inputs: one per camera.
        :param confidence: see `segment`.
        :return: an argument for `segment`.
        :raises Exception: if that fails, of any type; `segment` handles it.
        """
        images, rois = [x.image for x in inputs], [x.roi for x in inputs]
        results = self.segmenter.begin(images, rois, confidence=confidence, grid_confidence=True)
        return lambda: list(results())

    def segment(
        self,
        inputs: Sequence[Input],
        confidence: bool = False,
        begun: Callable[[], list[Result]] | None = None,
    ) -> list[Result]:
        """
        Segment a batch; if that fails, segment each image alone, to find the one that fails.

        :param inputs: one per camera; may be empty.
        :param confidence: whether to compute the confidence of each pixel, not only on the
            network's grid.
        :param begun: what `begin` returned for the same arguments, if it was called.
        :return: for each input its segmentation, or the error.
        """
        if not inputs:
            return []
        if self._failed is not None:
            return [self._failed] * len(inputs)
        try:
            return self._try(lambda: self._run(inputs, confidence), begun)
        except Exception as error:  # from the network, the device, or a roi beyond the image
            if len(inputs) > 1:
                results = [result for one in inputs for result in self.segment([one], confidence)]
                self._check_batching(error, results)
                return results
            if is_of_machine(error) and self._fallback.fall_back(error):
                self._failed = error
            return [error]

    def _try(
        self, attempt: Callable[[], list[Result]], begun: Callable[[], list[Result]] | None
    ) -> list[Result]:
        """Try again once if the machine failed."""
        try:
            return (begun or attempt)()
        except Exception as error:
            if not is_of_machine(error):
                raise
        empty_device_cache()
        return attempt()

    def _run(self, inputs: Sequence[Input], confidence: bool) -> list[Result]:
        images, rois = [x.image for x in inputs], [x.roi for x in inputs]
        wanted = {'confidence': confidence, 'grid_confidence': True}
        return list(self.segmenter.segment_all(images, rois, **wanted))

    def _check_batching(self, error: Exception, results: Sequence[Result]) -> None:
        """Process images one at a time from now on if that works and a batch does not."""
        if is_of_machine(error) and not any(isinstance(one, Exception) for one in results):
            self.max_batch_size = 1
            reason = f'images are processed one at a time: {describe(error)}'
            self._fallback.disable_batching(reason)


class ModelSource(Protocol):
    """Provides the model in use."""

    @property
    def inference(self) -> Inference | None:
        """The inference with the current model, which changes with the model."""


Batch = Sequence[tuple[ReceivedImage, Decision]]
"""Images that were processed by the network together."""


class Worker(threading.Thread):
    """
    Takes frames from the mailbox, one batch at a time, until it is closed.

    :param models: provides the model before each batch.
    :param mailbox: holds the frames.
    :param channels: the cameras, by index.
    :param generation: the node's generation.
    :param policy: returns the current rules for publishing results.
    :param now_ns: the node's clock, compared with the stamps of headers.
    :param logger: the node's logger.
    :param settings: settings of each camera's pipeline; thresholds are those of the policy.
    :param report: publishes `status` immediately.
    :param stereo_layout: arrangement of the views in each image, one of STEREO_LAYOUTS.
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
        self._publisher = ResultPublisher(
            generation, policy, now_ns, logger, report, lambda: self._used is models.inference
        )
        self._layout = stereo_layout
        self._pipelines = tuple(CameraPipeline(settings, channel.roi) for channel in channels)
        self._last_generation = -1
        self._last_used: Callable[[], Inference | None] = lambda: None
        self._speculation: Speculation | None = None
        self._pause = 0

    def run(self) -> None:
        """Process frames. A failure is reported and counted, and the next frame is processed."""
        with ThreadPoolExecutor(1, 'gates') as checker:
            while frames := self._take():
                inference = self._begin(frames[0].generation)
                if inference is None:  # the node was just cleaned up
                    continue
                is_one_batch = self._count(frames) <= inference.max_batch_size
                for batch in self._decided(frames, inference, checker):
                    answers = self._publish_masks(batch)
                    if is_one_batch:
                        self._speculate(inference)
                    self._publish_rest(batch, answers)
                del inference
                self._used = None  # otherwise, a replaced model would stay in memory

    def _take(self) -> tuple[Frame, ...]:
        """Take the next frames; forget speculative work on any others."""
        maximum, speculation = self._max_batch_size(), self._speculation
        if speculation is None:
            return self._mailbox.take(maximum)
        frames = self._mailbox.take_now(maximum)
        if not speculation.is_for(frames):
            speculation = self._speculation = None
            self._pause = PAUSE
        return frames or self._mailbox.take(maximum)

    def _speculate(self, inference: Inference) -> None:
        """Let a GPU begin with the frames that the mailbox would give now."""
        self._pause = max(0, self._pause - 1)
        if self._pause or not inference.can_speculate or any(x.finds_roi for x in self._pipelines):
            return
        frames = self._mailbox.peek(inference.max_batch_size)
        if not frames or any(self._channels[frame.camera].type_name != IMAGE for frame in frames):
            return  # decoding JPEG would take as long as the GPU
        try:
            images = [image for frame in frames for image in self._images(frame)]
            if len(images) <= inference.max_batch_size:
                confidence = self._needs_confidence(images)
                results = inference.begin([*map(self._find_roi, images)], confidence)
                known = weakref.ref(inference)
                self._speculation = Speculation(frames, tuple(images), confidence, results, known)
        except Exception:  # it is reported when the frames are taken
            return

    def _of_cameras(self, frame: Frame) -> tuple[Frame, ...]:
        """Return the frame for each camera whose view it contains."""
        if self._layout == STEREO_LAYOUTS[0]:
            return (frame,)
        return tuple(frame._replace(camera=camera) for camera in range(len(self._channels)))

    def _count(self, frames: tuple[Frame, ...]) -> int:
        """Count the images as pairs or singles, and return their number."""
        every = [each for frame in frames for each in self._of_cameras(frame)]
        is_pair = isinstance(frames, Pair) or len(every) > len(frames)
        for frame in every:
            self._channels[frame.camera].health.count('pairs' if is_pair else 'singles')
        return len(every)

    def _decided(
        self, frames: Sequence[Frame], inference: Inference, checker: Executor
    ) -> Iterator[Batch]:
        """Yield the decisions on each batch of images, as soon as they are available."""
        speculation, self._speculation = self._speculation, None
        images: Iterator[ReceivedImage] = itertools.chain.from_iterable(map(self._read, frames))
        if speculation is not None:
            images = map(self._record, speculation.images)
        while batch := tuple(itertools.islice(images, inference.max_batch_size)):
            inputs = [self._find_roi(image) for image in batch]
            pipelines = [self._pipelines[image.frame.camera] for image in batch]
            checks = [
                checker.submit(pipeline.check, image.input)
                for pipeline, image in zip(pipelines, batch)
            ]
            confidence = self._needs_confidence(batch)
            begun = speculation and speculation.results_for(batch, confidence, inference)
            outputs = inference.segment(inputs, confidence, begun)
            yield [
                (image, pipeline.decide(image.input, output, check.result()))
                for image, pipeline, output, check in zip(batch, pipelines, outputs, checks)
            ]

    def _publish_masks(self, batch: Batch) -> list[Warnings | None]:
        return [self._publisher.publish_mask(image, decision) for image, decision in batch]

    def _publish_rest(self, batch: Batch, answers: Sequence[Warnings | None]) -> None:
        """Publish the other topics of each image, after all masks."""
        for (image, decision), warnings in zip(batch, answers):
            result = self._pipelines[image.frame.camera].track(complete(decision))
            if warnings is not None:
                self._publisher.publish_rest(image, result, warnings)

    def _max_batch_size(self) -> int:
        inference = self._models.inference
        return 1 if inference is None else inference.max_batch_size

    def _begin(self, generation: int) -> Inference | None:
        """Return the model in use; reset the pipelines after a change of model or activation."""
        with self._generation.held(generation):
            inference = self._used = self._models.inference
        if inference is None:
            return None
        policy = self._policy()
        thresholds = policy.min_confidence, policy.least_area, policy.min_detection_score
        for pipeline in self._pipelines:
            pipeline.set_thresholds(*thresholds)
            if generation != self._last_generation or self._last_used() is not inference:
                pipeline.reset()
        self._last_generation, self._last_used = generation, weakref.ref(inference)
        return inference

    def _find_roi(self, image: ReceivedImage) -> Input:
        roi = self._pipelines[image.frame.camera].find_roi(image.input.image)
        return Input(image.input.image, roi)

    def _needs_confidence(self, images: Sequence[ReceivedImage]) -> bool:
        """Return whether the confidence of each pixel is needed, which takes time."""
        return any(
            self._pipelines[image.frame.camera].needs_confidence
            or image.channel.outputs.wants_confidence()
            for image in images
        )

    def _read(self, frame: Frame) -> tuple[ReceivedImage, ...]:
        """Read the image of each camera in a frame; empty if it cannot be read."""
        try:
            return tuple(map(self._record, self._images(frame)))
        except Exception as error:  # a frame must never end the thread
            for each in self._of_cameras(frame):
                self._publisher.reject(each, self._channels[each.camera], error)
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
            channel, stopwatch = self._channels[each.camera], copy.deepcopy(watch)
            images.append(ReceivedImage(each, channel, header, given, stopwatch))
        return tuple(images)

    def _split(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], ...]:
        try:
            return split_views(image, self._layout)
        except ValueError as error:
            raise ImageError(str(error), 'stereo_layout') from error

    def _record(self, image: ReceivedImage) -> ReceivedImage:
        frame, channel, header, given, _ = image
        at_ns = frame.received_ns - frame.age_ns
        channel.health.record_image(
            LastImage(stamp_ns(header), header.frame_id, given.size, at_ns)
        )
        return image
