# SPDX-License-Identifier: Apache-2.0
"""The output of the demo: a table, images and a short video."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from surgseg_ros.bags.reading import Bag
from surgseg_ros.bags.writing import BagWriter
from surgseg_ros.core.detections import Instrument, OrientedBox
from surgseg_ros.core.overlay import draw_overlay
from surgseg_ros.evaluation.metrics import FrameCounts, count_frame, summarize
from surgseg_ros.messages.images import rgb_from_msg
from surgseg_ros.messages.serialization import DETECTIONS, IMAGE, from_cdr, stamp_ns
from tools.demo.session import Recorded
from tools.demo.source import GROUND_TRUTH_TOPIC, IMAGE_TOPIC, Source

TYPES_OF = {'mask': IMAGE, 'detections': DETECTIONS}
IMAGE_COUNT = 4
PANEL_HEIGHT_PX = 360

RgbArray = NDArray[np.uint8]


class Outcome(NamedTuple):
    """
    The results of the demo.

    :param masks: number of frames with a mask of the same stamp and size.
    :param unmatched: number of masks that match no frame, or are duplicates.
    :param detections: number of frames with detections.
    :param latencies_ms: latencies from sending a frame in the player to receiving its mask.
    :param scores: from `summarize`, if there is a ground truth.
    """

    masks: int
    unmatched: int
    detections: int
    latencies_ms: Sequence[float]
    scores: Mapping[str, Any] | None


def write_bag(path: Path, recorded: Sequence[Recorded]) -> None:
    """
    Write the messages that the node published.

    :param path: path of the bag.
    :param recorded: the recorded messages.
    """
    with BagWriter(path) as bag:
        for message in recorded:
            if message.topic in TYPES_OF:
                type_name = TYPES_OF[message.topic]
                bag.write(f'/{message.topic}', type_name, message.cdr, message.received_ns)


def report(source: Source, recorded: Sequence[Recorded], folder: Path) -> Outcome:
    """
    Compare the results with the frames, and draw them.

    :param source: the source that was played.
    :param recorded: the recorded messages.
    :param folder: folder for `overlay.mp4` and `frame_*.png`.
    :return: the results.
    """
    masks = _by_stamp(recorded, 'mask')
    found = _by_stamp(recorded, 'detections')
    counts: list[FrameCounts] = []
    fitting = 0
    shown = set(np.linspace(0, source.frames - 1, IMAGE_COUNT, dtype=int).tolist())
    video: cv2.VideoWriter | None = None
    for index, (stamp, image, truth) in enumerate(_frames(source.bag)):
        mask = _plane(masks[stamp][1]) if stamp in masks else None
        if mask is not None and mask.shape != image.shape[:2]:
            mask = None
        fitting += mask is not None
        instruments = (
            [_instrument(d) for d in found[stamp][1].detections] if stamp in found else []
        )
        overlay = image if mask is None else draw_overlay(image, mask, instruments)
        if video is None:
            video = _video(folder / 'overlay.mp4', source.rate_hz, image)
        frame = _titled(image, 'no mask') if mask is None else overlay
        video.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        if truth is not None:
            counts.append(count_frame(truth, mask, edges=False))
        if index in shown:
            _write_image(folder / f'frame_{index:06d}.png', image, truth, mask, overlay)
    if video is not None:
        video.release()
    scores = summarize({'demo': counts}) if counts else None
    unmatched = sum(message.topic == 'mask' for message in recorded) - fitting
    return Outcome(fitting, unmatched, len(found), _latencies_ms(masks, recorded), scores)


def _latencies_ms(
    masks: Mapping[int, tuple[Recorded, Any]], recorded: Sequence[Recorded]
) -> list[float]:
    sent_ns = {_image_stamp_ns(m.cdr): m.sent_ns for m in recorded if m.topic == IMAGE_TOPIC}
    return [
        (message.received_ns - sent_ns[stamp]) / 1e6
        for stamp, (message, _) in masks.items()
        if stamp in sent_ns
    ]


def table(
    source: Source, outcome: Outcome, node_hz: float, rate: float, dropped: int, status: str
) -> str:
    """
    Format the results as a table.

    :param source: the source that was played.
    :param outcome: the results.
    :param node_hz: masks per second that were measured in the trial.
    :param rate: factor of the recorded speed at which the bag was played.
    :param dropped: frames that the node dropped for a newer one.
    :param status: the final status of the node, and its reasons.
    :return: the table.
    """
    times = outcome.latencies_ms or [float('nan')]
    missing = source.frames - outcome.masks
    rows = [
        ('played', f'{source.note}, recorded at {source.rate_hz:g} Hz'),
        ('largest rate of the node', f'{node_hz:.1f} Hz, measured in a trial'),
        ('playback rate', f'{rate * source.rate_hz:.1f} Hz ({rate:.2f} of its speed)'),
        ('frames', str(source.frames)),
        ('masks that match a frame', str(outcome.masks)),
        ('other masks, or duplicates', str(outcome.unmatched)),
        ('frames without a mask', f'{missing} ({dropped} dropped by the node for a newer one)'),
        ('latency p50 / p99', f'{np.median(times):.0f} / {np.percentile(times, 99):.0f} ms'),
        ('final status of the node', status),
    ]
    if outcome.scores is not None:
        rows += [
            ('mIoU, official', f'{outcome.scores["mIoU"]:.3f}'),
            ('  of a background-only mask', f'{outcome.scores["floor"]["mIoU"]:.3f}'),
        ]
    else:
        rows.append(('mIoU', 'no ground truth for this video: look at the overlay'))
    width = max(len(name) for name, _ in rows)
    return '\n'.join(f'  {name:<{width}}  {value}' for name, value in rows)


def _by_stamp(recorded: Sequence[Recorded], topic: str) -> dict[int, tuple[Recorded, Any]]:
    read = ((m, from_cdr(m.cdr, TYPES_OF[topic])) for m in recorded if m.topic == topic)
    return {stamp_ns(message.header): (m, message) for m, message in read}


def _image_stamp_ns(beginning: bytes) -> int:
    """Read the stamp of a serialized image: after 4 bytes, seconds and nanoseconds."""
    order = 'little' if beginning[1] & 1 else 'big'
    seconds, nanoseconds = (int.from_bytes(beginning[at : at + 4], order) for at in (4, 8))
    return seconds * 10**9 + nanoseconds


def _frames(bag_path: Path) -> Any:
    """Yield stamp, image and truth (or None) of each frame; a truth follows its image."""
    with Bag(bag_path) as bag:
        topics = [t for t in (IMAGE_TOPIC, GROUND_TRUTH_TOPIC) if t in bag.topics]
        pending = None
        for topic, _, message in bag.read(topics):
            if topic == GROUND_TRUTH_TOPIC:
                yield *pending, _plane(message)
                pending = None
                continue
            if pending is not None:
                yield *pending, None
            pending = stamp_ns(message.header), rgb_from_msg(message)
        if pending is not None:
            yield *pending, None


def _plane(message: Any) -> RgbArray:
    return np.asarray(message.data, np.uint8).reshape(message.height, message.width)


def _instrument(detection: Any) -> Instrument:
    hypothesis, box = detection.results[0].hypothesis, detection.bbox
    center = box.center
    oriented = OrientedBox(
        center.position.x, center.position.y, box.size_x, box.size_y, center.theta
    )
    return Instrument(int(hypothesis.class_id), hypothesis.score, oriented, 0)


def _video(path: Path, rate_hz: float, image: RgbArray) -> cv2.VideoWriter:
    size = image.shape[1], image.shape[0]
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'mp4v'), rate_hz, size)
    if not video.isOpened():
        raise RuntimeError(f'{path}: OpenCV cannot write this video')
    return video


def _write_image(
    path: Path, image: RgbArray, truth: RgbArray | None, mask: RgbArray | None, overlay: RgbArray
) -> None:
    """Write those of input, truth and prediction that exist, side by side."""
    panels = [('input', image)]
    if truth is not None:
        panels.append(('truth', draw_overlay(image, truth)))
    panels.append(('prediction' if mask is not None else 'no mask', overlay))
    scale = PANEL_HEIGHT_PX / image.shape[0]
    size = round(image.shape[1] * scale), PANEL_HEIGHT_PX
    drawn = []
    for title, whole in panels:
        drawn.append(_titled(cv2.resize(whole, size, interpolation=cv2.INTER_AREA), title))
    if not cv2.imwrite(str(path), cv2.cvtColor(np.hstack(drawn), cv2.COLOR_RGB2BGR)):
        raise RuntimeError(f'{path}: cannot be written')


def _titled(image: RgbArray, title: str) -> RgbArray:
    """Return a copy of an image with a title, of the same size relative to any image."""
    titled, scale = image.copy(), image.shape[0] / PANEL_HEIGHT_PX
    origin = round(10 * scale), round(26 * scale)
    for colour, thickness in (((0, 0, 0), 4), ((255, 255, 255), 1)):
        cv2.putText(
            titled, title, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.8 * scale, colour,
            max(1, round(thickness * scale)), cv2.LINE_AA,
        )  # fmt: skip
    return titled
