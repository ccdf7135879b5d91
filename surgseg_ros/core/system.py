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
    Limit malloc to two arenas for all threads.

    A model is loaded in one thread and used in another, both new each time. By default, glibc
    creates up to eight arenas per core, and each keeps the most memory it held: 40 life cycles of
    the demo model grew the process by a quarter.
    """
    _set((_M_ARENA_MAX, _ARENAS))


def keep_freed() -> None:
    """
    Keep freed memory for the next image, which saves milliseconds of clearing its pages.

    For programs that load one model and process many images. If models are replaced, as in the
    node, this would fragment the memory.
    """
    _set((_M_MMAP_THRESHOLD, _LARGEST), (_M_TRIM_THRESHOLD, _KEPT))


def _set(*options: tuple[int, int]) -> None:
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        mallopt = ctypes.CDLL(None).mallopt
        for name, value in options:
            mallopt(name, value)


def freeze_garbage() -> None:
    """
    Exclude what stays until the process ends, above all libraries, from garbage collection.

    These are 400,000 objects. A full collection of them, which may happen at any time, stops all
    threads for a quarter of a second: at 30 Hz, 8 frames arrive meanwhile, and DDS keeps 5.
    """
    gc.collect()
    gc.freeze()
    gc.collect()  # counts what is left: a quarter as many new objects trigger the next full one


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """
    Import large libraries without garbage collection, and call `freeze_garbage` afterwards.

    Imported objects stay, and collections during the import take a third of its time.

    :return: context manager.
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
    """Empty torch's cache of CUDA memory, if torch is imported."""
    if (torch := sys.modules.get('torch')) is None:
        return
    with contextlib.suppress(RuntimeError):  # the device may be gone
        torch.cuda.empty_cache()  # has no effect if no device is in use


def release_memory() -> None:
    """Free unused memory, on the host and on the device."""
    gc.collect()  # runtimes may contain reference cycles
    empty_device_cache()
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)


_SPINS: Final = '2000'
"""Iterations, enough for the gaps inside a network; the default of GNU OpenMP is 300,000."""


def limit_spinning() -> None:
    """
    Limit busy waiting between two operations of torch; call it before torch is imported.

    The threads of GNU OpenMP, torch's on Linux, wait for milliseconds in a busy loop by default.
    On two cores they took these from OpenVINO's threads, from DDS and from what reads and writes
    bags: 1080p over DDS took 27.5 ms at the median and 41 at the 99th percentile, and 24.6 and 30
    with this limit. Torch alone gets about 3 % slower. A value that is already set is kept.
    """
    if 'OMP_WAIT_POLICY' not in os.environ:
        os.environ.setdefault('GOMP_SPINCOUNT', _SPINS)
