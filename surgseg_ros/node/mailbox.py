# SPDX-License-Identifier: Apache-2.0
"""Frames that wait for the worker, and the activation that they belong to."""

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple


class Generation:
    """Counts changes of state; a result belongs to one, and is discarded after it."""

    def __init__(self) -> None:
        """Start at 0, at rest."""
        self._lock = threading.Lock()
        self.number = 0

    def advance(self) -> int:
        """
        End the present generation; waits for what is being published in it.

        :return: the number of the next.
        """
        with self._lock:
            self.number += 1
            return self.number

    @contextlib.contextmanager
    def held(self, number: int) -> Iterator[bool]:
        """
        Keep the generation from ending.

        :param number: of a result.
        :return: context that says whether this is still the present generation.
        """
        with self._lock:
            yield number == self.number


class Frame(NamedTuple):
    """
    A frame as it came, not yet looked into.

    :param camera: index of its camera.
    :param cdr: the serialized message.
    :param received_ns: steady clock when the callback got it.
    :param age_ns: how long before that the middleware had it; 0 if unknown.
    :param generation: the activation that it belongs to.
    """

    camera: int
    cdr: bytes
    received_ns: int
    age_ns: int
    generation: int


class Mailbox:
    """Hands the worker the newest frames of the cameras in turn; older ones are dropped."""

    def __init__(self) -> None:
        """Start empty and open."""
        self._slots: OrderedDict[int, Frame] = OrderedDict()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, frame: Frame) -> bool:
        """
        Lay a frame into its camera's slot.

        :param frame: replaces the one there, but keeps its camera's place in the queue.
        :return: whether a frame was dropped for it.
        """
        with self._changed:
            dropped = frame.camera in self._slots
            self._slots[frame.camera] = frame
            self._changed.notify()
            return dropped

    def take(self, most: int = 1) -> tuple[Frame, ...]:
        """
        Wait for a frame; take with it what other cameras have there by then, but wait for none.

        :param most: how many at most.
        :return: the newest of each camera, the one that has waited longest first; none once
            closed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._slots or self._closed)
            if self._closed:
                return ()
            count = min(most, len(self._slots))
            return tuple(self._slots.popitem(last=False)[1] for _ in range(count))

    def clear(self) -> None:
        """Drop what lies in the slots."""
        with self._changed:
            self._slots.clear()

    def close(self) -> None:
        """Let `take` return nothing from now on."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
