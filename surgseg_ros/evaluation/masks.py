# SPDX-License-Identifier: Apache-2.0
"""Masks as files."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.bounds import told


class MaskError(ValueError):
    """A file that is no mask; the message names it and says what it is."""


def read_mask(path: Path) -> NDArray[np.uint8]:
    """
    Decode a mask.

    :param path: an 8-bit grey PNG.
    :return: (H, W) uint8.
    :raises MaskError: if it is another kind of file.
    """
    try:
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise MaskError(f'{path}: {told(error)}') from error
    if mask is None or mask.ndim != 2 or mask.dtype != np.uint8:
        found = 'no picture' if mask is None else f'of shape {mask.shape} and {mask.dtype}'
        raise MaskError(
            f'{path}: is {found}; a mask is an 8-bit grey PNG with the class index as grey value, '
            'without palette'
        )
    return mask.astype(np.uint8, copy=False)
