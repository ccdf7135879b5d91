# SPDX-License-Identifier: Apache-2.0
"""
Collects the results of a bag: finds and tracks instruments, writes messages, and scores.

Imports no torch, because it runs in a process of its own where there are cores for it.
"""

import time
from collections.abc import Iterable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from surgseg_ros.bag_evaluation.accumulator import FrameAccumulator
from surgseg_ros.bag_evaluation.bag_scan import Matching, frame_path
from surgseg_ros.bag_evaluation.frames import (
    CompletedFrame,
    Decided,
    NonImage,
    Options,
    Rejected,
    Truncated,
    Truth,
    begin_completion,
    tracked,
)
from surgseg_ros.bag_evaluation.results import BagResult, ground_truth_numbers, make_result
from surgseg_ros.bag_evaluation.worker_pool import WorkerPool
from surgseg_ros.bags.writing import BagWriter
from surgseg_ros.core.pipeline import CameraPipeline
from surgseg_ros.core.processes import QUEUE_DEPTH, follow
from surgseg_ros.core.results import FrameResult
from surgseg_ros.core.timing import Stopwatch
from surgseg_ros.evaluation.instrument_folders import write_instruments
from surgseg_ros.messages.images import image_to_msg
from surgseg_ros.messages.serialization import (
    DETECTIONS,
    IMAGE,
    LABEL_INFO,
    detections_to_cdr,
    keypoints_to_cdr,
    label_info_to_msg,
    stamp_ns,
)

MASK_TOPIC: Final = '/mask'
DETECTIONS_TOPIC: Final = '/detections'
LABEL_INFO_TOPIC: Final = '/label_info'
MEASURES: Final = ('opening_deg', 'shaft_width_px', 'needle_radius_px')
"""Measures of each instrument, as in Geometry."""

KEYPOINTS_TOPIC: Final = '/keypoints'
CONFIDENCE_TOPIC: Final = '/confidence'


class Scanned(NamedTuple):
    """Stamps and matches of a bag, before images are read; `truths` is None without a topic."""

    identity: dict[str, Any]
    images: int
    truths: int | None
    matching: Matching

    @property
    def image_of_truth(self) -> dict[int, int]:
        """Map the index of a truth to that of its image."""
        return {truth: image for image, truth in self.matching.of_image.items()}

    def truth_numbers(self, accumulator: FrameAccumulator) -> dict[str, int] | None:
        """Count the outcomes of the truths; None without a topic."""
        if self.truths is None:
            return None
        return ground_truth_numbers(self.truths, self.matching, accumulator)


@dataclass(frozen=True)
class Collection:
    """
    The results of a bag that are to be collected; picklable.

    :param path: the bag.
    :param output: the output bag; None to write none.
    :param options: options of the evaluation.
    :param instruments: folder for the instruments of each image; None to write none.
    :param scanned: stamps and matches of the bag.
    :param workers: number of processes that find instruments and score.
    :param started_s: when the evaluation began, by `time.monotonic`.
    """

    path: Path
    output: Path | None
    options: Options
    instruments: Path | None
    scanned: Scanned
    workers: int
    started_s: float

    @property
    def blocks(self) -> int:
        """How many masks, and truths, are in use at most while they are collected."""
        waiting_results = QUEUE_DEPTH + self.workers
        waiting_scores = 2 * self.workers
        return waiting_results + 2 * waiting_scores + 2 * QUEUE_DEPTH + 1  # one is being written


def collect(collection: Collection, items: Iterable[Decided | NonImage]) -> BagResult:
    """
    Collect the results of a bag.

    :param collection: what to collect.
    :param items: from `decided`.
    :return: the result.
    :raises BagError: if the output cannot be used, or no image has a mask.
    """
    with ExitStack() as stack:
        workers = stack.enter_context(WorkerPool(collection.workers))
        accumulator = FrameAccumulator(set(collection.scanned.matching.of_image), workers)
        writer = None
        if collection.output is not None:
            writer = stack.enter_context(BagWriter(collection.output, packed=True))
        writing = stack.enter_context(ThreadPoolExecutor(1, 'write'))  # ends before the writer
        step = _Step(accumulator, writer, writing, collection.options, collection.instruments)
        runs = collection.instruments is not None
        completions = (begin_completion(item, workers, runs=runs) for item in items)
        follow(lambda found: step(found()), completions, QUEUE_DEPTH + workers.count)
        step.finish()
        counts = accumulator.finish()
        # Before the writer is closed, so that it leaves no bag if this raises.
        accumulator.check_any(collection.path, collection.options.image_topic, ('mask',))
    truth = collection.scanned.truth_numbers(accumulator)
    elapsed_s = time.monotonic() - collection.started_s
    return make_result(accumulator, counts, truth, collection.scanned.identity, elapsed_s)


