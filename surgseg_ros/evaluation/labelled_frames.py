# SPDX-License-Identifier: Apache-2.0
"""A video's frames with their masks, in order, and cut to the part that is the endoscope's."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.evaluation.frames import FrameError
from surgseg_ros.evaluation.masks import read_truth
from surgseg_ros.evaluation.sources import Source


class Crop(NamedTuple):
    """A part of each image, in pixels."""

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


def labelled_frames(
    source: Source, crop: Crop | None = None, data_errors: dict[int, str] | None = None
) -> Iterator[LabelledFrame]:
    """
    Read a video's frames, and the masks that there are, one at a time.

    :param source: the video.
    :param crop: part to take of image and mask.
    :param data_errors: gets the frames of a video that are missing or damaged, with the reason,
        where they have no mask; without it these raise, as do those that have one.
    :return: the frames, all of one size.
    :raises FrameError: if a frame cannot be decoded, has another size than the first one or its
        mask, or is missing though it has a mask; if the crop leaves the image; or if there is
        no frame at all.
    :raises MaskError: if a mask is none.
    """
    masks = {number: path for number, path in source.masks.items() if source.wants(number)}
    first: tuple[int, ...] | None = None
    found: dict[int, str] = {} if data_errors is None else data_errors
    for number, image in source.read(lambda _: False, None if data_errors is None else found):
        _refuse_lost(masks, found)
        size = image.shape[:2]
        if size != (first := first or size):
            raise FrameError(
                f'{source.name}: frame {number} is {_words(size)}, those before it '
                f'{_words(first)}: give the images of one camera, in one size'
            )
        mask = _mask(masks.pop(number), image) if number in masks else None
        yield LabelledFrame(number, _cut(image, crop), None if mask is None else _cut(mask, crop))
    _refuse_lost(masks, found)
    if first is None and found:
        raise FrameError(next(iter(found.values())))
    if first is None:
        raise FrameError(f'{source.name}: holds no frame that is asked for')
    if masks:
        raise FrameError(f'{source.video}: ends before frame {min(masks)}, which has a mask')


def _refuse_lost(masks: Mapping[int, Path], data_errors: Mapping[int, str]) -> None:
    """Refuse a video that has lost a frame which has a mask."""
    for number in masks.keys() & data_errors.keys():
        raise FrameError(f'{data_errors[number]}; it has a mask: copy the video again')


def _mask(path: Path, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    mask = read_truth(path)
    if mask.shape != image.shape[:2]:
        sizes = f'{_words(mask.shape)}, its frame {_words(image.shape)}'
        raise FrameError(f'{path}: is {sizes}: both must have the size of the video')
    return mask


def _cut(image: NDArray[np.uint8], crop: Crop | None) -> NDArray[np.uint8]:
    """Take a part of (H, W, ...)."""
    if crop is None:
        return image
    bottom, right = crop.y + crop.height, crop.x + crop.width
    height, width = image.shape[:2]
    if bottom > height or right > width:
        raise FrameError(
            f'the crop {" ".join(map(str, crop))} reaches to {right},{bottom}, beyond an image '
            f'of {width}x{height}: it is X Y WIDTH HEIGHT, in pixels'
        )
    return image[crop.y : bottom, crop.x : right]


def _words(shape: Sequence[int]) -> str:
    return f'{shape[1]}x{shape[0]}'
