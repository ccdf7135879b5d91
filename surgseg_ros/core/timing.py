# SPDX-License-Identifier: Apache-2.0
"""Times by stage, their percentiles, and checks of images' stamps."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from surgseg_ros.core.reasons import ReasonCode

if TYPE_CHECKING:
    import torch

_JUMP_NS: Final = 10 * 10**9
"""A stamp that is ahead of the receiver's clock by more than this is a jump."""


class Percentiles(NamedTuple):
    """
    Percentiles of times, in the unit of the times.

    :param p50: the median.
    :param p95: the 95th percentile.
    :param p99: the 99th percentile.
    """

    p50: float
    p95: float
    p99: float


def percentiles(values: Iterable[float]) -> Percentiles:
    """
    Compute percentiles of times, interpolated linearly.

    :param values: at least one.
    :return: the percentiles.
    :raises ValueError: if there is no value.
    """
    known = list(values)
    if not known:
        raise ValueError('there is nothing to summarize: no frame was measured')
    return Percentiles(*(float(value) for value in np.percentile(known, (50, 95, 99))))


class Stopwatch:
    """Measures stages that run on the host and are complete when they return."""

    def __init__(self) -> None:
        """Start."""
        self.started_ns = self.last_ns = time.monotonic_ns()
        self._times_ms: dict[str, float] = {}

    def lap(self, stage: str) -> None:
        """
        End a stage, or part of a stage.

        :param stage: its name; the times of its parts are added.
        """
        now_ns = time.monotonic_ns()
        before_ms = self._times_ms.get(stage, 0.0)
        self._times_ms[stage] = before_ms + (now_ns - self.last_ns) / 1e6
        self.last_ns = now_ns

    def resume(self) -> None:
        """Start the next stage now, and ignore the time since the last stage."""
        self.last_ns = time.monotonic_ns()

    def times_ms(self) -> dict[str, float]:
        """Return the milliseconds of each stage, in their order."""
        return dict(self._times_ms)


class CudaStopwatch:
    """
    Measures stages on a CUDA device, which works asynchronously.

    It records CUDA events in streams, so that stages do not wait for each other; only
    `times_ms` waits, for the last event.

    :param device: a CUDA device; the work of a stage is done in the stream that is current then.
    """

    def __init__(self, device: torch.device) -> None:
        """Start."""
        import torch  # imported here: the node uses Stopwatch before it imports torch

        self._event: Any = torch.cuda.Event
        self._stream: Any = functools.partial(torch.cuda.current_stream, device)
        self._marks: list[tuple[str, Any]] = []
        self.lap('')

    def lap(self, stage: str) -> None:
        """
        End a stage when the device reaches this point of the current stream.

        :param stage: its name.
        """
        mark = self._event(enable_timing=True)
        mark.record(self._stream())
        self._marks.append((stage, mark))

    def times_ms(self) -> dict[str, float]:
        """Return the milliseconds of each stage, in their order; waits for the device."""
        self._marks[-1][1].synchronize()
        pairs = itertools.pairwise(self._marks)
        return {stage: before.elapsed_time(mark) for (_, before), (stage, mark) in pairs}


def stopwatch(device: torch.device) -> Stopwatch | CudaStopwatch:
    """
    Start a stopwatch for work on a device.

    :param device: the device that does the work.
    :return: a stopwatch for this device.
    """
    return CudaStopwatch(device) if device.type == 'cuda' else Stopwatch()


class StampAnomaly(NamedTuple):
    """
    Something unusual about an image, which is processed all the same.

    :param text: what it is.
    :param remedy: what can be done about it; the same for every anomaly of a kind.
    :param restarts: whether the image starts a new sequence, so that earlier images are ignored.
    :param code: reason why the mask of the image cannot be trusted; None if it can be.
    """

    text: str
    remedy: str
    restarts: bool = False
    code: ReasonCode | None = None

    @property
    def degrades(self) -> bool:
        """Whether the mask of the image cannot be trusted because of it."""
        return self.code is not None


class StampMonitor:
    """Compares each image of a camera with the previous one; not thread-safe."""

    def __init__(self) -> None:
        """Start without a previous image."""
        self.reset()

    def reset(self) -> None:
        """Forget the previous image."""
        self._size: tuple[int, int] | None = None
        self._stamp_ns: int | None = None
        self._received_ns = 0

    def check(
        self, stamp_ns: int, received_ns: int, size: tuple[int, int]
    ) -> tuple[StampAnomaly, ...]:
        """
        Check the next image.

        :param stamp_ns: the stamp of its header in nanoseconds.
        :param received_ns: when it was received, by a monotonic clock.
        :param size: (H, W) in pixels.
        :return: the anomalies found.
        """
        found = (
            _size_anomaly(self._size, size),
            _stamp_anomaly(self._stamp_ns, stamp_ns, received_ns - self._received_ns),
        )
        self._size, self._stamp_ns, self._received_ns = size, stamp_ns, received_ns
        return tuple(anomaly for anomaly in found if anomaly is not None)


def _size_anomaly(before: tuple[int, int] | None, now: tuple[int, int]) -> StampAnomaly | None:
    if before is None or before == now:
        return None
    text = f'images change from {before[1]}x{before[0]} to {now[1]}x{now[0]} pixels'
    return StampAnomaly(text, 'the masks change, too', restarts=True)


def _stamp_anomaly(before_ns: int | None, now_ns: int, elapsed_ns: int) -> StampAnomaly | None:
    if now_ns == 0:
        remedy = 'let the camera driver set header.stamp'
        return StampAnomaly('the stamp is zero', remedy, code=ReasonCode.STAMP_ZERO)
    if before_ns is None:
        return None
    if now_ns == before_ns:
        text = f'two images have the same stamp {now_ns} ns'
        return StampAnomaly(text, 'check the camera driver', code=ReasonCode.STAMP_REPEATED)
    remedy = 'expected if a bag or a simulation starts again, else look for a second publisher'
    # A restart does not affect the image itself.
    if now_ns < before_ns:
        return StampAnomaly(
            f'stamps go back from {before_ns} to {now_ns} ns', remedy, restarts=True
        )
    if before_ns and now_ns - before_ns > elapsed_ns + _JUMP_NS:
        text = f'stamps jump ahead from {before_ns} to {now_ns} ns'
        return StampAnomaly(
            text, remedy + ', or set the clock before the camera starts', restarts=True
        )
    return None
