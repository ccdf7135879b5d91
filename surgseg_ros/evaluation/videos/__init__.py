# SPDX-License-Identifier: Apache-2.0
"""Videos: their frames, the times of the frames, and missing or damaged frames."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.evaluation.layout import FrameError
from surgseg_ros.evaluation.videos.decoding import decode
from surgseg_ros.evaluation.videos.numbering import number_frames
from surgseg_ros.evaluation.videos.packets import Contents, Numbering, demux

_KEPT: Final = 16
"""Number of videos whose packets are cached; for an hour at 60 Hz they take 50 MB."""


@dataclass(frozen=True)
class Video:
    """
    A video file whose packets were read once, without decoding.

    :param contents: its packets.
    :param numbering: the assignment of packets to frames.
    """

    contents: Contents = field(repr=False)
    numbering: Numbering = field(repr=False)

    def __len__(self) -> int:
        """Return the number of frames, including known missing ones."""
        return self.numbering.count

    @property
    def path(self) -> Path:
        """The path of the file."""
        return self.contents.path

    @property
    def rate_hz(self) -> Fraction | None:
        """Frames per second; None if the rate varies."""
        return self.numbering.rate

    @property
    def mean_rate_hz(self) -> Fraction:
        """Frames per second; the average if the rate varies."""
        last = len(self) - 1
        if self.rate_hz is not None:
            return self.rate_hz
        if last > 0 and (length_s := self.time_s(last)) > 0:
            return last / length_s
        return next(iter(self.contents.rates), Fraction(1))

    @property
    def data_errors(self) -> tuple[str, ...]:
        """Gaps that are known without decoding: a sentence for each gap."""
        return tuple(f'{self.path}: {gap}' for gap in self.numbering.gaps)

    def time_s(self, frame: int) -> Fraction:
        """
        Return the time at which a frame is shown.

        :param frame: its number, counted from 0.
        :return: seconds from frame 0, by the video's own time stamps.
        """
        return self.numbering.times[frame] if self.rate_hz is None else frame / self.rate_hz

    def reason_missing(self, frame: int) -> str | None:
        """
        Explain why a frame is missing, as far as is known without decoding.

        :param frame: its number, counted from 0.
        :return: a sentence without a full stop; None if it is not known to be missing.
        """
        return self.numbering.reason_missing(frame)

    def read(
        self, frames: Iterable[int], data_errors: dict[int, str] | None = None
    ) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """
        Decode frames.

        :param frames: their numbers, counted from 0; ascending, possibly infinite.
        :param data_errors: collects missing and damaged frames with the reason; if None, they
            raise FrameError.
        :return: number and (H, W, 3) uint8 RGB; ends with the video, even if `frames` continue.
        :raises FrameError: if a frame is missing or damaged.
        """
        for frame, found in decode(self.contents, self.numbering, iter(frames)):
            if not isinstance(found, str):
                yield frame, found
                continue
            reported = f'{self.path}: frame {frame} cannot be used: {found}'
            if data_errors is None:
                raise FrameError(f'{reported}; copy the video again')
            data_errors[frame] = reported


def open_video(path: Path) -> Video:
    """
    Read the packets of a video, without decoding it.

    :param path: the file.
    :return: the video; the cached object if the file is unchanged.
    :raises FrameError: if it is not a video, or contains no frame.
    """
    try:
        state = path.stat()
    except OSError as error:
        raise FrameError(
            f'{path}: does not decode as a video ({error.strerror}); check the path'
        ) from error
    return _read_through(path, state.st_size, state.st_mtime_ns)


@lru_cache(_KEPT)
def _read_through(path: Path, size: int, time_ns: int) -> Video:
    contents = demux(path)
    return Video(contents, number_frames(contents))
