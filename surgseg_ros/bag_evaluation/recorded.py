# SPDX-License-Identifier: Apache-2.0
"""Scores what a node published: a bag with images, their truths, and the node's masks."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.bag_evaluation.accumulator import FrameAccumulator, count_values
from surgseg_ros.bag_evaluation.bag_scan import (
    Matching,
    Seen,
    check_topics,
    identify,
    match,
    reported,
    scan_bag,
)
from surgseg_ros.bag_evaluation.frames import Options
from surgseg_ros.bag_evaluation.results import (
    IMAGE_TO_MASK,
    BagResult,
    ground_truth_numbers,
    make_result,
    scores_of_masks,
)
from surgseg_ros.bags.reading import Bag, BagError
from surgseg_ros.messages.images import mask_from_msg, read_image
from surgseg_ros.messages.types import ImageError


class _Places(NamedTuple):
    """Mapping from the index of a message on its topic to that of its image; and image sizes."""

    of_mask: Mapping[int, int]
    of_truth: Mapping[int, int]
    sizes: Sequence[tuple[int, int] | None]


def score_recorded(path: Path, options: Options) -> BagResult:
    """
    Score the masks of a bag.

    :param path: the bag.
    :param options: of the evaluation, with `mask_topic`.
    :return: the result.
    :raises BagError: if the bag or a topic cannot be read at all, or no image has a mask.
    """
    started_s = time.monotonic()
    with Bag(path) as bag:
        check_topics(bag, options.topics)
        identity = identify(bag)
        seen = scan_bag(bag, options.topics, options.image_topic)
    images, masks = seen[options.image_topic], seen[str(options.mask_topic)]
    truths = seen[options.ground_truth_topic] if options.ground_truth_topic else None
    of_masks = match(images.stamps, masks.stamps)
    of_truths = Matching({}, 0, 0)
    if truths is not None:
        of_truths = match(images.stamps, truths.stamps, options.tolerance_ns)
    accumulator = _begin(images, masks, of_masks, set(of_truths.of_image))
    _read(path, options, accumulator, _Places(_turned(of_masks), _turned(of_truths), images.sizes))
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


def _turned(matching: Matching) -> dict[int, int]:
    return {other: image for image, other in matching.of_image.items()}


def _read(path: Path, options: Options, accumulator: FrameAccumulator, places: _Places) -> None:
    """Read masks and truths; the images themselves are not read."""
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
