# SPDX-License-Identifier: Apache-2.0
"""Times of the stages of one frame, on the host or on a CUDA device."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class Stopwatch:
    """Times on the host: what a stage starts, it also ends."""

    def __init__(self) -> None:
        """Start."""
        self.started_ns = self.last_ns = time.monotonic_ns()
        self._times_ms: dict[str, float] = {}

    def lap(self, stage: str) -> None:
        """
        End a stage.

        :param stage: its name.
        """
        now_ns = time.monotonic_ns()
        self._times_ms[stage] = (now_ns - self.last_ns) / 1e6
        self.last_ns = now_ns

    def resume(self) -> None:
        """Begin the next stage now: what was since the last one is none of its own."""
        self.last_ns = time.monotonic_ns()

    def times_ms(self) -> dict[str, float]:
        """Give the milliseconds of each stage, in their order."""
        return dict(self._times_ms)


class CudaStopwatch:
    """
    Times on a CUDA device, which works on while the host goes ahead.

    Marks in the device's own queue tell when it came past them. So no stage waits to be measured;
    only `times_ms` waits, for the last mark.

    :param device: a CUDA device; its current stream does the work.
    """

    def __init__(self, device: torch.device) -> None:
        """Start."""
        import torch  # not above: the node holds a stopwatch of the host before it has torch

        self._event: Any = torch.cuda.Event
        self._stream = torch.cuda.current_stream(device)
        self._marks: list[tuple[str, Any]] = []
        self.lap('')

    def lap(self, stage: str) -> None:
        """
        End a stage once the device comes to this place.

        :param stage: its name.
        """
        mark = self._event(enable_timing=True)
        mark.record(self._stream)
        self._marks.append((stage, mark))

    def times_ms(self) -> dict[str, float]:
        """Give the milliseconds of each stage, in their order; waits for the device."""
        self._marks[-1][1].synchronize()
        pairs = itertools.pairwise(self._marks)
        return {stage: before.elapsed_time(mark) for (_, before), (stage, mark) in pairs}


def stopwatch(device: torch.device) -> Stopwatch | CudaStopwatch:
    """
    Start a stopwatch for work on a device.

    :param device: where the work is done.
    :return: the stopwatch that fits it.
    """
    return CudaStopwatch(device) if device.type == 'cuda' else Stopwatch()
