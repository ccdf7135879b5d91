# SPDX-License-Identifier: Apache-2.0
"""Worker processes that end with the process that began them; imports nothing that takes time."""

import multiprocessing
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Final

_LEFT_TO_PARENT: Final = (signal.SIGINT, signal.SIGHUP)
"""A terminal sends these to all of its processes; the parent decides what becomes of a worker."""

_children: set['subprocess.Popen[str]'] = set()


def end_with_parent() -> None:
    """End this process when the one that began it is killed, instead of waiting for ever."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def deaf_to_terminal() -> Iterator[None]:
    """
    Begin processes that Ctrl-C does not reach, from their first moment on.

    A process inherits which signals are held back; a handler, or an initializer of a pool, would
    come only after seconds of imports, and Ctrl-C in them shows a traceback for each worker.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _LEFT_TO_PARENT)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def worker_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """
    Give a pool of processes; if the block raises, they are ended amid their work.

    Submit within `deaf_to_terminal`: that is when processes begin.

    :param workers: how many processes.
    :return: context with the pool.
    """
    # A forked OpenCV or torch may wait for threads that were not forked with it.
    context = multiprocessing.get_context('spawn')
    pool = ProcessPoolExecutor(workers, context, initializer=end_with_parent)
    try:
        yield pool
    except BaseException:
        end_pool(pool)
        raise
    pool.shutdown()


def end_pool(pool: ProcessPoolExecutor) -> None:
    """
    End a pool's processes amid their work, and wait for them.

    :param pool: the pool.
    """
    # ProcessPoolExecutor.kill_workers does this, but only from Python 3.14 on.
    processes = list((pool._processes or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.kill()
    for process in processes:
        process.join()


def register(child: 'subprocess.Popen[str]') -> None:
    """
    Remember a process, to be killed if this one has to end at once.

    :param child: the process.
    """
    _children.add(child)


def kill_children() -> None:
    """Kill all processes that this one has begun, in one that ends without unwinding its stack."""
    for worker in multiprocessing.active_children():
        worker.kill()
    for child in _children:
        child.kill()
