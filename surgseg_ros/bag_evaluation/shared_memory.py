# SPDX-License-Identifier: Apache-2.0
"""Sends objects to other processes, with their arrays in a fixed number of shared blocks."""

import contextlib
import gc
import mmap
import os
import pickle
import weakref
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

_COLLECT_S: Final = 1.0


class Place(NamedTuple):
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
    place: Place | None


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
        """Allocate nothing yet."""
        self._file = os.memfd_create('surgseg_ros')
        self._memory: mmap.mmap | None = None

    def store(self, arrays: Sequence[pickle.PickleBuffer]) -> Place | None:
        """
        Store arrays here, instead of those before.

        :param arrays: from `pack`.
        :return: where they are; None if there are none.
        """
        if not arrays:
            return None
        spans, size = [], 0
        for array in arrays:
            spans.append((size, size + len(array.raw())))
            size = spans[-1][1]
        if self._memory is None or len(self._memory) < size:
            os.ftruncate(self._file, max(1, size))
            self._memory = mmap.mmap(self._file, max(1, size))
        for (start, end), array in zip(spans, arrays):
            self._memory[start:end] = array.raw()
        path = f'/proc/{os.getpid()}/fd/{self._file}'
        return Place(path, len(self._memory), tuple(spans))

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
    pickled, place = packed
    if place is None:
        return pickle.loads(pickled), None  # noqa: S301 - from a process of this program
    memory = maps.get(place.path)
    if memory is None or len(memory) < place.size:
        with Path(place.path).open('r+b') as file:
            memory = maps[place.path] = mmap.mmap(file.fileno(), place.size)
    whole = np.frombuffer(memory, np.uint8)
    arrays = [whole[start:end] for start, end in place.spans]
    return pickle.loads(pickled, buffers=arrays), whole  # noqa: S301 - see above


class DisconnectedError(Exception):
    """The process at the other end of a connection has ended."""


class Sender:
    """
    Sends objects to `received` in another process; waits while all blocks are in use there.

    :param connection: one end of a pipe for both directions.
    :param blocks: how many objects with arrays may be in use.
    """

    def __init__(self, connection: Connection, blocks: int) -> None:
        """Allocate nothing yet."""
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
    :raises DisconnectedError: if the other process ends before.
    """
    maps: dict[str, mmap.mmap] = {}
    while True:
        with _disconnecting():
            while not connection.poll(_COLLECT_S):
                gc.collect()  # the sender may wait for arrays that only reference cycles hold
            number, packed = connection.recv()
        value, memory = unpack(packed, maps)
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
        raise DisconnectedError from error


def _return_block(connection: Connection, number: int) -> None:
    """Send the number of a block; in any thread, since so short a message is written at once."""
    with contextlib.suppress(OSError):  # the other process does not need it any more
        connection.send_bytes(bytes([number]))
