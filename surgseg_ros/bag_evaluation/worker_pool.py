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
import os
import pickle
import queue
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, ParamSpec, TypeVar

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
        self._blocks = [_Block() for _ in range(2 * count)]
        self._free: queue.SimpleQueue[_Block] = queue.SimpleQueue()
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
                future: Future[Any] = self._pool.submit(_run, block.store(call))
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


class _Call(NamedTuple):
    """A pickled call whose arrays are in a file, at `spans`."""

    path: str
    size: int
    pickled: bytes
    spans: tuple[tuple[int, int], ...]


class _Block:
    """Shared memory in an anonymous file, which vanishes with this process; grows as needed."""

    def __init__(self) -> None:
        self._file = os.memfd_create('surgseg_ros')
        self._memory: mmap.mmap | None = None

    def store(self, call: Callable[[], object]) -> _Call:
        """Store the arrays of a call here, instead of those of an earlier one."""
        arrays: list[pickle.PickleBuffer] = []
        pickled = pickle.dumps(call, 5, buffer_callback=arrays.append)
        spans, size = [], 0
        for array in arrays:
            spans.append((size, size + len(array.raw())))
            size = spans[-1][1]
        if size > (0 if self._memory is None else len(self._memory)):
            os.ftruncate(self._file, size)
            self._memory = mmap.mmap(self._file, size)
        for (start, end), array in zip(spans, arrays):
            if self._memory is not None:
                self._memory[start:end] = array.raw()
        path = f'/proc/{os.getpid()}/fd/{self._file}'
        return _Call(path, size, pickled, tuple(spans))

    def close(self) -> None:
        """Free the memory."""
        os.close(self._file)
        self._memory = None


def _initialize() -> None:
    exit_with_parent()
    keep_freed()


_blocks: dict[str, mmap.mmap] = {}
"""The blocks of the parent that this process has mapped, by path; as many as the parent has."""


def _run(call: _Call) -> object:
    """Make a call in a process of the pool."""
    memory = memoryview(_mapped(call) if call.size else b'')
    arrays = [memory[start:end] for start, end in call.spans]
    function: Any = pickle.loads(call.pickled, buffers=arrays)  # noqa: S301 - from the parent
    return function()


def _mapped(call: _Call) -> mmap.mmap:
    memory = _blocks.get(call.path)
    if memory is None or len(memory) < call.size:
        with Path(call.path).open('r+b') as file:
            memory = _blocks[call.path] = mmap.mmap(file.fileno(), call.size)
    return memory
