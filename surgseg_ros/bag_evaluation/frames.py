# SPDX-License-Identifier: Apache-2.0
"""
Runs the frames of a bag through the pipeline; the options of an evaluation.

Imports no torch, because reading, and what follows the network, run in processes of their own.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.bag_evaluation.bag_scan import error_text
from surgseg_ros.bag_evaluation.findings import Findings, find, geometries_of, without_confidence
from surgseg_ros.bag_evaluation.worker_pool import WorkerPool
from surgseg_ros.bags.reading import Bag, BagError
from surgseg_ros.core.errors import describe
from surgseg_ros.core.parameters import AUTO, pipeline_settings
from surgseg_ros.core.pipeline import CameraPipeline, PipelineSettings
from surgseg_ros.core.processes import QUEUE_DEPTH, in_order, prefetch
from surgseg_ros.core.reasons import ResultWarning
from surgseg_ros.core.results import Decision, FrameResult, InputFrame
from surgseg_ros.core.segmentation import Roi
from surgseg_ros.core.timing import Stopwatch
from surgseg_ros.messages.encodings import ImageError, ImageWarning
from surgseg_ros.messages.images import image_from_msg, mask_from_msg, read_image, read_stamp
from surgseg_ros.messages.serialization import stamp_ns

if TYPE_CHECKING:
    from surgseg_ros.core.segmenter import Segmenter

_NODE_DEFAULTS: Final = pipeline_settings()
"""The defaults of the node."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """
    The options of an evaluation; picklable, since they are sent to every process.

    :param image_topic: topic of the images.
    :param ground_truth_topic: topic of their ground truth, if any.
    :param mask_topic: topic of recorded masks; None to run the model.
    :param tolerance_ns: largest difference between the stamps of an image and of its truth.
    :param model: the model folder; None for recorded masks.
    :param device: `auto`, `cpu`, `cuda`, `cuda:1` …
    :param runtime: a key of RUNTIMES, or AUTO, which is the node's default too.
    :param precision: one of PRECISIONS of core/parameters.py.
    :param threads: number of torch's threads on the CPU; 0 for its default.
    :param roi: the part of the images that is segmented; None for the whole images.
    :param pipeline: the processing of the network's output.
    :param confidence: whether to write the confidence into the output bag.
    :param instruments: folder that gets a folder of instruments for each bag; None for none.
    """

    image_topic: str
    ground_truth_topic: str | None = None
    mask_topic: str | None = None
    tolerance_ns: int = 0
    model: Path | None = None
    device: str = 'auto'
    runtime: str = AUTO
    precision: str = AUTO
    threads: int = 0
    roi: Roi | None = None
    pipeline: PipelineSettings = _NODE_DEFAULTS
    confidence: bool = False
    instruments: Path | None = None

    @property
    def topics(self) -> list[str]:
        """The topics to read."""
        names = self.image_topic, self.ground_truth_topic, self.mask_topic
        return [name for name in names if name is not None]

    def described(self) -> dict[str, Any]:
        """Return the options that determine the result, for a JSON file."""
        roi = self.roi
        return {
            'image_topic': self.image_topic,
            'ground_truth_topic': self.ground_truth_topic,
            'mask_topic': self.mask_topic,
            'tolerance_ms': self.tolerance_ns / 1e6,
            'device': self.device,
            'runtime': self.runtime,
            'precision': self.precision,
            'roi': roi and [roi.x_px, roi.y_px, roi.width_px, roi.height_px],
            'roi_mode': self.pipeline.roi_mode,
            'least_area': self.pipeline.least_area,
            'track_lost_ms': self.pipeline.track_lost_ms,
            'min_confidence': self.pipeline.min_confidence,
            'min_detection_score': self.pipeline.min_detection_score,
            'steady_frames': self.pipeline.steady_frames,
            'steady_sure': self.pipeline.steady_sure,
            'gates': {
                name: [setting.action, setting.limit]
                for name, setting in self.pipeline.gates.items()
            },
        }


Times = Mapping[str, float]


class BagImage(NamedTuple):
    """An image that was read."""

    received_ns: int
    header: Any
    image: NDArray[np.uint8]
    ms: Times
    warnings: tuple[ImageWarning, ...] = ()


class Rejected(NamedTuple):
    """A message of the image topic that cannot be converted to an image."""

    received_ns: int
    stamp_ns: int | None
    cause: str
    text: str
    ms: Times


class Truth(NamedTuple):
    """A ground-truth mask, with the index of its image; if unusable, None and the reason."""

    frame_index: int
    mask: NDArray[np.uint8] | None
    text: str = ''


class Truncated(NamedTuple):
    """Marks the point from which a damaged bag cannot be read."""

    text: str


class CompletedFrame(NamedTuple):
    """
    The result that the node would publish for an image.

    :param received_ns: when the image was received.
    :param header: header of the image.
    :param result: result of the pipeline.
    :param found: what was found in its mask.
    :param ms: milliseconds by stage.
    :param warnings: warnings from reading the image.
    """

    received_ns: int
    header: Any
    result: FrameResult
    found: Findings
    ms: Times
    warnings: tuple[ImageWarning, ...]

    @property
    def failure(self) -> tuple[str, str] | None:
        """Code and text of the reason why there is no decision; None if there is one."""
        if self.result.is_decided:
            return None
        return self.result.code, f'no decision on an image: {self.result.reason}'


NonImage = Rejected | Truth | Truncated
"""Items that the network does not process."""


def decoded(
    path: Path, options: Options, image_of_truth: Mapping[int, int], decoders: int = 0
) -> Generator[BagImage | NonImage, None, None]:
    """
    Read a bag, in a thread ahead of the use of its items.

    :param path: the bag.
    :param options: options with the topics.
    :param image_of_truth: maps the index of a truth to that of its image; other truths are
        skipped.
    :param decoders: number of further threads, which decode messages in parallel; JPEG and PNG
        files take longer to decode than to read.
    :return: the images in order, and the truths between them.
    """
    return prefetch(in_order(_read(path, options, image_of_truth), decoders))


def _read(
    path: Path, options: Options, image_of_truth: Mapping[int, int]
) -> Generator[Callable[[], BagImage | NonImage], None, None]:
    """Read the messages of a bag; yield functions that decode them."""
    topics = [name for name in (options.image_topic, options.ground_truth_topic) if name]
    truths = 0
    with Bag(path) as bag:
        types = {name: bag.topics[name].type_name for name in topics}
        watch = Stopwatch()
        try:
            for topic, received_ns, cdr in bag.messages(topics):
                watch.lap('read')
                if topic == options.image_topic:
                    read_ms = watch.times_ms()
                    yield functools.partial(_image, received_ns, cdr, types[topic], read_ms)
                else:
                    if truths in image_of_truth:
                        index = image_of_truth[truths]
                        yield functools.partial(_truth, index, cdr, types[topic])
                    truths += 1
                watch = Stopwatch()
        except BagError as error:
            text = error_text(error, path)
            yield lambda: Truncated(text)


def _image(received_ns: int, cdr: bytes, type_name: str, read_ms: Times) -> BagImage | Rejected:
    cause, watch = '', Stopwatch()
    try:
        message = read_image(cdr, type_name)
        image = image_from_msg(message)
        watch.lap('parse')
        ms = {**read_ms, **watch.times_ms()}
        return BagImage(received_ns, message.header, image.rgb, ms, image.warnings)
    except ImageError as error:
        cause, text = error.cause, f'image dropped: {error}'
    except Exception as error:  # no message may end the run, whatever it contains
        cause, text = _described(error, 'no mask for an image')
    watch.lap('parse')
    return Rejected(received_ns, read_stamp(cdr), cause, text, {**read_ms, **watch.times_ms()})


def _truth(index: int, cdr: bytes, type_name: str) -> Truth:
    try:
        return Truth(index, mask_from_msg(read_image(cdr, type_name)))
    except ImageError as error:
        text = str(error)
    except Exception as error:  # no message may end the run, whatever it contains
        text = describe(error)
    return Truth(index, None, f'the truth of frame {index} (from 0): {text}')


class Decided(NamedTuple):
    """
    The decision on an image, without its pixels; picklable.

    :param received_ns: when the image was received.
    :param header: header of the image.
    :param decision: the decision, without parts that are not read afterwards.
    :param ms: milliseconds by stage, before the decision.
    :param warnings: warnings from reading the image.
    """

    received_ns: int
    header: Any
    decision: Decision
    ms: Times
    warnings: tuple[ImageWarning, ...]


def decided(
    items: Iterator[BagImage | NonImage],
    segmenter: Segmenter,
    pipeline: CameraPipeline,
    confidence: bool = False,
) -> Generator[Decided | NonImage, None, None]:
    """
    Run the pipeline, up to the mask; a GPU works on the next image meanwhile.

    :param items: from `decoded`.
    :param segmenter: the model.
    :param pipeline: pipeline of the bag's camera.
    :param confidence: whether the confidence of each pixel will be written.
    :return: the items, with decisions in place of images.
    """
    begun: deque[tuple[bool, Callable[[], Decided | NonImage]]] = deque()
    images = 0
    for item in items:
        begun.append((isinstance(item, BagImage), _begin(item, segmenter, pipeline, confidence)))
        images += begun[-1][0]
        while begun and (
            images >= segmenter.max_in_flight or len(begun) > QUEUE_DEPTH or not begun[0][0]
        ):
            is_image, finish = begun.popleft()
            images -= is_image
            yield finish()
    for _, finish in begun:
        yield finish()


def _begin(
    item: BagImage | NonImage, segmenter: Segmenter, pipeline: CameraPipeline, confidence: bool
) -> Callable[[], Decided | NonImage]:
    if not isinstance(item, BagImage):
        return lambda: item
    known = tuple(ResultWarning(*given) for given in item.warnings)
    frame = InputFrame(item.image, stamp_ns(item.header), item.received_ns, known)
    decision = pipeline.begin(segmenter, frame, confidence=confidence)

    def finish() -> Decided:
        needed = _needed(decision(), confidence=confidence)
        return Decided(item.received_ns, item.header, needed, item.ms, item.warnings)

    return finish


def _needed(decision: Decision, *, confidence: bool) -> Decision:
    """Remove what is not written, and the error, which may not be picklable."""
    if not confidence:
        decision = without_confidence(decision)
    error = None
    if decision.error is not None:
        error = RuntimeError(describe(decision.error))
        # It would keep the image alive, in a cycle with the error that it belongs to.
        decision.error.__traceback__ = None
    return dataclasses.replace(decision, raw_mask=None, error=error)


def begin_completion(
    item: Decided | NonImage, workers: WorkerPool, *, runs: bool = False
) -> Callable[[], CompletedFrame | NonImage]:
    """
    Start to find the instruments of a decision, and their keypoints.

    :param item: from `decided`.
    :param workers: processes for that; the images stay here.
    :param runs: whether the instruments keep their runs and parts.
    :return: a function that waits for the result and returns it; other items are returned
        unchanged.
    """
    if not isinstance(item, Decided):
        return lambda: item
    needed = without_confidence(item.decision)
    return functools.partial(_complete, item, workers.begin(find, needed, runs=runs))


def _complete(item: Decided, findings: Callable[[], Findings]) -> CompletedFrame:
    found = findings()
    result = FrameResult(
        **{**vars(item.decision), 'stage_ms': found.stage_ms, 'warnings': found.warnings},
        instruments=found.instruments,
    )
    ms = {**item.ms, **found.stage_ms}
    for stage, time_ms in found.ms.items():
        ms[stage] = ms.get(stage, 0.0) + time_ms
    return CompletedFrame(item.received_ns, item.header, result, found, ms, item.warnings)


def tracked(completed: CompletedFrame, pipeline: CameraPipeline) -> CompletedFrame:
    """
    Assign track ids to the instruments of a result.

    :param completed: a result; all must be passed, in the order of the bag.
    :param pipeline: pipeline of the bag's camera.
    :return: the result with ids; what the tracks join or divide has the keypoints of the result.
    """
    result, found = pipeline.track(completed.result, completed.found.observed), completed.found
    now, before = ([(i.label, i.box, i.area_px) for i in x.instruments] for x in (result, found))
    if now != before:  # joined, divided, or without a decision
        found = found._replace(geometries=geometries_of(result))
    return completed._replace(result=result, found=found, ms={**completed.ms, **result.stage_ms})


def _described(error: Exception, what: str) -> tuple[str, str]:
    return type(error).__name__, f'{what}: {describe(error)}'
