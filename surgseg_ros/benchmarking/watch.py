# SPDX-License-Identifier: Apache-2.0
"""Looks at a node while it works: what it tells of itself, and how much memory it holds."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

SETTLED_FRAMES: Final = 500
"""After so many the node has all memory that it should ever need."""

REPORTED: Final = 300
"""Frames that /diagnostics sums up."""


class Sample(NamedTuple):
    """
    The node's memory at one time.

    :param frames: masks that it had published; 0 if it tells nothing.
    :param mib: resident memory.
    """

    frames: int
    mib: float


class Watch:
    """
    Collects reports that have no frame in common, and samples of the memory.

    :param report: gives what the node last told in /diagnostics; nothing if it tells nothing.
    :param resident_mib: measures its memory.
    :param rate_hz: of the camera.
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
        """Look."""
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
    Sum up the memory of a run.

    :param samples: in the order of time.
    :return: MiB `after_500_frames` and `last`, the `frames` then, `growth` between both as a
        share of the former, and `bytes_per_frame`, the slope of a line through all samples from
        the former on; None for what a short run cannot tell.
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
