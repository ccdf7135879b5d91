# SPDX-License-Identifier: Apache-2.0
"""Evaluates a bag: runs each image through a model, once and in order, or uses recorded masks."""

import multiprocessing
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from surgseg_ros.bag_evaluation.accumulator import FrameAccumulator, count_values
from surgseg_ros.bag_evaluation.bag_scan import (
    Matching,
    Seen,
    check_topics,
    frame_path,
    identify,
    match,
    reported,
    scan_bag,
    write_recorded,
)
from surgseg_ros.bag_evaluation.frames import (
    Answer,
    NonImage,
    Options,
    Rejected,
    Truncated,
    Truth,
    begin_answer,
    decided,
    decoded,
    tracked,
)
from surgseg_ros.bag_evaluation.results import (
    IMAGE_TO_MASK,
    BagResult,
    ground_truth_numbers,
    make_result,
    scores_of_masks,
)
from surgseg_ros.bag_evaluation.worker_pool import WorkerPool
from surgseg_ros.bags.reading import Bag, BagError
from surgseg_ros.bags.writing import BagWriter
from surgseg_ros.core.pipeline import CameraPipeline
from surgseg_ros.core.processes import QUEUE_DEPTH, follow, prefetch
from surgseg_ros.core.results import FrameResult
from surgseg_ros.core.segmenter import Segmenter
from surgseg_ros.core.timing import Stopwatch
from surgseg_ros.evaluation.instrument_folders import write_instruments
from surgseg_ros.messages.encodings import ImageError
from surgseg_ros.messages.images import image_to_msg, mask_from_msg, read_image
from surgseg_ros.messages.serialization import (
    DETECTIONS,
    IMAGE,
    LABEL_INFO,
    detections_to_msg,
    keypoints_to_msg,
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

_MAX_WORKERS: Final = 8
"""Maximum number of processes that find instruments; each takes about 150 MB of memory."""


def evaluate(
    path: Path,
    output: Path | None,
    segmenter: Segmenter,
    options: Options,
    instruments: Path | None = None,
    *,
    progress: bool = False,
) -> BagResult:
    """
    Evaluate a bag.

    :param path: the bag.
    :param output: the output bag; None to write none.
    :param segmenter: the model; this thread must have warmed it up, and will also run it.
    :param options: the options of the evaluation.
    :param instruments: folder for the instruments of each image, see `folder_of`; None for none.
    :param progress: whether to show a progress bar.
    :return: the result.
    :raises BagError: if bag, topic or output cannot be used, or no image yields a mask.
    """
    started_s = time.monotonic()
    bag = _scan(path, options)
    with ExitStack() as stack:
        workers = stack.enter_context(WorkerPool(_workers(segmenter.runtime.device)))
        accumulator = FrameAccumulator(set(bag.matching.of_image), workers)
        writer = stack.enter_context(BagWriter(output, packed=True)) if output else None
        step = _Step(accumulator, writer, options, instruments)
        bar = stack.enter_context(_bar(path.name, bag.images, progress))
        items = stack.enter_context(closing(prefetch(decoded(path, options, bag.image_of_truth))))
        # The network stays in the thread that warmed it up: torch keeps a thread pool for each
        # thread, and with more threads than cores, all of them get slow.
        decisions = decided(items, segmenter, step.pipeline, options.confidence)
        answers = (begin_answer(item, workers) for item in decisions)
        follow(lambda found: bar.update(step(found())), answers, QUEUE_DEPTH + workers.count)
        counts = accumulator.finish()
        # Before the writer is closed, so that it leaves no bag if this raises.
        accumulator.check_any(path, options.image_topic, ('mask',))
    truth = bag.truth_numbers(accumulator)
    return make_result(accumulator, counts, truth, bag.identity, time.monotonic() - started_s)


class _Scanned(NamedTuple):
    """Stamps and matches of a bag, before images are read; `truths` is None without a topic."""

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


def _workers(device: torch.device) -> int:
    """
    Choose the number of processes that find instruments and score; 0 if there are few cores.

    Where several bags are evaluated at the same time, each has a process of its own already.
    """
    if multiprocessing.parent_process() is not None:
        return 0
    return min(_MAX_WORKERS, torch.get_num_threads() // (2 if device.type == 'cuda' else 4))


def _bar(name: str, images: int, progress: bool) -> Any:
    return tqdm(total=images, desc=name, unit='frame', leave=False, disable=not progress)


class _Step:
    """
    Tracks instruments, and passes each item to accumulator and writer.

    :param accumulator: collects outcomes and scores.
    :param writer: writes the messages; None to write none.
    :param options: options of the evaluation.
    :param instruments: folder for the instruments; None to write none.
    """

    def __init__(
        self,
        accumulator: FrameAccumulator,
        writer: BagWriter | None,
        options: Options,
        instruments: Path | None,
    ) -> None:
        self._instruments = instruments
        self._accumulator = accumulator
        self._writer = writer
        self._confidence = options.confidence
        self.pipeline = CameraPipeline(options.pipeline, options.roi)
        """The pipeline whose tracks are used."""
        self._announced = False

    def __call__(self, item: Answer | NonImage) -> int:
        """Process an item, and return the number of images that it represents."""
        if isinstance(item, Answer):
            self._take_answer(tracked(item, self.pipeline))
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
        if self._instruments is not None:
            path, found = frame_path(self._instruments, place), item.result
            write_instruments(path, found.segmentation, found.instruments)
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
        frame['tracks'] = [instrument.track_id for instrument in result.instruments]
        for name in MEASURES:
            values = item.geometries and [getattr(found, name) for found in item.geometries]
            frame[name] = None if values is None else list(values)
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
        points = keypoints_to_msg(
            header, item.result.instruments, item.geometries, found.mask.shape
        )
        writer.write(KEYPOINTS_TOPIC, DETECTIONS, points, time_ns)
        if self._confidence and found.confidence is not None:
            message = image_to_msg(found.confidence, header)
            writer.write(CONFIDENCE_TOPIC, IMAGE, message, time_ns)


def _outcome(result: FrameResult) -> str:
    if result.is_decided:
        return 'mask'
    return 'failed' if result.failed else 'undecided'


class _Indices(NamedTuple):
    """Maps the index of a message in its topic to that of its image; and image sizes."""

    of_mask: Mapping[int, int]
    of_truth: Mapping[int, int]
    sizes: Sequence[tuple[int, int] | None]


def score_recorded(path: Path, options: Options, instruments: Path | None = None) -> BagResult:
    """
    Score the masks of a bag.

    :param path: the bag.
    :param options: options of the evaluation, with `mask_topic`.
    :param instruments: folder for the instruments of the bag, see `folder_of`; None for none.
    :return: the result.
    :raises BagError: if the bag or a topic cannot be read at all, or no image has a mask.
    """
    started_s = time.monotonic()
    with Bag(path) as bag:
        check_topics(bag, options.topics)
        identity = identify(bag)
        seen = scan_bag(bag, options.topics, options.image_topic)
    images, masks = seen[options.image_topic], seen[str(options.mask_topic)]
    if instruments is not None:
        write_recorded(path, str(options.mask_topic), images.stamps, instruments)
    truths = seen[options.ground_truth_topic] if options.ground_truth_topic else None
    of_masks = match(images.stamps, masks.stamps)
    of_truths = Matching({}, 0, 0)
    if truths is not None:
        of_truths = match(images.stamps, truths.stamps, options.tolerance_ns)
    accumulator = _begin(images, masks, of_masks, set(of_truths.of_image))
    _read(
        path,
        options,
        accumulator,
        _Indices(_inverted(of_masks), _inverted(of_truths), images.sizes),
    )
    counts = accumulator.finish()
    accumulator.check_any(path, options.image_topic, ('mask', 'failed'))
    truth = truths and ground_truth_numbers(len(truths.stamps), of_truths, accumulator)
    result = make_result(accumulator, counts, truth, identity, time.monotonic() - started_s)
    result.numbers['strangers'] = of_masks.unmatched + of_masks.ambiguous
    result.numbers.update(scores_of_masks({'': counts}))
    return result


def _begin(images: Seen, masks: Seen, matching: Matching, awaited: set[int]) -> FrameAccumulator:
    """Record every image, and the latency of its mask."""
    accumulator = FrameAccumulator(awaited)
    for place, (stamp, received_ns) in enumerate(zip(images.stamps, images.received_ns)):
        if place in matching.of_image:
            late_ns = masks.received_ns[matching.of_image[place]] - received_ns
            accumulator.add_frame(stamp, received_ns, 'mask', {IMAGE_TO_MASK: late_ns / 1e6})
        else:
            accumulator.record_no_mask(accumulator.add_frame(stamp, received_ns, 'dropped', {}))
    return accumulator


def _inverted(matching: Matching) -> dict[int, int]:
    return {other: image for image, other in matching.of_image.items()}


def _read(path: Path, options: Options, accumulator: FrameAccumulator, places: _Indices) -> None:
    """Read masks and truths, but not the images."""
    wanted = {options.mask_topic: places.of_mask, options.ground_truth_topic: places.of_truth}
    topics = [name for name in wanted if name is not None]
    counts = dict.fromkeys(topics, 0)
    with Bag(path) as bag:
        try:
            for topic, _, cdr in bag.messages(topics):
                place = wanted[topic].get(counts[topic])
                counts[topic] += 1
                if place is not None:
                    is_prediction = topic == options.mask_topic
                    size = places.sizes[place] if is_prediction else None
                    mask = _mask(cdr, bag.topics[topic].type_name, size)
                    _take(accumulator, place, mask, is_prediction)
        except BagError as error:
            accumulator.damage = reported(error, path)


def _mask(
    cdr: bytes, type_name: str, size: tuple[int, int] | None
) -> NDArray[np.uint8] | ImageError:
    """Read a mask, which must have its image's size, if that is known."""
    try:
        mask = mask_from_msg(read_image(cdr, type_name))
    except ImageError as error:
        return error
    if size is not None and mask.shape != size:
        sizes = [f'{width}x{height}' for height, width in (mask.shape, size)]
        return ImageError('it has {} pixels, its image has {}'.format(*sizes), 'size')
    return mask


def _take(accumulator: FrameAccumulator, place: int, mask: Any, is_prediction: bool) -> None:
    frame = accumulator.over_time[place]
    if isinstance(mask, ImageError):
        if not is_prediction:
            accumulator.record_unusable(place, f'the truth of frame {place} (from 0): {mask}')
            return
        frame['fate'] = 'rejected'
        accumulator.record_failure(
            mask.cause, f'the mask of frame {place} (from 0) cannot be used: {mask}'
        )
        accumulator.record_no_mask(place)
    elif is_prediction:
        accumulator.record_mask(place, mask, count_values(mask))
        if frame['no_decision'] == 1.0:
            frame['fate'] = 'failed'
    else:
        accumulator.record_truth(place, mask)
