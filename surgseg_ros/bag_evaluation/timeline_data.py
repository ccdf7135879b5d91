# SPDX-License-Identifier: Apache-2.0
"""The frames of a bag over time, as arrays for its report; selection of the worst frames."""

import math
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.bags.reading import Bag, BagError
from surgseg_ros.evaluation.metrics import SCORED
from surgseg_ros.messages.encodings import ImageError
from surgseg_ros.messages.images import mask_from_msg, rgb_from_msg
from surgseg_ros.messages.serialization import from_cdr, stamp_ns

Array = NDArray[np.float64]

_WIDE_GAP: Final = 0.5
"""If a gap in time is at least this share of the whole, frame numbers are used instead."""

_SCORED_COUNT: Final = len(SCORED)

_MAX_TRACKS: Final = 16
"""Maximum number of tracks that are plotted; masks of a poor model have hundreds."""


class Track(NamedTuple):
    """
    An instrument over time.

    :param number: id in `detections`.
    :param label: its class.
    :param seen: (N,) 1 in frames that show the instrument, 0 in others.
    """

    number: int
    label: int
    seen: Array


class Series(NamedTuple):
    """
    A bag's frames in order; unknown values are NaN.

    :param at: (N,) seconds since the first image, or the number of the frame.
    :param is_time: whether `at` is seconds.
    :param iou: (N,) official, mean over the classes.
    :param nsd: (N,) likewise.
    :param floor: (N,) score of a prediction of background only.
    :param confidence: (N,) mean over the network's grid.
    :param no_decision: (N,) share of the pixels.
    :param instruments: (N,) number of instruments found.
    :param truth: (N, 9) 1 where the truth shows the class.
    :param predicted: (N, 9) likewise for the mask.
    :param lost: (N,) 1 where the frame was failed, rejected or dropped.
    :param tracks: the instruments that are visible in most frames, in the order of appearance.
    """

    at: Array
    is_time: bool
    iou: Array
    nsd: Array
    floor: Array
    confidence: Array
    no_decision: Array
    instruments: Array
    truth: Array
    predicted: Array
    lost: Array
    tracks: Sequence[Track] = ()


def read_series(over_time: Sequence[Mapping[str, Any]]) -> Series:
    """
    Convert the frames in the output of `evaluate_bag` to arrays.

    :param over_time: `over_time` of a bag, see `results`.
    :return: the arrays.
    """
    at, is_time = _indices(over_time)
    truth = _each(over_time, lambda frame: _shown(frame['truth']), _SCORED_COUNT)
    return Series(
        at,
        is_time,
        _each(over_time, lambda frame: _mean(frame['iou'])),
        _each(over_time, lambda frame: _mean(frame['nsd'])),
        1 - truth.mean(1),
        _each(over_time, lambda frame: frame['confidence']),
        _each(over_time, lambda frame: frame['no_decision']),
        _each(over_time, lambda frame: _found(frame['instruments'])),
        truth,
        _each(over_time, lambda frame: _shown(frame['predicted']), _SCORED_COUNT),
        _each(over_time, lambda frame: float(frame['fate'] != 'mask')),
        _tracks(over_time),
    )


def _tracks(over_time: Sequence[Mapping[str, Any]]) -> list[Track]:
    """Return the longest tracks; results of an earlier version have none."""
    labels: dict[int, int] = {}
    seen: dict[int, list[int]] = {}
    for index, frame in enumerate(over_time):
        for number, label in zip(frame.get('tracks') or (), frame['instruments'] or ()):
            if number:
                labels[number] = label
                seen.setdefault(number, []).append(index)
    longest = sorted(seen, key=lambda number: (-len(seen[number]), number))[:_MAX_TRACKS]
    tracks = []
    for number in sorted(longest):
        shown = np.zeros(len(over_time))
        shown[seen[number]] = 1
        tracks.append(Track(number, labels[number], shown))
    return tracks


def _each(
    frames: Sequence[Mapping[str, Any]],
    value: Callable[[Mapping[str, Any]], float | Sequence[float] | None],
    columns: int = 0,
) -> Array:
    unknown = [np.nan] * columns if columns else np.nan
    values = [unknown if (known := value(frame)) is None else known for frame in frames]
    return np.array(values, float).reshape((-1, columns) if columns else -1)


