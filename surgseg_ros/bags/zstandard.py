# SPDX-License-Identifier: Apache-2.0
"""Zstandard, in which rosbag2 packs files and messages, of whichever Python this is."""

import sys
from typing import Final

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ['MAGIC', 'MOST_BYTES', 'unpack', 'zstd']

MAGIC: Final = b'\x28\xb5\x2f\xfd'
"""How packed data begins. No CDR does: its first byte is 0."""

MOST_BYTES: Final = 2**30
"""What unpacks to more is neither a message nor a chunk: the largest image takes 800 MB."""


def unpack(data: bytes | memoryview, most: int = MOST_BYTES) -> bytes:
    """
    Unpack a message or a chunk, within bounds: a thousandth of a byte may stand for each.

    :param data: one frame of Zstandard.
    :param most: bytes at most.
    :return: what it holds.
    :raises zstd.ZstdError: if it is damaged, cut off, or holds more.
    """
    unpacker = zstd.ZstdDecompressor()
    unpacked: bytes = unpacker.decompress(data, max_length=most + 1)
    if len(unpacked) > most:
        raise zstd.ZstdError(f'it unpacks to more than {most} bytes')
    if not unpacker.eof:
        raise zstd.ZstdError('it is cut off')
    return unpacked
