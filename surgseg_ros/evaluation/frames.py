# SPDX-License-Identifier: Apache-2.0
"""Frames of a data set: where they lie, and how pictures and videos are decoded."""

import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.bounds import told
from surgseg_ros.core.files import replacing
from surgseg_ros.core.picture_files import (
    PictureFileError,
    check_file,
    decode_rgb,
    is_picture_file,
)

VIDEO_FILE: Final = 'video_left.avi'
"""A video that is not unpacked, beside `segmentation/`."""

PICTURE_FOLDERS: Final = ('rgb', 'frames')
"""Where an unpacked video's frames may lie, beside `segmentation/`; the first that has it wins."""

PICTURE_SUFFIXES: Final = ('.png', '.jpg', '.jpeg')

PARTIAL: Final = '.part'
"""What the name of a file ends with while it is written."""

# Nine digits are the frame's index. Fewer are somebody's own count, whose frames are others.
_PICTURE_NAME: Final = re.compile(r'_?(\d{9})')


class FrameError(ValueError):
    """A picture or video that can't be used; the message names it, and a remedy."""


def find_pictures(video: Path) -> dict[int, Path]:
    """
    Find the frames of an unpacked video.

    :param video: folder of the video.
    :return: index of the frame to its file, sorted.
    """
    found: dict[int, Path] = {}
    for name in reversed(PICTURE_FOLDERS):
        for suffix in reversed(PICTURE_SUFFIXES):
            for path in (video / name).glob(f'*{suffix}'):
                if match := _PICTURE_NAME.fullmatch(path.stem):
                    found[int(match[1])] = path
    return dict(sorted(found.items()))


def read_picture(path: Path) -> NDArray[np.uint8]:
    """
    Decode a picture.

    :param path: a file of any format that OpenCV reads.
    :return: (H, W, 3) uint8 RGB.
    :raises FrameError: if it can't be decoded, or a part of it is missing or damaged.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FrameError(f'{path}: can not be read ({error.strerror})') from error
    if is_picture_file(data):
        try:
            return decode_rgb(check_file(data)).rgb
        except PictureFileError as error:
            raise FrameError(f'{path}: {error}; copy it again') from error
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error as error:
        raise FrameError(f'{path}: {told(error)}') from error
    if image is None:
        raise FrameError(f'{path}: is no picture that OpenCV reads; copy it again')
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def frame_rate_hz(path: Path) -> float:
    """
    Read how many frames a second a video has.

    :param path: the video.
    :return: as its header says.
    :raises FrameError: if it is no video, or does not say it.
    """
    capture = cv2.VideoCapture(str(path))
    rate_hz = capture.get(cv2.CAP_PROP_FPS) if capture.isOpened() else 0.0
    capture.release()
    if not 0 < rate_hz < math.inf:
        raise FrameError(
            f'{path}: does not decode as a video with a rate; copy it again, or convert it, to '
            'H.264 in .mp4 for example'
        )
    return float(rate_hz)


def read_frames(path: Path, indices: Iterable[int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """
    Decode frames of a video by their number, counted from 0.

    Every frame before the last one is decoded, since OpenCV's way to jump to a frame is not exact:
    it goes by time and key frames, and lands beside it in some files. What is counted is what
    the data set's own tools count, who read frame by frame. Only the frames that are asked for
    are turned into pictures, which saves a part of the time.

    :param path: the video.
    :param indices: ascending, maybe without end.
    :return: index and (H, W, 3) uint8 RGB; ends with the video, even if `indices` go on.
    :raises FrameError: if the video, or a frame that is asked for, can't be decoded.
    """
    capture = cv2.VideoCapture(str(path))
    try:
        place = -1
        for index in indices:
            while place < index:
                if not capture.grab():
                    if place < 0:
                        raise FrameError(
                            f'{path}: does not decode as a video; copy it again, or convert it'
                        )
                    return
                place += 1
            decoded, image = capture.retrieve()
            if not decoded:
                raise FrameError(f'{path}: frame {index} does not decode; copy the video again')
            yield index, cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
    finally:
        capture.release()


def write_png(path: Path, image: NDArray[np.uint8], compression: int = 1) -> None:
    """
    Write a picture or mask so that its name never stands for a part of it.

    :param path: where; its folder must exist.
    :param image: (H, W, 3) uint8 RGB, or (H, W) uint8.
    :param compression: of zlib, 0 to 9.
    :raises OSError: if it can't be written; nothing is left.
    """
    planes = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    _, encoded = cv2.imencode('.png', planes, [cv2.IMWRITE_PNG_COMPRESSION, compression])
    with replacing(path, partial=PARTIAL, sync=False) as partial:
        partial.write_bytes(encoded.tobytes())