def _mean(values: Sequence[float] | None) -> float | None:
    return None if values is None else sum(values) / len(values)


def _shown(labels: Sequence[int] | None) -> list[float] | None:
    return None if labels is None else [float(label in labels) for label in SCORED]


def _found(labels: Sequence[int] | None) -> float | None:
    """Count the instruments; 255 means no decision."""
    return None if labels is None else float(sum(label < 255 for label in labels))


def _indices(frames: Sequence[Mapping[str, Any]]) -> tuple[Array, bool]:
    """Return seconds, or frame numbers if the stamps do not measure time."""
    stamps = [frame['stamp_ns'] for frame in frames]
    numbers = np.arange(len(frames), dtype=float)
    known = [stamp for stamp in stamps if stamp is not None]
    if len(known) < 2 or 0 in known:
        return numbers, False
    seconds = np.array([(stamp - known[0]) / 1e9 for stamp in known])
    steps, span = np.diff(seconds), seconds[-1] - seconds[0]
    if (steps < 0).any() or span <= 0 or (len(steps) > 2 and steps.max() > _WIDE_GAP * span):
        return numbers, False
    is_known = np.array([stamp is not None for stamp in stamps])
    return np.interp(numbers, numbers[is_known], seconds), True


MASK_TOPIC: Final = '/mask'
"""Topic of the masks in the bag that `evaluate_bag` writes."""

_APART: Final = 0.03
"""Minimum distance between two selected frames of a bag, as a share of its frames."""

BagImage = NDArray[np.uint8]


class FrameImages(NamedTuple):
    """
    The images of a frame; None if it is missing.

    :param image: (H, W, 3) uint8 RGB.
    :param truth: (H, W) uint8.
    :param predicted: (H, W) uint8.
    """

    image: BagImage | None
    truth: BagImage | None
    predicted: BagImage | None


def worst_of(bags: Mapping[str, Series], number: int) -> list[tuple[str, int]]:
    """
    Select frames: the worst frame of each bag, then the second worst of each, and so on.

    A difficult scene lasts for many frames, so the selected frames of a bag are kept apart.

    :param bags: maps the name of a bag to its frames.
    :param number: maximum number of frames.
    :return: bag and index of each frame, the worst first. The worst frame has the lowest official
        IoU of all frames with a mask; in a bag without truth, the lowest confidence; without both,
        the largest share without a decision.
    """
    ranked: list[tuple[int, float, str, int]] = []
    for name, series in sorted(bags.items()):
        values = _ratings(series)
        ranked += [
            (rank, float(values[index]), name, index)
            for rank, index in enumerate(_select_apart(values, number))
        ]
    chosen = sorted(ranked)[:number]
    return [(name, index) for _, _, name, index in sorted(chosen, key=lambda item: item[1:])]


def _ratings(series: Series) -> NDArray[np.float64]:
    """Return a rating of the frames; NaN for those without any value."""
    if not np.isnan(series.iou).all():
        return np.where(np.isnan(series.predicted[:, 0]), np.nan, series.iou)
    return np.where(np.isnan(series.confidence), 1 - series.no_decision, series.confidence)


def _select_apart(values: NDArray[np.float64], number: int) -> list[int]:
    """Select the lowest value, then the lowest that is not near it, and so on."""
    left = np.where(np.isnan(values), np.inf, values)
    near = math.ceil(len(values) * _APART)
    taken: list[int] = []
    while len(taken) < number and np.isfinite(left).any():
        index = int(np.argmin(left))
        taken.append(index)
        left[max(0, index - near) : index + near + 1] = np.inf
    return taken


