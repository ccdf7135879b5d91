# SPDX-License-Identifier: Apache-2.0
"""Functions that processes of a pool can import."""

import contextlib
import os
import signal
import tempfile
import threading
import time

import numpy as np

from surgseg_ros.bag_evaluation.worker_pool import WorkerPool
from surgseg_ros.messages.encodings import ImageError


def described(array, number=0):
    if number < 0:
        raise ValueError(f'{number} is negative')
    return os.getpid(), array.dtype.str, array.shape, int(array.sum()) + number


def wait_for(path, array):
    while not path.exists():
        time.sleep(0.01)
    return int(array.sum())


def die_at(index, parent, array):
    if index == 3 and os.getpid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
    return index + int(array.sum())


def with_a_killed_worker(items):
    """Lose a process of a pool in the process that takes the items."""
    with WorkerPool(1) as pool:
        return [pool.begin(die_at, 3, os.getpid(), array)() for array in items]


def numbered(count):
    for number in range(count):
        yield os.getpid(), np.full((number % 7, 5), number)


def noted(count, folder):
    """Yield arrays, and note in a folder how many."""
    for number in range(count):
        yield os.getpid(), np.full((4, 5), number)
        (folder / f'{number}').touch()


def summed(items, folder=None):
    """Return the sum of arrays; while it runs, there is a folder."""
    with tempfile.TemporaryDirectory() if folder is None else made(folder):
        sums = [int(array.sum()) for array in items]
    return os.getpid(), sum(sums), len(sums)


@contextlib.contextmanager
def made(folder):
    folder.mkdir()
    try:
        yield
    finally:
        folder.rmdir()


def failing(count, items=None):
    """Iterate over numbers, or take items, and then fail."""
    if items is None:
        return counted(count)
    for _ in zip(range(count), items):
        pass
    raise ValueError(f'{count} is the end')


def counted(count):
    for number in range(count):
        yield np.full((4, 5), number)
    raise ValueError(f'{count} is the end')


def killed(items=()):
    os.kill(os.getpid(), signal.SIGKILL)
    return items


def killed_after(count):
    """Yield arrays until this process is killed."""
    for number in range(count):
        yield np.full((4, 5), number)
    os.kill(os.getpid(), signal.SIGKILL)


def leaving(items=()):
    os._exit(3)


def refusing(items=()):
    """Raise an error that can be pickled, but not restored."""
    error = ImageError('it is not an image', 'size')
    error.add_note('a note')
    raise error


def locked(items=()):
    """Raise an error that cannot be pickled."""
    raise ValueError('it is locked', threading.Lock())
