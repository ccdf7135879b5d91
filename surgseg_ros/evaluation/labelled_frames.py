# SPDX-License-Identifier: Apache-2.0
"""A video's frames with their masks, in order, and cut to the part that is the endoscope's."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.labels import CLASS_COUNT
from surgseg_ros.evaluation.frames import FrameError
from surgseg_ros.evaluation.masks import read_mask
from surgseg_ros.evaluation.sources import Source


class Crop(NamedTuple):
    """A part of each picture, in pixels."""

    x: int
    y: int
    width: int
    height: int


class LabelledFrame(NamedTuple):
    """
    A frame of a video.

    :param number: of the frame in the video.
    :param image: (H, W, 3) uint8 RGB.
    :param mask: (H, W) uint8 class index, or None where there is no truth.
    """

    number: int
    image: NDArray[np.uint8]
    mask: NDArray[np.uint8] | None


def labelled_frames(source: Source, crop: Crop | None = None) -> Iterator[LabelledFrame]:
    """
    Read a video's frames, and the masks that there are, one at a time.

    :param source: the video.
    :param crop: part to take of picture and mask.
    :return: the frames, all of one size.
    :raises FrameError: if a frame can't be decoded, has another size than the first one or its
        mask, or is missing though it has a mask; if the crop leaves the picture; or if there is
        no frame at all.
    :raises MaskError: if a mask is none.
    """
    masks = {number: path for number, path in source.masks.items() if source.wants(number)}
    first: tuple[int, ...] | None = None
    for number, image in source.read(lambda _: False):
        size = image.shape[:2]
        if size != (first := first or size):
            raise FrameError(
                f'{source.name}: frame {number} is {_words(size)}, those before it '
                f'{_words(first)}: give the pictures of one camera, in one size'
            )
        mask = _mask(masks.pop(number), image) if number in masks else None
        yield LabelledFrame(number, _cut(image, crop), None if mask is None else _cut(mask, crop))
    if first is None:
        raise FrameError(f'{source.name}: holds no frame that is asked for')
    if masks:
        raise FrameError(f'{source.video}: ends before frame {min(masks)}, which has a mask')


def _mask(path: Path, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    mask = read_mask(path)
    if mask.shape != image.shape[:2]:
        sizes = f'{_words(mask.shape)}, its frame {_words(image.shape)}'
        raise FrameError(f'{path}: is {sizes}: both must have the size of the video')
    if mask.max() >= CLASS_COUNT:
        raise FrameError(f'{path}: holds the value {mask.max()}, expected 0 to {CLASS_COUNT - 1}')
    return mask


def _cut(image: NDArray[np.uint8], crop: Crop | None) -> NDArray[np.uint8]:
    """Take a part of (H, W, ...)."""
    if crop is None:
        return image
    bottom, right = crop.y + crop.height, crop.x + crop.width
    height, width = image.shape[:2]
    if bottom > height or right > width:
        raise FrameError(
            f'the crop {" ".join(map(str, crop))} reaches to {right},{bottom}, beyond a picture '
            f'of {width}x{height}: it is X Y WIDTH HEIGHT, in pixels'
        )
    return image[crop.y : bottom, crop.x : right]


def _words(shape: Sequence[int]) -> str:
    return f'{shape[1]}x{shape[0]}'
