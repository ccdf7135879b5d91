# SPDX-License-Identifier: Apache-2.0
"""Runs every image of a bag through a model, once and in order; reading and writing overlap."""

import time
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from tqdm import tqdm

from surgseg_ros.bag_evaluation.accumulator import FrameAccumulator
from surgseg_ros.bag_evaluation.bag_scan import Matching, check_topics, identify, match, scan_bag
from surgseg_ros.bag_evaluation.frames import (
    Answer,
    NonImage,
    Options,
    Rejected,
    Truncated,
    Truth,
    answered,
    decided,
    decoded,
)
from surgseg_ros.bag_evaluation.prefetch import DEPTH, WorkerPool, follow, prefetch
from surgseg_ros.bag_evaluation.results import BagResult, ground_truth_numbers, make_result
from surgseg_ros.bags.reading import Bag
from surgseg_ros.bags.writing import BagWriter
from surgseg_ros.core.pipeline import CameraPipeline, FrameResult
from surgseg_ros.core.segmenter import Segmenter
from surgseg_ros.core.timing import Stopwatch
from surgseg_ros.messages.images import IMAGE, image_to_msg
from surgseg_ros.messages.results import (
    DETECTIONS,
    LABEL_INFO,
    detections_to_msg,
    label_info_to_msg,
    stamp_ns,
)

MASK_TOPIC: Final = '/mask'
DETECTIONS_TOPIC: Final = '/detections'
LABEL_INFO_TOPIC: Final = '/label_info'
CONFIDENCE_TOPIC: Final = '/confidence'

_MAX_WORKERS: Final = 4
"""Twice as many were no faster beside a GPU: Python runs one thread at a time."""


def evaluate(
    path: Path,
    output: Path | None,
    segmenter: Segmenter,
    options: Options,
    *,
    progress: bool = False,
) -> BagResult:
    """
    Evaluate a bag.

    :param path: the bag.
    :param output: the output bag; None to write none.
    :param segmenter: the model, warmed up by this thread, which will also run it.
    :param options: the options of the evaluation.
    :param progress: whether to show a progress bar.
    :return: the result.
    :raises BagError: if the bag or a topic cannot be read at all, no image yields a mask, or
        the output cannot be written.
    """
    started_s = time.monotonic()
    bag = _scan(path, options)
    with ExitStack() as stack:
        workers = stack.enter_context(WorkerPool(_workers()))
        accumulator = FrameAccumulator(set(bag.matching.of_image), workers)
        writer = stack.enter_context(BagWriter(output, packed=True)) if output else None
        step = _Step(accumulator, writer, options)
        bar = stack.enter_context(_bar(path.name, bag.images, progress))
        items = stack.enter_context(closing(prefetch(decoded(path, options, bag.image_of_truth))))
        # The network stays in the thread that warmed it up: torch keeps a thread pool for each
        # calling thread, and with more threads than cores, all of them get slow.
        pipeline = CameraPipeline(options.pipeline, options.roi)
        decisions = decided(items, segmenter, pipeline, options.confidence)
        answers = (workers.begin(answered, item) for item in decisions)
        follow(lambda found: bar.update(step(found())), answers, DEPTH + workers.count)
        counts = accumulator.finish()
        # Before the writer ends, so that it leaves no bag if this raises.
        accumulator.check_any(path, options.image_topic, ('mask',))
    truth = bag.truth_numbers(accumulator)
    return make_result(accumulator, counts, truth, bag.identity, time.monotonic() - started_s)


class _Scanned(NamedTuple):
    """What is known of a bag before its images are read; `truths` is None without a topic."""

    identity: dict[str, Any]
    images: int
    truths: int | None
    matching: Matching

    @property
    def image_of_truth(self) -> dict[int, int]:
        return {truth: image for image, truth in self.matching.of_image.items()}

    def truth_numbers(self, accumulator: FrameAccumulator) -> dict[str, int] | None:
        if self.truths is None:
            return None
        return ground_truth_numbers(self.truths, self.matching, accumulator)