class _Step:
    """
    Tracks instruments, and passes each item to accumulator and writer.

    :param accumulator: collects outcomes and scores.
    :param writer: writes the messages; None to write none.
    :param writing: the thread in which it writes: compression, half of the time, needs no GIL.
    :param options: options of the evaluation.
    :param instruments: folder for the instruments; None to write none.
    """

    def __init__(
        self,
        accumulator: FrameAccumulator,
        writer: BagWriter | None,
        writing: Executor,
        options: Options,
        instruments: Path | None,
    ) -> None:
        self._instruments = instruments
        self._accumulator = accumulator
        self._writer = writer
        self._writing = writing
        self._written: Future[None] = writing.submit(lambda: None)
        self._confidence = options.confidence
        self._pipeline = CameraPipeline(options.pipeline, options.roi)
        self._announced = False

    def __call__(self, item: CompletedFrame | NonImage) -> None:
        """Process an item."""
        if isinstance(item, CompletedFrame):
            self._record_completed(tracked(item, self._pipeline))
        elif isinstance(item, Rejected):
            index = self._accumulator.add_frame(
                item.stamp_ns, item.received_ns, 'rejected', item.ms
            )
            self._accumulator.record_failure(item.cause, item.text)
            self._accumulator.record_no_mask(index)
        elif isinstance(item, Truth):
            if item.mask is None:
                self._accumulator.record_unusable(item.frame_index, item.text)
            else:
                self._accumulator.record_truth(item.frame_index, item.mask)
        elif isinstance(item, Truncated):
            self._accumulator.damage = item.text

    def _record_completed(self, item: CompletedFrame) -> None:
        result, found = item.result, item.found
        index = self._accumulator.add_frame(
            stamp_ns(item.header), item.received_ns, _outcome(result), {**item.ms, 'write': 0.0}
        )
        frame = self._accumulator.over_time[index]
        self.finish()
        if self._writer is not None:
            self._written = self._writing.submit(self._write, item, self._writer, frame['ms'])
        watch = Stopwatch()
        if self._instruments is not None:
            path = frame_path(self._instruments, index)
            write_instruments(path, result.segmentation, result.instruments)
        if item.failure:
            self._accumulator.record_failure(*item.failure)
        for warning in item.warnings:
            self._accumulator.record_failure(warning.code.value, warning.text)
        self._accumulator.record_mask(index, result.mask, found.pixels, found.confidence)
        watch.lap('score')
        frame['instruments'] = [instrument.label for instrument in result.instruments]
        frame['tracks'] = [instrument.track_id for instrument in result.instruments]
        for name in MEASURES:
            values = found.geometries and [getattr(each, name) for each in found.geometries]
            frame[name] = None if values is None else list(values)
        frame['warnings'] = [warning.text for warning in result.warnings]
        frame['reason'] = result.reason or None
        frame['ms']['score'] = watch.times_ms()['score'] + item.ms.get('score', 0.0)

    def finish(self) -> None:
        """Wait until all messages are written."""
        self._written.result()

    def _write(self, item: CompletedFrame, writer: BagWriter, ms: dict[str, float]) -> None:
        watch = Stopwatch()
        time_ns, header, found = item.received_ns, item.header, item.result.segmentation
        if not self._announced:
            labels = replace(label_info_to_msg(time_ns), header=header)
            writer.write(LABEL_INFO_TOPIC, LABEL_INFO, labels, time_ns)
            self._announced = True
        writer.write(MASK_TOPIC, IMAGE, image_to_msg(found.mask, header), time_ns)
        detections = detections_to_cdr(header, item.result.instruments)
        writer.write(DETECTIONS_TOPIC, DETECTIONS, detections, time_ns)
        points = keypoints_to_cdr(
            header, item.result.instruments, item.found.geometries, found.mask.shape
        )
        writer.write(KEYPOINTS_TOPIC, DETECTIONS, points, time_ns)
        if self._confidence and found.confidence is not None:
            message = image_to_msg(found.confidence, header)
            writer.write(CONFIDENCE_TOPIC, IMAGE, message, time_ns)
        watch.lap('write')
        ms |= watch.times_ms()


def _outcome(result: FrameResult) -> str:
    if result.is_decided:
        return 'mask'
    return 'failed' if result.failed else 'undecided'
