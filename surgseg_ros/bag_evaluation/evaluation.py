# SPDX-License-Identifier: Apache-2.0
"""Evaluates a bag: runs each image through a model, once and in order, or uses recorded masks."""

import functools
import multiprocessing
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from surgseg_ros.bag_evaluation.accumulator import FrameAccumulator, count_values
from surgseg_ros.bag_evaluation.bag_scan import (
    Matching,
    TopicMessages,
    check_topics,
    error_text,
    identify,
    match,
    scan_bag,
    write_recorded,
)
from surgseg_ros.bag_evaluation.collector import Collection, Scanned, collect
from surgseg_ros.bag_evaluation.frames import (
    Decided,
    NonImage,
    Options,
    Rejected,
    decided,
    decoded,
)
from surgseg_ros.bag_evaluation.results import (
    IMAGE_TO_MASK,
    BagResult,
    ground_truth_numbers,
    make_result,
    scores_of_masks,
)
from surgseg_ros.bag_evaluation.stages import consumed, produced
from surgseg_ros.bags.reading import Bag, BagError
from surgseg_ros.core.pipeline import CameraPipeline
from surgseg_ros.core.processes import QUEUE_DEPTH
from surgseg_ros.core.segmentation import ROI_AUTO
from surgseg_ros.core.segmenter import Segmenter
from surgseg_ros.messages.encodings import ImageError
from surgseg_ros.messages.images import mask_from_msg, read_image, read_size

BLOCKS: Final = 4 * QUEUE_DEPTH
"""Images that were read: some wait, and the network and the pipeline use a few."""

_DECODERS: Final = 3
"""Threads that decode images, in the process that reads them."""

_MAX_WORKERS: Final = 12
"""Maximum number of processes that find instruments; each takes about 150 MB of memory."""

_OTHERS: Final = 4
"""Cores for the rest beside a GPU: reading, starting the network, writing."""


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
    scanned = _scan(path, options)
    workers = _workers(segmenter.runtime.device)
    collection = Collection(path, output, options, instruments, scanned, workers, started_s)
    read = functools.partial(decoded, path, options, scanned.image_of_truth)
    with ExitStack() as stack:
        bar = stack.enter_context(_bar(path.name, scanned.images, progress))
        reading = produced(functools.partial(read, _DECODERS), BLOCKS) if workers else read()
        items = stack.enter_context(closing(reading))
        # The network stays in the thread that warmed it up: torch keeps a thread pool for each
        # thread, and with more threads than cores, all of them get slow.
        pipeline = CameraPipeline(options.pipeline, options.roi)
        decisions = _shown(decided(items, segmenter, pipeline, options.confidence), bar)
        if not workers:
            return collect(collection, decisions)
        return consumed(functools.partial(collect, collection), decisions, collection.blocks)


def _scan(path: Path, options: Options) -> Scanned:
    """Check that the topics exist, and match truths with images."""
    with Bag(path) as bag:
        check_topics(bag, options.topics)
        _check_roi(bag, options)
        identity, images = identify(bag), bag.topics[options.image_topic].message_count
        if not options.ground_truth_topic:
            return Scanned(identity, images, None, Matching({}, 0, 0))
        seen = scan_bag(bag, options.topics)
    truths = seen[options.ground_truth_topic].stamps
    matching = match(seen[options.image_topic].stamps, truths, options.tolerance_ns)
    return Scanned(identity, images, len(truths), matching)


def _check_roi(bag: Bag, options: Options) -> None:
    """
    Refuse a roi that is in no image, before the network runs.

    This reads up to the first image that contains it, so all of the bag if none does.
    """
    if options.roi is None or options.pipeline.roi_mode == ROI_AUTO:
        return
    type_name, refusal = bag.topics[options.image_topic].type_name, ''
    with suppress(BagError):
        for _, _, cdr in bag.messages([options.image_topic]):
            size = read_size(cdr, type_name)
            try:
                if size is not None:
                    options.roi.check(*size)
                    return
            except ValueError as error:
                refusal = refusal or str(error)
    if refusal:
        raise BagError(f'topic {options.image_topic!r} has no image that contains roi: {refusal}')


def _workers(device: torch.device) -> int:
    """
    Choose the number of processes that find instruments and score; 0 if there are few cores.

    If there are any, reading and collecting the results run in processes of their own, too.

    Where several bags are evaluated at the same time, each has a process of its own already.
    """
    if multiprocessing.parent_process() is not None:
        return 0
    cores = torch.get_num_threads()
    free = max(cores // 2, cores - _OTHERS) if device.type == 'cuda' else cores // 4
    return min(_MAX_WORKERS, free)


def _shown(items: Iterable[Decided | NonImage], bar: Any) -> Iterator[Decided | NonImage]:
    """Count images on the progress bar."""
    for item in items:
        yield item
        bar.update(isinstance(item, Decided | Rejected))


def _bar(name: str, images: int, progress: bool) -> Any:
    return tqdm(total=images, desc=name, unit='frame', leave=False, disable=not progress)


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


def _begin(
    images: TopicMessages, masks: TopicMessages, matching: Matching, awaited: set[int]
) -> FrameAccumulator:
    """Record every image, and the latency of its mask."""
    accumulator = FrameAccumulator(awaited)
    for index, (stamp, received_ns) in enumerate(zip(images.stamps, images.received_ns)):
        if index in matching.of_image:
            late_ns = masks.received_ns[matching.of_image[index]] - received_ns
            accumulator.add_frame(stamp, received_ns, 'mask', {IMAGE_TO_MASK: late_ns / 1e6})
        else:
            accumulator.record_no_mask(accumulator.add_frame(stamp, received_ns, 'dropped', {}))
    return accumulator


def _inverted(matching: Matching) -> dict[int, int]:
    return {other: image for image, other in matching.of_image.items()}


def _read(path: Path, options: Options, accumulator: FrameAccumulator, indices: _Indices) -> None:
    """Read masks and truths, but not the images."""
    index_of = {
        options.mask_topic: indices.of_mask,
        options.ground_truth_topic: indices.of_truth,
    }
    topics = [name for name in index_of if name is not None]
    counts = dict.fromkeys(topics, 0)
    with Bag(path) as bag:
        try:
            for topic, _, cdr in bag.messages(topics):
                index = index_of[topic].get(counts[topic])
                counts[topic] += 1
                if index is not None:
                    is_prediction = topic == options.mask_topic
                    size = indices.sizes[index] if is_prediction else None
                    mask = _mask(cdr, bag.topics[topic].type_name, size)
                    _take(accumulator, index, mask, is_prediction)
        except BagError as error:
            accumulator.damage = error_text(error, path)


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


def _take(accumulator: FrameAccumulator, index: int, mask: Any, is_prediction: bool) -> None:
    frame = accumulator.over_time[index]
    if isinstance(mask, ImageError):
        if not is_prediction:
            accumulator.record_unusable(index, f'the truth of frame {index} (from 0): {mask}')
            return
        frame['fate'] = 'rejected'
        accumulator.record_failure(
            mask.cause, f'the mask of frame {index} (from 0) cannot be used: {mask}'
        )
        accumulator.record_no_mask(index)
    elif is_prediction:
        accumulator.record_mask(index, mask, count_values(mask))
        if frame['no_decision'] == 1.0:
            frame['fate'] = 'failed'
    else:
        accumulator.record_truth(index, mask)
