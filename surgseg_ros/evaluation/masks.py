# SPDX-License-Identifier: Apache-2.0
"""Masks as files: one way to read them, for all that do."""

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.image_files import decode_mask, no_classes
from surgseg_ros.core.labels import CLASS_COUNT, NO_DECISION

_NAMED: Final = 10
"""So many values are said; the rest is counted."""


class MaskError(ValueError):
    """A file that is no mask; the message names it and says what it is."""


def read_mask(path: Path) -> NDArray[np.uint8]:
    """
    Decode a mask that a model made.

    :param path: a grey PNG of 8, 4 or 2 bits.
    :return: (H, W) uint8 class index or NO_DECISION.
    :raises MaskError: if it is another kind of file, damaged, or holds another value.
    """
    return _checked(path, undecided=True)


def read_truth(path: Path) -> NDArray[np.uint8]:
    """
    Decode a mask that says what is there.

    :param path: a grey PNG of 8, 4 or 2 bits.
    :return: (H, W) uint8 class index.
    :raises MaskError: if it is another kind of file, damaged, or holds another value.
    """
    return _checked(path, undecided=False)


def _checked(path: Path, *, undecided: bool) -> NDArray[np.uint8]:
    mask = read_values(path)
    if wrong := wrong_values(path, mask, undecided=undecided):
        raise MaskError(wrong)
    return mask


def read_values(path: Path) -> NDArray[np.uint8]:
    """
    Decode a mask, whatever its values are.

    :param path: a grey PNG of 8, 4 or 2 bits.
    :return: (H, W) uint8.
    :raises MaskError: if it is another kind of file, or damaged.
    """
    try:
        return decode_mask(path.read_bytes())
    except OSError as error:
        raise MaskError(f'{path}: cannot be read ({error.strerror})') from error
    except ValueError as error:
        raise MaskError(f'{path}: {error}') from error


def wrong_values(path: Path, mask: NDArray[np.uint8], *, undecided: bool) -> str | None:
    """
    Say which values of a mask are no class.

    :param path: where it is from.
    :param mask: (H, W) uint8.
    :param undecided: whether NO_DECISION may be among them.
    :return: a sentence, or None.
    """
    others = no_classes(mask, undecided=undecided)
    if not others:
        return None
    more = f' and {len(others) - _NAMED} more' if len(others) > _NAMED else ''
    values = f'value{"s"[len(others) == 1 :]} {", ".join(map(str, others[:_NAMED]))}{more}'
    expected = f'0 to {CLASS_COUNT - 1}' + (f' or {NO_DECISION}' if undecided else '')
    return f'{path}: holds the {values}, expected {expected}: write class indices as grey values'
