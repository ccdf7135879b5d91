# SPDX-License-Identifier: Apache-2.0
"""Times by stage, without ROS."""

import logging
import math
import queue
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle, islice
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.detections import Instrument
from surgseg_ros.core.parameters import pipeline_settings
from surgseg_ros.core.reasons import Reason
from surgseg_ros.core.segmentation import Segmentation
from surgseg_ros.core.segmenter import Segmenter
from surgseg_ros.core.timing import percentiles
from surgseg_ros.messages.images import image_to_msg
from surgseg_ros.messages.serialization import IMAGE, detections_to_cdr, header, set_stamp, to_cdr
from surgseg_ros.node.freshness import Generation, ResultPolicy
from surgseg_ros.node.health import CameraChannel, Frame, Health
from surgseg_ros.node.mailbox import Mailbox
from surgseg_ros.node.worker import Inference, Worker

STAGES: Final = (
    *('wait', 'parse', 'fit', 'network', 'upsample', 'download'),
    *('gates', 'postprocessing', 'publish', 'detections', 'instruments', 'publish_others'),
)
"""The stages of /diagnostics, in order of processing; `gates` run in parallel with the network."""

_UNTIMED: Final = 5
"""Warm-up rounds, in which memory is allocated, and the processor's clock rate increases."""

_LONGEST_S: Final = 300.0

_POLICY: Final = ResultPolicy(stale_after_ms=_LONGEST_S * 1e3)

Times = Mapping[str, float]


def measure(
    segmenter: Segmenter,
    images: Sequence[NDArray[np.uint8]],
    frames: int,
    cameras: int = 1,
    end_s: float = math.inf,
    report: Callable[[int], None] = lambda done: None,
) -> list[list[Times]]:
    """
    Send images through the node's worker.

    In each round, every camera puts one frame into the mailbox, and the next round starts when all
    are processed; with one camera, a frame only waits until the thread wakes up.

    :param segmenter: the model; it is warmed up first.
    :param images: (H, W, 3) uint8 RGB, taken in turn.
    :param frames: number of measured rounds.
    :param cameras: number of cameras.
    :param end_s: monotonic time after which no further round starts, if at least one was measured.
    :param report: called with the number of rounds so far, including the warm-up.
    :return: for each round and camera, the milliseconds of STAGES, `age` and `detections_age`.
    :raises RuntimeError: if the node would have rejected a frame.
    """
    segmenter.warm_up((images[0].shape[0], images[0].shape[1]))
    results: queue.SimpleQueue[Times | str] = queue.SimpleQueue()
    mailbox = Mailbox()
    worker = _worker(segmenter, mailbox, results, cameras)
    worker.start()
    cdrs = [to_cdr(image_to_msg(image, header(0, 'camera'))) for image in images]
    rounds: list[list[Times]] = []
    try:
        for cdr in islice(cycle(cdrs), _UNTIMED + frames):
            rounds.append(_send(mailbox, results, set_stamp(cdr, len(rounds) + 1), cameras))
            report(len(rounds))
            if len(rounds) > 1 and time.monotonic() >= end_s:
                break
    finally:
        mailbox.close()
        worker.join()
    return rounds[min(_UNTIMED, max(len(rounds) - frames, len(rounds) // 2)) :]


def _worker(
    segmenter: Segmenter,
    mailbox: Mailbox,
    results: queue.SimpleQueue[Times | str],
    cameras: int,
) -> Worker:
    names = [f'camera {n}' for n in range(cameras)] if cameras > 1 else ['']
    channels = tuple(
        CameraChannel(name, IMAGE, None, _Record(results), _Serializer()) for name in names
    )
    logger = logging.getLogger(__name__)
    settings, models = pipeline_settings(), _OneModel(segmenter)
    return Worker(
        models, mailbox, channels, Generation(), lambda: _POLICY, time.time_ns, logger, settings
    )


def summary(rounds: Sequence[Sequence[Times]]) -> dict[str, Any]:
    """
    Summarize a measurement.

    :param rounds: result of `measure`.
    :return: `stages`, `mask`, from receipt to mask, and `total`, from receipt to detections, in
        milliseconds, and frames per second of all cameras together.
    """
    frames = [times for cameras in rounds for times in cameras]
    longest = [max(times['detections_age'] for times in cameras) for cameras in rounds]
    return {
        'stages': {
            stage: percentiles(times[stage] for times in frames)._asdict() for stage in STAGES
        },
        'mask': percentiles(times['age'] for times in frames)._asdict(),
        'total': percentiles(times['detections_age'] for times in frames)._asdict(),
        'frames': len(frames),
        'frames_per_s': 1e3 * len(frames) / sum(longest),
    }


def _send(
    mailbox: Mailbox, results: 'queue.SimpleQueue[Times | str]', cdr: bytes, cameras: int
) -> list[Times]:
    for camera in range(cameras):
        mailbox.put(Frame(camera, cdr, time.monotonic_ns(), 0, 0))
    found = []
    for _ in range(cameras):
        result = results.get(timeout=_LONGEST_S)
        if isinstance(result, str):
            raise RuntimeError(f"the node rejects the benchmark's frame: {result}")
        found.append(result)
    return found


class _Record(Health):
    """Returns the times of each frame, which the node would only summarize."""

    def __init__(self, results: 'queue.SimpleQueue[Times | str]') -> None:
        super().__init__()
        self._results = results
        self._times_ms: Times = {}

    def record_mask(
        self,
        image_ns: int,
        stamp_ns: int,
        times_ms: Mapping[str, float],
        warning: tuple[Reason, ...] = (),
    ) -> None:
        self._times_ms = times_ms

    def record_times(self, times_ms: Mapping[str, float]) -> None:
        self._results.put({**self._times_ms, **times_ms})

    def record_failure(self, *reasons: Reason, count: str = 'rejected') -> None:
        self._results.put('; '.join(reason.text for reason in reasons))


class _OneModel:
    """The measured model; if the machine fails, the benchmark fails."""

    def __init__(self, segmenter: Segmenter) -> None:
        self.inference = Inference(segmenter, self)

    def fall_back(self, error: Exception) -> bool:
        return False

    def disable_batching(self, reason: str) -> None:
        raise RuntimeError(reason)


class _Serializer:
    """Serializes the messages of a node without subscribers of confidence and overlay."""

    def topics(self) -> list[str]:
        return []

    def publish_mask(self, header: Any, mask: NDArray[np.uint8]) -> None:
        to_cdr(image_to_msg(mask, header))

    def publish_detections(self, header: Any, instruments: Sequence[Instrument]) -> None:
        detections_to_cdr(header, instruments)

    def publish_others(
        self,
        header: Any,
        image: NDArray[np.uint8],
        segmentation: Segmentation,
        instruments: Sequence[Instrument],
        raw: NDArray[np.uint8] | None = None,
    ) -> None:
        pass

    def publish_no_decision(self, header: Any, image: NDArray[np.uint8]) -> None:
        pass

    def wants_confidence(self) -> bool:
        return False
