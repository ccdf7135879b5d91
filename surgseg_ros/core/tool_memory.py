# SPDX-License-Identifier: Apache-2.0
"""Remembers the robotic tools of the last image, so that the next one can continue them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.known_tools import KnownTools, find_merged, numbers_in
from surgseg_ros.core.parts import ToolParts
from surgseg_ros.core.segmentation import Points

MERGED_TIMES: Final = 3
"""
Tools that an image alone merges stay apart for this many times as long as images alone have shown
them before, and for at most this many times the time for which a lost track is kept.
"""

MAX_TOOLS: Final = 12
"""Of more tools, as in a mask of noise, none is continued: the image would cost twice the time."""


class _Tool(NamedTuple):
    """
    A robotic tool of the last image.

    :param track: number of its track.
    :param shown_ns: for how long images alone have shown it.
    :param held_ns: for how long it has been continued since they last did.
    """

    track: int
    shown_ns: int
    held_ns: int


class ToolMemory:
    """
    The robotic tools of the last image, and for how long images alone have shown each of them.

    A tool is continued for a limited time only, so that a wrong division does not last.

    :param lost_ns: longest time without an image after which tools are continued.
    :param first_ns: for how long the first image of a tool shows it, at most.
    """

    def __init__(self, lost_ns: int, first_ns: int) -> None:
        self._lost_ns, self._first_ns = lost_ns, first_ns
        self.forget()

    def forget(self) -> None:
        """Forget all tools."""
        self._samples = np.zeros((0, 0), np.uint8)
        self._tools: dict[int, _Tool] = {}

    @contextmanager
    def forgotten_after_errors(self) -> Iterator[None]:
        """Forget all tools if the block raises, so that the next image does not fail as well."""
        try:
            yield
        except Exception:
            self.forget()
            raise

    def find_continued(
        self,
        samples: NDArray[np.uint8],
        step: int,
        tracks: NDArray[np.intp],
        shifts_px: Points,
        dt_ns: int,
    ) -> KnownTools | None:
        """
        Return the tools that may be continued, if the next image merges some of them.

        :param samples: (h, w) as `sample_tools` returns them, of the next image.
        :param step: distance between neighbouring samples, in pixels.
        :param tracks: (n,) numbers of tracks.
        :param shifts_px: (n, 2) by how much the position of each has changed, in x and y.
        :param dt_ns: time since the last image.
        :return: the tools; None if nothing needs to be continued.
        """
        if dt_ns > self._lost_ns:
            return None
        rows = {track: row for row, track in enumerate(tracks.tolist())}
        numbers, chosen = list[int](), list[int]()
        for number, tool in self._tools.items():
            limit_ns = MERGED_TIMES * min(tool.shown_ns, self._lost_ns)
            if tool.track in rows and tool.held_ns + dt_ns <= limit_ns:
                numbers.append(number)
                chosen.append(rows[tool.track])
        if not 0 < len(numbers) <= MAX_TOOLS:
            return None
        known = KnownTools(self._samples, np.array(numbers), shifts_px[chosen])
        return known if find_merged(known, samples, step) else None

    def note(
        self,
        samples: NDArray[np.uint8],
        tools: Sequence[ToolParts | None],
        tracks: Sequence[int],
        dt_ns: int,
    ) -> None:
        """
        Note the tools of the next image.

        :param samples: (h, w) as `sample_tools` returns them.
        :param tools: the parts of which they are samples; None if these are not known here, as
            those of tools that are not continued may be.
        :param tracks: the number of the track of each.
        :param dt_ns: time since the last image.
        """
        times = {tool.track: tool for tool in self._tools.values()}
        self._samples, self._tools = samples, {}
        for number in numbers_in(samples):
            parts, track = tools[number], tracks[number]
            before = times.get(track)
            if before is None:  # a single image shows no more, whenever there was another one
                self._tools[number] = _Tool(track, min(dt_ns, self._first_ns), 0)
            elif parts is not None and parts.is_continued:
                self._tools[number] = before._replace(held_ns=before.held_ns + dt_ns)
            else:
                self._tools[number] = _Tool(track, before.shown_ns + dt_ns, 0)
