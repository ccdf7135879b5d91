# SPDX-License-Identifier: Apache-2.0
"""
Whether packets of H.264 and HEVC are made of whole NAL units.

Three bytes of zeros never occur within one: the encoder breaks them up by a 3 (ITU-T H.264,
7.4.1). A sector of a disk that came back as zeros does hold them; decoders take them for an end,
and sometimes make an image of what was before it.
"""

import re
from typing import Final

_NEVER: Final = re.compile(rb'\x00\x00[\x00-\x02]')
_NEVER_BETWEEN_STARTS: Final = re.compile(rb'\x00\x00(?:\x02|\x00(?!\x00*\x01))')
_MOST_ZEROS: Final = 3
_LENGTHS: Final = {'h264': 4, 'hevc': 21}
"""Where the configuration record says of how many bytes the lengths are, less one."""


def length_bytes(codec: str, extradata: bytes | None) -> int | None:
    """
    Find how the packets of a stream are divided.

    :param codec: as FFmpeg names it.
    :param extradata: what goes before the stream.
    :return: of how many bytes the length before each unit is; 0 where units begin with start
        codes; None for a codec that has no such units.
    """
    if codec not in _LENGTHS:
        return None
    if not extradata or extradata[0] != 1 or len(extradata) <= _LENGTHS[codec]:
        return 0
    return 1 + (extradata[_LENGTHS[codec]] & 3)


def are_whole(data: bytes, length_size: int) -> bool:
    """
    Tell whether a packet is made of whole units, as far as that shows without decoding.

    :param data: the packet.
    :param length_size: see `length_bytes`.
    :return: False if it cannot be.
    """
    if not length_size:
        return _NEVER_BETWEEN_STARTS.search(data.rstrip(b'\0')) is None
    place = 0
    while place < len(data):
        start = place + length_size
        end = start + int.from_bytes(data[place:start], 'big')
        if start > len(data) or end > len(data):
            return False
        unit = data[start:end].rstrip(b'\0')
        # The last byte is never 0; but up to three of them belong to a start code that was there.
        if end - start - len(unit) > _MOST_ZEROS or _NEVER.search(unit):
            return False
        place = end
    return True
