# SPDX-License-Identifier: Apache-2.0
"""How a process uses memory and cores; light to import."""

import contextlib
import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
"""glibc's malloc.h."""

_ARENAS: Final = 2
_LARGEST: Final = 32 << 20
"""The most that glibc takes for M_MMAP_THRESHOLD; five images of 1920x1080 rgb8."""
_KEPT: Final = 256 << 20


def limit_arenas() -> None:
    """
    Let all threads share two stores of memory.

    A model is loaded in one thread and used in another, both new each time. By default glibc gives
    each thread a store of its own, up to eight for each core, and each keeps the most it held:
    40 life cycles of the demo model grew the process by a quarter.
    """
    _set((_M_ARENA_MAX, _ARENAS))


def keep_freed() -> None:
    """
    Keep what is freed for the next image, rather than have its pages cleared again: milliseconds.

    For what loads one model and works through many images. Where models come and go, as in the
    node, their remains would lie between the images.
    """
    _set((_M_MMAP_THRESHOLD, _LARGEST), (_M_TRIM_THRESHOLD, _KEPT))


def _set(*options: tuple[int, int]) -> None:
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        mallopt = ctypes.CDLL(None).mallopt
        for name, value in options:
            mallopt(name, value)


def freeze_garbage() -> None:
    """
    Spare the garbage collector what stays until the process ends, the libraries above all.

    They are 400,000 objects. A full collection among them, which comes at any time, stops every
    thread for a quarter of a second: at 30 Hz, 8 frames come meanwhile, and DDS keeps 5.
    """
    gc.collect()
    gc.freeze()
    gc.collect()  # which counts what is left: a quarter as many more bring the next full one


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """
    Import large libraries without looking for garbage in them, and `freeze_garbage` afterwards.

    What is imported stays, and looking through it again and again takes a third of the time.

    :return: context to import in.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
    freeze_garbage()


def empty_device_cache() -> None:
    """Free what torch keeps on a CUDA device for later; without torch there is nothing."""
    if (torch := sys.modules.get('torch')) is None:
        return
    with contextlib.suppress(RuntimeError):  # the device may be gone
        torch.cuda.empty_cache()  # nothing, where no device is in use


def release_memory() -> None:
    """Free what nobody holds any more, on the host and on the device."""
    gc.collect()  # what runs a network may refer to itself
    empty_device_cache()
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)


_SPINS: Final = '2000'
"""Turns of the loop, to bridge the gaps inside a network; GNU OpenMP's own number is 300,000."""


def limit_spinning() -> None:
    """
    Leave the cores to others between two operations of torch; before torch is imported.

    The threads of GNU OpenMP, torch's on Linux, wait for milliseconds in a busy loop by default.
    On two cores they took these from OpenVINO's threads, from DDS and from what reads and writes
    bags: 1080p over DDS took 27.5 ms at the median and 41 at the 99th percentile, and 24.6 and 30
    so. Torch alone loses about three hundredths. What the environment says stays.
    """
    if 'OMP_WAIT_POLICY' not in os.environ:
        os.environ.setdefault('GOMP_SPINCOUNT', _SPINS)
