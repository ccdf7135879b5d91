# SPDX-License-Identifier: Apache-2.0
"""Zstandard, in which rosbag2 packs files and messages, of whichever Python this is."""

import sys
from typing import Final

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ['MAGIC', 'zstd']

MAGIC: Final = b'\x28\xb5\x2f\xfd'
"""How packed data begins. No CDR does: its first byte is 0."""
