# SPDX-License-Identifier: Apache-2.0
"""Memory that stays is not looked at again and again; what was freed can go to the system."""

import contextlib
import ctypes
import gc
from typing import Final

import torch

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
"""glibc's malloc.h."""

_ARENAS: Final = 2
_LARGEST: Final = 32 << 20
"""The most that glibc takes for a threshold of M_MMAP_THRESHOLD; five images of 1920x1080 rgb8."""
_KEPT: Final = 256 << 20


def arrange() -> None:
    """
    Let all threads share two stores of memory, which keep what is freed for the next image.

    A model is loaded in one thread and used in another, both new each time. By default glibc gives
    each thread a store of its own, up to eight for each core, and each keeps the most it held:
    40 life cycles of the demo model grew the process by a quarter. It gives large blocks back to
    the system, on the other hand, which then clears each page of the next image: milliseconds.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_ARENA_MAX, _ARENAS)
        mallopt(_M_MMAP_THRESHOLD, _LARGEST)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)


def settle() -> None:
    """
    Spare the garbage collector what stays until the process ends, the libraries above all.

    They are 400,000 objects. A full collection among them, which comes at any time, stops every
    thread for a quarter of a second: at 30 Hz, 8 frames come meanwhile, and DDS keeps 5.
    """
    gc.collect()
    gc.freeze()


def give_back() -> None:
    """Free what nobody holds any more, on the host and on the device."""
    gc.collect()  # what runs a network may refer to itself
    with contextlib.suppress(RuntimeError):  # the device may be gone
        torch.cuda.empty_cache()  # nothing, where no device is in use
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)
