# SPDX-License-Identifier: Apache-2.0
"""The class table of SAR-RARP50, its names and its colours."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

CLASS_NAMES: Final = (
    'background',
    'tool clasper',
    'tool wrist',
    'tool shaft',
    'suturing needle',
    'thread',
    'suction tool',
    'needle holder',
    'clamps',
    'catheter',
)
"""Class index to name, in the order of the SAR-RARP50 data set."""

CLASS_COUNT: Final = len(CLASS_NAMES)

BACKGROUND: Final = 0
CLASPER: Final = 1
WRIST: Final = 2
SHAFT: Final = 3
NEEDLE: Final = 4
THREAD: Final = 5
SUCTION: Final = 6
HOLDER: Final = 7
CLAMPS: Final = 8
CATHETER: Final = 9

ROBOTIC_TOOL: Final = 10
"""A tool made of clasper, wrist and shaft; occurs in detections only, never in a mask."""

ROBOTIC_TOOL_PARTS: Final = (CLASPER, WRIST, SHAFT)

NO_DECISION: Final = 255
"""Mask value of a pixel without a decision: its class must not be used."""

LABELS: Final = {
    **dict(enumerate(CLASS_NAMES)),
    ROBOTIC_TOOL: 'robotic tool',
    NO_DECISION: 'no decision',
}
"""Name of each value of a mask or label of a detection."""


KEYPOINT_LABELS: Final = {
    20: 'tip',
    21: 'left_jaw_tip',
    22: 'right_jaw_tip',
    23: 'jaw_pivot',
    24: 'wrist_joint',
    25: 'shaft_entry',
    26: 'left_shaft_edge',
    27: 'right_shaft_edge',
    28: 'shaft_axis',
    29: 'needle_point',
    30: 'needle_tail',
    31: 'needle_middle',
    32: 'needle_centre',
    33: 'needle_thread_end',
    34: 'thread_end',
    35: 'thread_line',
    36: 'centre',
    60: 'hidden',
    61: 'beyond_image',
}
"""Name of each number in the topic `keypoints`; the last two are flags of a keypoint."""

HIDDEN: Final = 60
BEYOND_IMAGE: Final = 61

# Based on Paul Tol's qualitative schemes (SRON/EPS/TN/09-002), shifted until any two classes
# differ over tissue and metal, also with a colour vision deficiency; a test checks this.
_COLOURS: Final = {
    BACKGROUND: 0x000000,
    CLASPER: 0x66CCEE,
    WRIST: 0xDDD3AA,
    SHAFT: 0x4475AA,
    NEEDLE: 0x4AFF6D,
    THREAD: 0xFFEE33,
    SUCTION: 0x8F2FD5,
    HOLDER: 0x0D5752,
    CLAMPS: 0x322187,
    CATHETER: 0xEF7632,
    ROBOTIC_TOOL: 0xFFFFFF,
    NO_DECISION: 0xBBBBBB,
}


def _palette() -> NDArray[np.uint8]:
    palette = np.full((256, 3), 255, np.uint8)
    for label, colour in _COLOURS.items():
        palette[label] = colour >> 16, colour >> 8 & 255, colour & 255
    palette.flags.writeable = False
    return palette


PALETTE: Final = _palette()
"""(256, 3) uint8 RGB: the colour of each mask value; values without a meaning are white."""


def class_table_difference(classes: tuple[str, ...]) -> str:
    """
    Describe the first difference of a model's class table from CLASS_NAMES.

    :param classes: another table.
    :return: the difference, and the remedy.
    """
    for index in range(max(len(classes), len(CLASS_NAMES))):
        found = classes[index] if index < len(classes) else None
        expected = CLASS_NAMES[index] if index < len(CLASS_NAMES) else None
        if found != expected:
            break
    return (
        f'classes[{index}] is {found!r}, expected {expected!r}: the masks would be mislabelled; '
        'train the model with the class table of SAR-RARP50'
    )
