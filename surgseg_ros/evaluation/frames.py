# SPDX-License-Identifier: Apache-2.0
"""Decodes images and videos of a data set, and writes masks and images."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.files import replacing
from surgseg_ros.core.image_files import (
    ImageFileError,
    check_file,
    decode_rgb,
    is_image_file,
)
from surgseg_ros.core.processes import refusal
from surgseg_ros.evaluation.layout import FrameError
from surgseg_ros.evaluation.videos import open_video

__all__ = ['PARTIAL', 'FrameError', 'read_frames', 'read_image_file', 'write_png']

PARTIAL: Final = '.part'
"""Suffix of a file's name while it is written."""


def read_image_file(path: Path) -> NDArray[np.uint8]:
    """
    Decode an image.

    :param path: a file of any format that OpenCV reads.
    :return: (H, W, 3) uint8 RGB.
    :raises FrameError: if it cannot be decoded, or a part of it is missing or damaged.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FrameError(f'{path}: cannot be read ({error.strerror})') from error
    if is_image_file(data):
        try:
            return decode_rgb(check_file(data)).rgb
        except ImageFileError as error:
            raise FrameError(f'{path}: {error}; copy it again') from error
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error as error:
        raise FrameError(f'{path}: {refusal(error)}') from error
    if image is None:
        raise FrameError(f'{path}: is not an image that OpenCV reads; copy it again')
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def read_frames(
    path: Path, indices: Iterable[int], data_errors: dict[int, str] | None = None
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """
    Decode frames of a video by their number, counted from 0.

    Numbers come from the file's own index or time stamps, and are not a count of what decodes: a
    lost frame keeps its number. For an undamaged video they equal the numbers of the data set's
    own tools, which read frame by frame.

    :param path: the video.
    :param indices: ascending, possibly infinite.
    :param data_errors: receives those that are missing or damaged, with the reason; if None,
        these raise.
    :return: index and (H, W, 3) uint8 RGB; ends with the video, even if `indices` continue.
    :raises FrameError: if the video, or a frame that is asked for, cannot be decoded.
    """
    yield from open_video(path).read(indices, data_errors)


def write_png(path: Path, image: NDArray[np.uint8], compression: int = 1) -> None:
    """
    Write an image or mask atomically: a file of its name is always complete.

    :param path: where; its folder must exist.
    :param image: (H, W, 3) uint8 RGB, or (H, W) uint8.
    :param compression: level of zlib, 0 to 9.
    :raises OSError: if it cannot be written; nothing is left.
    """
    planes = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    _, encoded = cv2.imencode('.png', planes, [cv2.IMWRITE_PNG_COMPRESSION, compression])
    with replacing(path, partial=PARTIAL, sync=False) as partial:
        partial.write_bytes(encoded.tobytes())
