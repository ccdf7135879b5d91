# SPDX-License-Identifier: Apache-2.0
"""Checks the images and masks that callers of the Python API pass; cheap to import."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_EXPECTED: Final = 'expected (H, W, 3) uint8 RGB'


def check_image(image: object) -> None:
    """
    Check that an object is an RGB image.

    :param image: anything.
    :raises TypeError: if it is not a NumPy array; it names how to make one.
    :raises ValueError: if it is not (H, W, 3) uint8; it names how to convert it.
    """
    if not isinstance(image, np.ndarray):
        what = 'None' if image is None else f'of type {type(image).__name__}'
        raise TypeError(
            f'the image is {what}, expected a NumPy array, (H, W, 3) uint8 RGB'
            + _remedy_of_type(image)
        )
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(f'the image is {image.shape} {image.dtype}, {_EXPECTED}{_remedy(image)}')


def check_mask(mask: NDArray[Any], size: tuple[int, int]) -> None:
    """
    Check that an array is a mask of an image.

    :param mask: anything.
    :param size: (H, W) of the image in pixels.
    :raises TypeError: if it is not a NumPy array.
    :raises ValueError: if it is not (H, W) uint8 of that size.
    """
    if not isinstance(mask, np.ndarray):
        raise TypeError(f'the mask is of type {type(mask).__name__}, expected a NumPy array')
    if mask.shape != size or mask.dtype != np.uint8:
        raise ValueError(
            f'the mask is {mask.shape} {mask.dtype}, expected {size} uint8, the size of its image'
        )


def grey_image(size: tuple[int, int]) -> NDArray[np.uint8]:
    """
    Create an image without content.

    :param size: its (H, W) in pixels.
    :return: (H, W, 3) uint8 RGB.
    :raises ValueError: if `size` has other than two numbers, or one below 1.
    """
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f'size is {size}, expected (height, width) in pixels')
    return np.full((*size, 3), 127, np.uint8)


def _remedy_of_type(image: object) -> str:
    """Return how to make an array of an object; empty if unknown."""
    library = type(image).__module__.partition('.')[0]
    if image is None:
        return ': cv2.imread returns None for a file that it cannot read, so check the path'
    if isinstance(image, (str, bytes)) or hasattr(image, '__fspath__'):
        return ': read the file, cv2.imread(path)[..., ::-1]'
    if library == 'torch':
        return ': convert it, image.cpu().numpy()'
    if library == 'PIL':
        return ": convert it, np.asarray(image.convert('RGB'))"
    return ': convert it, np.array(image, np.uint8)' if isinstance(image, (list, tuple)) else ''


def _remedy(image: NDArray[Any]) -> str:
    """Return advice for common mistakes; empty for others."""
    if not image.size:
        return ': it is empty'
    if image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 1):
        return ': repeat a grey image three times, cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)'
    if image.ndim == 4:
        return ': pass one image, image[0], or all to segment_all, list(images)'
    if image.ndim == 3 and image.shape[0] == 3 and image.shape[2] != 3:
        return ': put the channels last, image.transpose(1, 2, 0)'
    if image.ndim == 3 and image.shape[2] == 4:
        return ': leave alpha out, image[..., :3]'
    if image.ndim == 3 and image.shape[2] == 3:
        return ': scale it to 0..255, and convert it to uint8'
    return ''
