# SPDX-License-Identifier: Apache-2.0
"""Worker processes that end with their parent process; imports nothing slow."""

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
"""A terminal sends these to all of its processes; the parent decides about its workers."""

_OF_PARENT: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_beginning = threading.RLock()
"""Held while processes are started, so that all of them are known when they are ended."""

_children: set['subprocess.Popen[str]'] = set()


def exit_with_parent() -> None:
    """End this process when its parent is killed, instead of waiting forever."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def deaf_to_terminal() -> Iterator[None]:
    """
    Start processes that ignore Ctrl-C from their first moment on.

    A process inherits its blocked signals; a handler, or an initializer of a pool, would be
    installed only after seconds of imports, and Ctrl-C before that shows a traceback per worker.
    Signals for this process wait until all have started: a process that gets only half of its
    input shows a traceback, too.
    """
    with _beginning, _signals_later():
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _LEFT_TO_PARENT)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _signals_later() -> Iterator[None]:
    """Have Python's handlers of signals act at the end of the block, in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield  # where no handler acts
        return
    came: list[int] = []
    handlers = {number: signal.getsignal(number) for number in _OF_PARENT}
    ours = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in ours:
        signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)
        for first in came[:1]:
            signal.raise_signal(first)


@contextmanager
def worker_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """
    Yield a pool of processes; if the block raises, they are killed.

    Submit within `deaf_to_terminal`, because that starts the processes.

    :param workers: how many processes.
    :return: context manager that yields the pool.
    """
    # A forked OpenCV or torch may wait for threads that were not forked with it.
    context = multiprocessing.get_context('spawn')
    pool = ProcessPoolExecutor(workers, context, initializer=exit_with_parent)
    try:
        yield pool
    except BaseException:
        end_pool(pool)
        raise
    pool.shutdown()


def end_pool(pool: ProcessPoolExecutor) -> None:
    """
    Kill the processes of a pool, and wait for them.

    :param pool: the pool.
    """
    # ProcessPoolExecutor.kill_workers does this, but only from Python 3.14 on.
    with _beginning:
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
    """Kill all child processes, before this one exits without unwinding its stack."""
    for worker in multiprocessing.active_children():
        worker.kill()
    for child in _children:
        child.kill()