def _scan(path: Path, options: Options) -> _Scanned:
    """Check that the topics exist, and match truths with images."""
    with Bag(path) as bag:
        check_topics(bag, options.topics)
        identity, images = identify(bag), bag.topics[options.image_topic].message_count
        if not options.ground_truth_topic:
            return _Scanned(identity, images, None, Matching({}, 0, 0))
        seen = scan_bag(bag, options.topics)
    truths = seen[options.ground_truth_topic].stamps
    matching = match(seen[options.image_topic].stamps, truths, options.tolerance_ns)
    return _Scanned(identity, images, len(truths), matching)


def _workers() -> int:
    """Choose the number of threads that find instruments and score: 0 if the network has few."""
    return min(_MAX_WORKERS, torch.get_num_threads() // 4)


def _bar(name: str, images: int, progress: bool) -> Any:
    return tqdm(total=images, desc=name, unit='frame', leave=False, disable=not progress)


class _Step:
    """
    Passes each item to accumulator and writer.

    :param accumulator: collects outcomes and scores.
    :param writer: writes the messages; None to write none.
    :param options: with `confidence`, whether to write that too.
    """

    def __init__(
        self, accumulator: FrameAccumulator, writer: BagWriter | None, options: Options
    ) -> None:
        self._accumulator = accumulator
        self._writer = writer
        self._confidence = options.confidence
        self._announced = False

    def __call__(self, item: Answer | NonImage) -> int:
        """Process an item, and return the number of images that it stands for."""
        if isinstance(item, Answer):
            self._take_answer(item)
        elif isinstance(item, Rejected):
            place = self._accumulator.add_frame(
                item.stamp_ns, item.received_ns, 'rejected', item.ms
            )
            self._accumulator.record_failure(item.cause, item.text)
            self._accumulator.record_no_mask(place)
        elif isinstance(item, Truth):
            if item.mask is None:
                self._accumulator.record_unusable(item.place, item.text)
            else:
                self._accumulator.record_truth(item.place, item.mask)
        elif isinstance(item, Truncated):
            self._accumulator.damage = item.text
        return isinstance(item, Answer | Rejected)

    def _take_answer(self, item: Answer) -> None:
        watch = Stopwatch()
        if self._writer is not None:
            self._write(item, self._writer)
        watch.lap('write')
        place = self._accumulator.add_frame(
            stamp_ns(item.header), item.received_ns, _outcome(item.result), item.ms
        )
        if item.failure:
            self._accumulator.record_failure(*item.failure)
        for warning in item.warnings:
            self._accumulator.record_failure(warning.code.value, warning.text)
        result = item.result
        self._accumulator.record_mask(
            place, result.mask, item.pixels, result.segmentation.grid_confidence
        )
        watch.lap('score')
        frame, times_ms = self._accumulator.over_time[place], dict(watch.times_ms())
        frame['instruments'] = [instrument.label for instrument in result.instruments]
        frame['warnings'] = [warning.text for warning in result.warnings]
        frame['reason'] = result.reason or None
        times_ms['score'] += item.ms.get('score', 0.0)
        frame['ms'] |= times_ms

    def _write(self, item: Answer, writer: BagWriter) -> None:
        time_ns, header, found = item.received_ns, item.header, item.result.segmentation
        if not self._announced:
            labels = replace(label_info_to_msg(time_ns), header=header)
            writer.write(LABEL_INFO_TOPIC, LABEL_INFO, labels, time_ns)
            self._announced = True
        writer.write(MASK_TOPIC, IMAGE, image_to_msg(found.mask, header), time_ns)
        detections = detections_to_msg(header, item.result.instruments)
        writer.write(DETECTIONS_TOPIC, DETECTIONS, detections, time_ns)
        if self._confidence and found.confidence is not None:
            message = image_to_msg(found.confidence, header)
            writer.write(CONFIDENCE_TOPIC, IMAGE, message, time_ns)


def _outcome(result: FrameResult) -> str:
    if result.is_decided:
        return 'mask'
    return 'failed' if result.failed else 'undecided'
