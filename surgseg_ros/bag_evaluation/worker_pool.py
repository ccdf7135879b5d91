# SPDX-License-Identifier: Apache-2.0
"""
Processes that work in parallel.

Finding instruments and scoring hold the GIL for tens of milliseconds per frame of 1080p, so that
threads would not help. Arrays reach the processes in shared memory, of which there is a fixed
number of blocks; results are small and come back pickled.
"""

import functools
import logging
import mmap
import multiprocessing
import queue
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Any, Final, ParamSpec, TypeVar

from surgseg_ros.bag_evaluation.shared_memory import Block, Packed, pack, unpack
from surgseg_ros.core.processes import (
    end_pool,
    exit_with_parent,
    ignore_terminal_signals,
    keep_freed,
)

P = ParamSpec('P')
T = TypeVar('T')

_LOG: Final = logging.getLogger(__name__)


class WorkerPool:
    """
    A pool of processes, which may be empty if there are no cores for it.

    If a process is killed, its calls, and all later ones, are made in this process.

    :param count: number of processes; with 0, a result is computed when it is requested.
    """

    def __init__(self, count: int = 0) -> None:
        """Start processes only when there is work."""
        self.count = count
        # A forked child would wait for threads of OpenCV or torch that do not exist in it.
        context = multiprocessing.get_context('spawn')
        self._pool = ProcessPoolExecutor(count, context, _initialize) if count else None
        self._is_broken = False
        self._blocks = [Block() for _ in range(2 * count)]
        self._free: queue.SimpleQueue[Block] = queue.SimpleQueue()
        for block in self._blocks:
            self._free.put(block)

    def begin(
        self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> Callable[[], T]:
        """
        Submit a call; wait while all blocks of memory are in use.

        :param function: the function, of a module, and its arguments, which must be picklable; it
            must not keep or return arrays that it gets.
        :return: a function that waits for the call, and returns its result or raises its error.
        """
        call = functools.partial(function, *args, **kwargs)
        if self._pool is None:
            return call
        block = self._free.get()
        try:
            with ignore_terminal_signals():
                pickled, arrays = pack(call)
                packed = Packed(pickled, block.store(arrays))
                future: Future[Any] = self._pool.submit(_run, packed)
        except BaseException as error:
            self._free.put(block)
            if isinstance(error, BrokenProcessPool):
                return call
            raise
        future.add_done_callback(lambda _: self._free.put(block))
        return functools.partial(self._result, future, call)

    def _result(self, future: 'Future[Any]', call: Callable[[], T]) -> T:
        try:
            result: T = future.result()
        except BrokenProcessPool:
            if not self._is_broken:
                _LOG.warning('a worker process was killed: check the memory; this process goes on')
            self._is_broken = True
            return call()
        return result

    def __enter__(self) -> 'WorkerPool':
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for the processes; after an error, kill them."""
        if self._pool is None:
            return
        if error is None:
            self._pool.shutdown()
        else:
            end_pool(self._pool)
        for block in self._blocks:
            block.close()


def _initialize() -> None:
    exit_with_parent()
    keep_freed()


_maps: dict[str, mmap.mmap] = {}
"""The blocks of the parent that this process has mapped, by path; as many as the parent has."""


def _run(packed: Packed) -> object:
    """Make a call in a process of the pool."""
    call, _ = unpack(packed, _maps)
    return call()
