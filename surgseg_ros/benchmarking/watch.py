# SPDX-License-Identifier: Apache-2.0
"""Monitors a node during a run: its reports in /diagnostics, and its memory."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

SETTLED_FRAMES: Final = 500
"""Number of frames after which the node should have allocated all its memory."""

REPORTED: Final = 300
"""Number of frames over which /diagnostics reports percentiles."""


class Sample(NamedTuple):
    """
    The node's memory at one time.

    :param frames: number of masks published by then; 0 if it has no reports.
    :param mib: resident memory in MiB.
    """

    frames: int
    mib: float


class Watch:
    """
    Collects reports without common frames, and samples of the memory.

    :param report: returns the values of the last report in /diagnostics; empty without reports.
    :param resident_mib: measures the memory of the node.
    :param rate_hz: frame rate of the camera.
    """

    def __init__(
        self,
        report: Callable[[], Mapping[str, str]],
        resident_mib: Callable[[], float],
        rate_hz: float,
    ) -> None:
        self.reports: list[Mapping[str, str]] = []
        self.samples: list[Sample] = []
        self._report, self._resident_mib = report, resident_mib
        self._window_s = REPORTED / rate_hz
        self._before: int | None = None
        self._reported_s = time.monotonic()

    def __call__(self) -> None:
        """Take a sample."""
        now_s, values = time.monotonic(), self._report()
        self.samples.append(Sample(self._frames(values), self._resident_mib()))
        if values and now_s - self._reported_s >= self._window_s:
            self._reported_s = now_s
            self.reports.append(values)

    def _frames(self, values: Mapping[str, str]) -> int:
        published = int(values.get('published', 0))
        if self._before is None:
            self._before = published
        return published - self._before


def memory(samples: Sequence[Sample]) -> dict[str, Any]:
    """
    Summarize the memory of a run.

    :param samples: in order of time.
    :return: MiB `after_500_frames` and `last`, the `frames` then, `growth` between both as a
        share of the former, and `bytes_per_frame`, the slope of a line through all samples from
        the former on; None where the run is too short.
    """
    settled = [sample for sample in samples if sample.frames >= SETTLED_FRAMES]
    last = samples[-1] if samples else Sample(0, 0.0)
    found: dict[str, Any] = {
        f'after_{SETTLED_FRAMES}_frames': settled[0].mib if settled else None,
        'last': last.mib if samples else None,
        'frames': last.frames,
        'growth': last.mib / settled[0].mib - 1 if settled else None,
        'bytes_per_frame': None,
    }
    if len({sample.frames for sample in settled}) > 1:
        slope = np.polyfit(*zip(*settled), 1)[0]  # MiB over frames
        found['bytes_per_frame'] = float(slope) * 2**20
    return found
