# SPDX-License-Identifier: Apache-2.0
"""Functions that processes of a pool can import."""

import os
import signal
import time


def described(array, number=0):
    if number < 0:
        raise ValueError(f'{number} is negative')
    return os.getpid(), array.dtype.str, array.shape, int(array.sum()) + number


def wait_for(path, array):
    while not path.exists():
        time.sleep(0.01)
    return int(array.sum())


def die_at(place, parent, array):
    if place == 3 and os.getpid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
    return place + int(array.sum())
