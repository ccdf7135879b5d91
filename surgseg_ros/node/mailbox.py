# SPDX-License-Identifier: Apache-2.0
"""Frames that wait for the worker, and the generation that they belong to."""

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple


class Generation:
    """Counts changes of state; a result of an earlier generation is discarded."""

    def __init__(self) -> None:
        """Start at 0."""
        self._lock = threading.Lock()
        self.number = 0

    def advance(self) -> int:
        """
        End the present generation; waits for a publication in progress.

        :return: the number of the next generation.
        """
        with self._lock:
            self.number += 1
            return self.number

    @contextlib.contextmanager
    def held(self, number: int) -> Iterator[bool]:
        """
        Keep the generation from ending.

        :param number: generation of a result.
        :return: context manager that yields whether this is still the present generation.
        """
        with self._lock:
            yield number == self.number


class Frame(NamedTuple):
    """
    A received frame, still serialized.

    :param camera: index of its camera.
    :param cdr: the serialized message.
    :param received_ns: steady clock in the callback.
    :param age_ns: nanoseconds from its receipt by the middleware to the callback; 0 if unknown.
    :param generation: the generation that it belongs to.
    """

    camera: int
    cdr: bytes
    received_ns: int
    age_ns: int
    generation: int


class Mailbox:
    """Passes the newest frame of each camera in turn to the worker; drops older ones."""

    def __init__(self) -> None:
        """Start empty and open."""
        self._slots: OrderedDict[int, Frame] = OrderedDict()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, frame: Frame) -> bool:
        """
        Put a frame into its camera's slot.

        :param frame: replaces the previous one, but keeps the camera's place in the queue.
        :return: whether a frame was dropped for it.
        """
        with self._changed:
            dropped = frame.camera in self._slots
            self._slots[frame.camera] = frame
            self._changed.notify()
            return dropped

    def take(self, most: int = 1) -> tuple[Frame, ...]:
        """
        Wait for a frame, and take those of other cameras that are present by then.

        :param most: the maximum number of frames.
        :return: the newest frame of each camera, the one that waited longest first; empty once
            the mailbox is closed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._slots or self._closed)
            if self._closed:
                return ()
            count = min(most, len(self._slots))
            return tuple(self._slots.popitem(last=False)[1] for _ in range(count))

    def clear(self) -> None:
        """Drop all frames."""
        with self._changed:
            self._slots.clear()

    def close(self) -> None:
        """Make `take` return nothing from now on."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