def read_frame_images(
    indices: Collection[int],
    over_time: Sequence[Mapping[str, Any]],
    bag: Path,
    masks: Path | None,
    options: Mapping[str, Any],
) -> tuple[dict[int, FrameImages], str]:
    """
    Read the images of some frames.

    :param indices: indices of the frames.
    :param over_time: all frames of the bag, as in the result.
    :param bag: the bag with images and truths, and with masks if the options have a `mask_topic`.
    :param masks: the bag that `evaluate_bag` wrote; None if there is none.
    :param options: options of the result: topics and tolerance.
    :return: images by index; and a text about images that could not be read, or an empty one.
    """
    problems: list[str] = []
    images = dict(_nth(bag, options['image_topic'], indices, problems))
    with_truth = _frames_with(indices, over_time, 'truth')
    tolerance_ns = options['tolerance_ms'] * 1e6
    truths = _nearest(bag, options['ground_truth_topic'], with_truth, tolerance_ns, problems)
    with_mask = _frames_with(indices, over_time, 'predicted')
    if topic := options['mask_topic']:
        masked = _nearest(bag, topic, with_mask, 0, problems)
    elif masks is not None:
        # Stamps may be equal, but each of these frames has a mask in the same order.
        has_mask = [at for at, frame in enumerate(over_time) if frame['predicted'] is not None]
        order = {bisect_left(has_mask, index): index for index in with_mask}
        masked = {order[nth]: mask for nth, mask in _nth(masks, MASK_TOPIC, order, problems)}
    else:
        with_mask, masked = {}, {}
    expected = len(indices) + len(with_truth) + len(with_mask)
    if lacking := expected - len(images) - len(truths) - len(masked):
        problems.append(f'{lacking} messages of {str(bag)!r} were not found again')
    worst_frames = {}
    for index in indices:
        planes = [_plane(found.get(index), problems) for found in (truths, masked)]
        worst_frames[index] = FrameImages(_image(images.get(index), problems), *planes)
    return worst_frames, '; '.join(dict.fromkeys(problems))


def _frames_with(
    indices: Collection[int], over_time: Sequence[Mapping[str, Any]], key: str
) -> dict[int, int]:
    """Return the frames that have a value of `key`, as index to stamp."""
    return {
        index: over_time[index]['stamp_ns']
        for index in indices
        if over_time[index][key] is not None
    }


def _messages(path: Path, topic: str, problems: list[str]) -> Iterator[Any]:
    """Iterate over the readable messages of a topic."""
    try:
        with Bag(path) as bag:
            type_name = bag.topics[topic].type_name if topic in bag.topics else ''
            for _, _, cdr in bag.messages([topic]):
                try:
                    yield from_cdr(cdr, type_name)
                except Exception:  # the parser raises many kinds; the frame was rejected
                    yield None
    except BagError as error:
        problems.append(str(error))


def _nth(
    path: Path, topic: str, wanted: Collection[int], problems: list[str]
) -> Iterator[tuple[int, Any]]:
    """Find messages by their number, and stop reading after the last."""
    last = max(wanted, default=-1)
    if last < 0:
        return
    for number, message in enumerate(_messages(path, topic, problems)):
        if number in wanted:
            yield number, message
        if number == last:
            return


def _nearest(
    path: Path,
    topic: str,
    stamp_of: Mapping[int, int],
    tolerance_ns: float,
    problems: list[str],
) -> dict[int, Any]:
    """Find the message with the stamp of each frame, or the nearest within the tolerance."""
    if not stamp_of:
        return {}
    indices, stamps = list(stamp_of), np.array(list(stamp_of.values()), np.int64)
    found: dict[int, tuple[float, Any]] = {}
    for message in _messages(path, topic, problems):
        if message is None:
            continue
        distances = np.abs(stamps - stamp_ns(message.header))
        nearest = int(np.argmin(distances))
        index, distance = indices[nearest], float(distances[nearest])
        if distance <= tolerance_ns and distance < found.get(index, (np.inf,))[0]:
            found[index] = distance, message
        if len(found) == len(indices) and not any(far for far, _ in found.values()):
            break
    return {index: message for index, (_, message) in found.items()}


def _image(
    message: Any, problems: list[str], read: Callable[[Any], BagImage] = rgb_from_msg
) -> BagImage | None:
    try:
        return None if message is None else read(message)
    except ImageError as error:
        problems.append(str(error))
        return None


def _plane(message: Any, problems: list[str]) -> BagImage | None:
    return _image(message, problems, mask_from_msg)
