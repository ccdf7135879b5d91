# SPDX-License-Identifier: Apache-2.0
"""
Processes that work in parallel, and the memory that they share.

Finding instruments and scoring hold the GIL for tens of milliseconds per frame of 1080p, so that
threads would not help. Arrays reach the processes in shared memory, of which there is a fixed
number of blocks; results are small and come back pickled.
"""

import contextlib
import functools
import gc
import logging
import mmap
import multiprocessing
import os
import pickle
import queue
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, ParamSpec, TypeVar

import numpy as np

from surgseg_ros.core.errors import describe
from surgseg_ros.core.processes import (
    end_pool,
    exit_with_parent,
    ignore_terminal_signals,
    keep_freed,
)

_COLLECT_S: Final = 1.0

_ALIGNMENT: Final = 64
"""Bytes; a cache line, and the widest vectors of CPUs."""

_MAX_BLOCKS: Final = 255
"""Maximum number of blocks of a sender; their numbers are sent back as one byte."""


class ArraySpans(NamedTuple):
    """
    Where the arrays of an object are.

    :param path: the file of the block.
    :param size: size of the file in bytes.
    :param spans: first byte and end of each array.
    """

    path: str
    size: int
    spans: tuple[tuple[int, int], ...]


class Packed(NamedTuple):
    """A pickled object, and where its arrays are; None if it has none."""

    pickled: bytes
    spans: ArraySpans | None


def pack(value: object) -> tuple[bytes, list[pickle.PickleBuffer]]:
    """
    Pickle an object without its arrays.

    :param value: the object.
    :return: the pickled object, and its arrays.
    """
    arrays: list[pickle.PickleBuffer] = []
    return pickle.dumps(value, 5, buffer_callback=arrays.append), arrays


class Block:
    """Shared memory in an anonymous file, which vanishes with the processes; grows as needed."""

    def __init__(self) -> None:
        self._file = os.memfd_create('surgseg_ros')
        self._memory: mmap.mmap | None = None

    def store(self, arrays: Sequence[pickle.PickleBuffer]) -> ArraySpans | None:
        """
        Store arrays here, instead of those before.

        :param arrays: from `pack`.
        :return: where they are; None if there are none.
        """
        if not arrays:
            return None
        spans, size = [], 0
        for array in arrays:
            start = -(-size // _ALIGNMENT) * _ALIGNMENT
            size = start + len(array.raw())
            spans.append((start, size))
        if self._memory is None or len(self._memory) < size:
            os.ftruncate(self._file, max(1, size))
            self._memory = mmap.mmap(self._file, max(1, size))
        whole = np.frombuffer(self._memory, np.uint8)
        for (start, end), array in zip(spans, arrays):
            whole[start:end] = np.frombuffer(array.raw(), np.uint8)  # without the GIL
        path = f'/proc/{os.getpid()}/fd/{self._file}'
        return ArraySpans(path, len(self._memory), tuple(spans))

    def close(self) -> None:
        """Free the memory, when no other process uses it."""
        os.close(self._file)
        self._memory = None


def unpack(packed: Packed, maps: dict[str, mmap.mmap]) -> tuple[Any, Any]:
    """
    Restore an object; its arrays are views of its block, valid until that is used again.

    :param packed: the object.
    :param maps: the blocks that are already mapped, by path; the object's block is added.
    :return: the object, and what exists as long as its arrays do: None if there are none.
    """
    pickled, spans = packed
    if spans is None:
        return pickle.loads(pickled), None  # noqa: S301 - from a process of this program
    memory = maps.get(spans.path)
    if memory is None or len(memory) < spans.size:
        with Path(spans.path).open('r+b') as file:
            memory = maps[spans.path] = mmap.mmap(file.fileno(), spans.size)
    whole = np.frombuffer(memory, np.uint8)
    arrays = [whole[start:end] for start, end in spans.spans]
    return pickle.loads(pickled, buffers=arrays), whole  # noqa: S301 - see above


class DisconnectedError(Exception):
    """The process at the other end of a connection has ended, or does not need more."""


class Sender:
    """
    Sends objects to `received` in another process; waits while all blocks are in use there.

    :param connection: one end of a pipe for both directions.
    :param blocks: how many objects with arrays may be in use, at most 255.
    :raises ValueError: if it is larger.
    """

    def __init__(self, connection: Connection, blocks: int) -> None:
        if blocks > _MAX_BLOCKS:
            raise ValueError(f'{blocks} blocks were requested: at most {_MAX_BLOCKS} are possible')
        self._connection = connection
        self._blocks = [Block() for _ in range(blocks)]
        self._free = list(range(blocks))

    def send(self, value: object) -> None:
        """
        Send an object.

        :param value: the object; None is the last.
        :raises DisconnectedError: if the other process has ended.
        """
        pickled, arrays = pack(value)
        number = self._take() if arrays else 0
        packed = Packed(pickled, self._blocks[number].store(arrays))
        with _disconnecting():
            self._connection.send((number, packed))

    def _take(self) -> int:
        """Return the number of a free block; prefer those that were used before."""
        with _disconnecting():
            while not self._free or self._connection.poll():
                self._free.append(self._connection.recv_bytes()[0])
        return self._free.pop()

    def finish(self) -> None:
        """Send None, and wait until the other process has received all, and closes the pipe."""
        with contextlib.suppress(DisconnectedError), _disconnecting():
            self.send(None)
            while True:
                self._connection.recv_bytes()

    def close(self) -> None:
        """Close the pipe, and free the memory."""
        self._connection.close()
        for block in self._blocks:
            block.close()


def received(connection: Connection) -> Iterator[Any]:
    """
    Receive the objects of a `Sender`; a block is used again when no array refers to it.

    :param connection: the other end of its pipe.
    :return: the objects in order, up to None.
    :raises DisconnectedError: if the other process ends before, or its memory cannot be mapped.
    """
    maps: dict[str, mmap.mmap] = {}
    while True:
        with _disconnecting():
            while not connection.poll(_COLLECT_S):
                gc.collect()  # the sender may wait for arrays that only reference cycles hold
            number, packed = connection.recv()
            value, memory = unpack(packed, maps)  # the memory ends with the sender
        if value is None:
            return
        if memory is not None:
            weakref.finalize(memory, _return_block, connection, number).atexit = False
        del memory
        yield value
        del value


@contextlib.contextmanager
def _disconnecting() -> Iterator[None]:
    try:
        yield
    except (EOFError, OSError) as error:
        raise DisconnectedError(
            f'lost the connection to another process: {describe(error)}'
        ) from error


def _return_block(connection: Connection, number: int) -> None:
    """Send the number of a block; in any thread, since so short a message is written at once."""
    with contextlib.suppress(OSError):  # the other process does not need it any more
        connection.send_bytes(bytes([number]))


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
                # Where logging is not configured, as in the process that collects, on stderr.
                _LOG.warning(
                    'a process that finds instruments was killed: check the memory; '
                    'the evaluation continues without it'
                )
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
