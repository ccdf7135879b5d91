# SPDX-License-Identifier: Apache-2.0
"""What `predict` takes frames from: a video, a folder of pictures, or a data set."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from surgseg_ros.evaluation.frames import (
    PICTURE_FOLDERS,
    PICTURE_SUFFIXES,
    VIDEO_FILE,
    FrameError,
    find_pictures,
    read_frames,
    read_picture,
)

VIDEO_EVERY: Final = 60
"""SAR-RARP50 has a mask for each 60th frame of its videos, which is one a second."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """
    Frames of one video.

    :param name: of the video in the official layout, `video_41`.
    :param numbers: which frames, ascending; None for each `every`-th until the video ends.
    :param every: see `numbers`.
    :param pictures: frames that are files of their own, by number.
    :param video: where the others are.
    :param masks: the truth of frames, by number; of a data set alone.
    """

    name: str
    numbers: Sequence[int] | None = None
    every: int = VIDEO_EVERY
    pictures: Mapping[int, Path] = field(default_factory=dict)
    video: Path | None = None
    masks: Mapping[int, Path] = field(default_factory=dict)

    def __len__(self) -> int:
        """Count the frames; for a video, as its header promises."""
        if self.numbers is not None:
            return len(self.numbers)
        capture = cv2.VideoCapture(str(self.video))
        promised = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        capture.release()
        return max(0, -(-promised // self.every))

    def wants(self, number: int) -> bool:
        """
        Tell whether a frame is among these, if the video is long enough.

        :param number: of the frame.
        :return: whether it is.
        """
        return number % self.every == 0 if self.numbers is None else number in self.numbers

    def read(self, is_done: Callable[[int], bool]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """
        Decode the frames.

        :param is_done: whether a frame, by its number, is not wanted.
        :return: number and (H, W, 3) uint8 RGB.
        :raises FrameError: if a frame can't be decoded.
        """
        if self.numbers is None:
            yield from self._decode(n for n in count(0, self.every) if not is_done(n))
            return
        rest = [number for number in self.numbers if not is_done(number)]
        for number in rest:
            if number in self.pictures:
                yield number, read_picture(self.pictures[number])
        packed = [number for number in rest if number not in self.pictures]
        reached = -1
        for reached, image in self._decode(iter(packed)):
            yield reached, image
        if packed and reached < packed[-1]:
            raise FrameError(f'{self.video}: ends before frame {packed[-1]}, which has a mask')

    def check(self) -> None:
        """
        See that the video decodes, where one is needed, by its first frame.

        :raises FrameError: if it does not.
        """
        if self.numbers is None or any(number not in self.pictures for number in self.numbers):
            next(self._decode(iter([0])), None)

    def _decode(self, numbers: Iterator[int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        return read_frames(self.video, numbers) if self.video else iter(())


def find_sources(path: Path, every: int | None = None) -> list[Source]:
    """
    Find out what a path holds.

    :param path: a video; a folder of pictures; or a video's folder or a folder of these, as
        SAR-RARP50 has them, unpacked or not.
    :param every: take each frame whose number is a multiple of it; by default all pictures of
        a folder, the frames that have a mask of a data set, and each 60th of a video.
    :return: one source for each video, sorted by name.
    :raises FrameError: if there is nothing to take frames from.
    """
    if not path.exists():
        raise FrameError(f'{str(path)!r} does not exist: see whether the path is right')
    if path.is_file():
        name = path.parent.name if path.name == VIDEO_FILE else path.stem
        return [Source(name=_official(name), every=every or VIDEO_EVERY, video=path)]
    videos = find_videos(path)
    if videos or _is_video(path):
        return [_of_data_set(video, every) for video in videos or [path.resolve()]]
    files = [file for file in sorted(path.glob('*')) if file.suffix.lower() in PICTURE_SUFFIXES]
    if not files:
        raise FrameError(
            f'{str(path)!r} holds no frames: give a video, a folder of PNG or JPEG files, or a '
            f'folder of video_* with {VIDEO_FILE}, {" or ".join(PICTURE_FOLDERS)}'
        )
    whole = path.resolve()
    name = whole.parent.name if whole.name in PICTURE_FOLDERS else whole.name
    return [_of_pictures(name, _numbered(files), every or 1)]


def find_videos(path: Path) -> list[Path]:
    """
    Find the videos of a data set.

    :param path: a folder.
    :return: its folders `video_*` with frames, sorted; none if it is a video's folder itself.
    """
    return [folder for folder in sorted(path.glob('video_*')) if _is_video(folder)]


def _of_data_set(video: Path, every: int | None) -> Source:
    """Take the frames that have a mask, or, without any, those at the masks' rate."""
    name, pictures, file = _official(video.name), find_pictures(video), video / VIDEO_FILE
    found = sorted(video.glob('segmentation/*.png'))
    masks = {int(mask.stem): mask for mask in found if mask.stem.isdecimal()}
    lacking = [number for number in masks if number not in pictures]
    if lacking and not file.is_file():
        raise FrameError(
            f'{video}: frame {lacking[0]:09d} has a mask, but is neither in '
            f'{" or ".join(PICTURE_FOLDERS)}, nor is there {VIDEO_FILE}'
        )
    if masks and not every:
        return Source(name=name, numbers=sorted(masks), pictures=pictures, video=file, masks=masks)
    every = every or VIDEO_EVERY
    if lacking or not pictures:
        return Source(name=name, every=every, video=file, masks=masks)
    return _of_pictures(video.name, pictures, every, masks)


def _of_pictures(
    name: str, pictures: Mapping[int, Path], every: int, masks: Mapping[int, Path] | None = None
) -> Source:
    numbers = [number for number in pictures if number % every == 0]
    return Source(name=_official(name), numbers=numbers, pictures=pictures, masks=masks or {})


def _is_video(folder: Path) -> bool:
    parts = (VIDEO_FILE, *PICTURE_FOLDERS)
    return any((folder / part).exists() for part in parts)


def _numbered(files: Sequence[Path]) -> dict[int, Path]:
    """Take numbers from names, or, where names have none of their own, from their order."""
    matches = [re.search(r'(\d+)$', file.stem) for file in files]
    numbers = [int(match[1]) for match in matches if match]
    if len(set(numbers)) < len(files):
        numbers = list(range(len(files)))
    return dict(sorted(zip(numbers, files, strict=True)))


def _official(name: str) -> str:
    return name if name.startswith('video_') else f'video_{name}'
