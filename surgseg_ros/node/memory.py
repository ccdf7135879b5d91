# SPDX-License-Identifier: Apache-2.0
"""What is loaded is not looked at again and again; what a model held goes back to the system."""

import contextlib
import ctypes
import gc
from typing import Final

import torch

_M_ARENA_MAX: Final = -8
"""glibc's malloc.h."""

_ARENAS: Final = 2


def limit_arenas() -> None:
    """
    Let all threads share two stores of memory.

    A model is loaded in one thread and used in another, both new each time. By default glibc gives
    each thread a store of its own, up to eight for each core, and each keeps the most it held:
    40 life cycles of the demo model grew the process by a quarter.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS)


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
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)
