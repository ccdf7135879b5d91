# SPDX-License-Identifier: Apache-2.0
"""Instruments in 3-D, in stereo videos with calibrations: `video_*/{left,right}`."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, TypeVar

from surgseg_ros.core.calibration_files import CALIBRATION_FILE, read_stereo_calibration
from surgseg_ros.core.results import Decision, FrameResult
from surgseg_ros.core.stereo import CameraResult, LocatedInstrument, locate_instruments
from surgseg_ros.core.stereo_calibration import StereoError
from surgseg_ros.evaluation.layout import find_cameras, find_videos, official_name

T = TypeVar('T')

_BOTH: Final = 2


class Locator:
    """
    Finds tips and axes in the frames of stereo videos whose images are rectified.

    :param root: the data set; videos without calibrations of both cameras are left out.
    :raises StereoError: if a calibration cannot be used.
    """

    def __init__(self, root: Path) -> None:
        """Read the calibrations."""
        self._calibrations = {}
        self._reasons = Counter[str]()
        for video in find_videos(root):
            files = [camera / CALIBRATION_FILE for camera in find_cameras(video).values()]
            if files and all(file.is_file() for file in files):
                name = official_name(video.name)
                self._calibrations[name] = read_stereo_calibration(*files)

    def locate(self, video: str, cameras: Sequence[Decision]) -> list[LocatedInstrument]:
        """
        Find the 3-D positions of instruments; empty without a calibration or a decision.

        :param video: name of the video.
        :param cameras: the results of one frame, in the order of EYES.
        :return: as `locate_instruments` returns them.
        """
        calibration = self._calibrations.get(video)
        seen = [
            CameraResult(camera.mask, camera.instruments, camera.segmentation.roi)
            for camera in cameras
            if isinstance(camera, FrameResult) and camera.is_decided
        ]
        if calibration is None or len(seen) < _BOTH:
            return []
        try:
            return locate_instruments(calibration, *seen)
        except StereoError as error:
            self._reasons[str(error)] += 1
            return []

    def report(self) -> str:
        """Report why nothing could be located, and in how many frames; empty if there is none."""
        return '; '.join(f'nothing in 3-D ({n} times): {x}' for x, n in self._reasons.items())


def group_frames(
    cameras: Sequence[Iterable[tuple[Any, T]]],
) -> Iterator[tuple[Any, list[tuple[int, T]]]]:
    """
    Group the frames of several cameras by their numbers or names.

    :param cameras: for each camera, pairs of an ascending number or name and any data.
    :return: each number or name, with the indices and data of the cameras that have it.
    """

    def placed(place: int, camera: Iterable[tuple[Any, T]]) -> Iterator[tuple[Any, int, T]]:
        return ((number, place, frame) for number, frame in camera)

    both = merge(*(placed(*camera) for camera in enumerate(cameras)), key=itemgetter(0, 1))
    for number, frames in groupby(both, key=itemgetter(0)):
        yield number, [(place, frame) for _, place, frame in frames]
