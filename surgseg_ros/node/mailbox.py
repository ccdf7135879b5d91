# SPDX-License-Identifier: Apache-2.0
"""
Passes the newest frames to the worker, and drops older ones.

A queue selects the frames: `NewestOfEach` returns the newest frame of each camera, `NewestPair`
the newest two whose stamps match. The queues do not use threads, and only the clock that is
passed to them. A `Speculation` holds frames that a GPU processes before they are taken.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from surgseg_ros.node.health import Frame

if TYPE_CHECKING:
    from surgseg_ros.node.result_publisher import ReceivedImage
    from surgseg_ros.node.worker import Inference, Result

_MAX_WAITING: Final = 5
"""Maximum number of waiting frames of a camera; limits memory with a large `pair_wait_ms`."""

_MAX_MISSES: Final = 5
"""Number of consecutive frames without a partner after which frames do not wait."""


class Pairing(NamedTuple):
    """
    When two frames are a pair, and how long a frame waits for its partner.

    :param tolerance_ms: the largest difference of their stamps.
    :param wait_ms: how long a frame waits, from its receipt.
    """

    tolerance_ms: float
    wait_ms: float


class Pair(NamedTuple):
    """Frames of two cameras with matching stamps."""

    first: Frame
    second: Frame


class FrameQueue(Protocol):
    """A queue of frames; calls `dropped` for each frame that it drops for a newer one."""

    def add(self, frame: Frame) -> None:
        """Add a frame that has just been received."""

    def peek(self, maximum: int, now_ns: int) -> tuple[Frame, ...]:
        """Return the next frames, a Pair or at most `maximum`; empty if none is due."""

    def pop(self, maximum: int, now_ns: int) -> tuple[Frame, ...]:
        """Remove the frames that `peek` returns, and return them."""

    def due_ns(self) -> int | None:
        """Return when the next frame is due, by the steady clock; None if no frame is waiting."""

    def clear(self) -> None:
        """Remove all frames."""


class NewestOfEach:
    """
    The newest frame of each camera; the camera that has waited longest comes first.

    :param dropped: called with each frame that is dropped for a newer one.
    """

    def __init__(self, dropped: Callable[[Frame], None]) -> None:
        self._slots: OrderedDict[int, Frame] = OrderedDict()
        self._dropped = dropped

    def add(self, frame: Frame) -> None:
        """Replace the camera's frame, but keep its place in the queue."""
        if frame.camera in self._slots:
            self._dropped(self._slots[frame.camera])
        self._slots[frame.camera] = frame

    def peek(self, maximum: int, now_ns: int) -> tuple[Frame, ...]:
        """Return the frames of the first `maximum` cameras in the queue."""
        return tuple(itertools.islice(self._slots.values(), maximum))

    def pop(self, maximum: int, now_ns: int) -> tuple[Frame, ...]:
        """Remove the frames of the first `maximum` cameras in the queue."""
        taken = self.peek(maximum, now_ns)
        for frame in taken:
            del self._slots[frame.camera]
        return taken

    def due_ns(self) -> int | None:
        """Return that a frame is due now; None if there is no frame."""
        return 0 if self._slots else None

    def clear(self) -> None:
        """Remove all frames."""
        self._slots.clear()


class _Arrival(NamedTuple):
    """The arrival of a frame, which may have been taken since."""

    stamp_ns: int | None
    received_ns: int


class NewestPair:
    """
    The newest pair of two cameras; frames without a partner alone, alternating between cameras.

    A pair is kept until a newer one is complete, and comes before single frames. A frame without a
    usable stamp has no partner. After `_MAX_MISSES` consecutive frames without a partner, the
    other camera is considered absent: frames are due at once, until two frames arrive that match.

    :param pairing: which frames are a pair.
    :param dropped: called with each frame that is dropped for a newer one.
    """

    def __init__(self, pairing: Pairing, dropped: Callable[[Frame], None]) -> None:
        self._tolerance_ns = pairing.tolerance_ms * 1e6
        self._wait_ns = round(pairing.wait_ms * 1e6)
        self._dropped = dropped
        self.clear()

    def clear(self) -> None:
        """Remove all frames, and assume that both cameras are present."""
        self._pair: Pair | None = None
        self._waiting: tuple[deque[Frame], deque[Frame]] = deque(), deque()
        recent: deque[_Arrival] = deque(maxlen=_MAX_WAITING)
        self._arrivals = recent, recent.copy()
        self._misses = 0
        self._last_camera = 1

    def add(self, frame: Frame) -> None:
        """Create a pair if the partner of the frame is waiting; otherwise, let the frame wait."""
        arrival = _Arrival(frame.stamp_ns, frame.received_ns)
        if any(self._came_together(arrival, x) for x in self._arrivals[1 - frame.camera]):
            self._misses = 0
        self._arrivals[frame.camera].append(arrival)
        own, partner = self._waiting[frame.camera], self._partner(frame)
        if partner is None:
            if len(own) == _MAX_WAITING:  # the oldest frame is treated as a miss
                self._dropped(own.popleft())
                self._misses += 1
            own.append(frame)
            return
        self._misses = 0
        for older in (*(self._pair or ()), *own):
            self._dropped(older)
        own.clear()
        self._remove(partner)
        self._pair = Pair(frame, partner) if frame.camera == 0 else Pair(partner, frame)

    def peek(self, maximum: int, now_ns: int) -> tuple[Frame, ...]:
        """Return the pair, or else the newest frame of each camera that has waited long enough."""
        if self._pair is not None:
            return self._pair
        in_turn = (1 - self._last_camera, self._last_camera)
        due = (self._newest_due(camera, now_ns) for camera in in_turn)
        return tuple(frame for frame in due if frame is not None)[:maximum]

    def pop(self, maximum: int, now_ns: int) -> tuple[Frame, ...]:
        """Remove the frames that `peek` returns."""
        taken = self.peek(maximum, now_ns)
        if self._pair is not None:
            self._pair = None
            return taken
        for frame in taken:
            self._remove(frame)
            self._last_camera = frame.camera
        self._misses += len(taken)
        return taken

    def due_ns(self) -> int | None:
        """Return when a pair or a single frame is due."""
        if self._pair is not None:
            return 0
        return min((self._due_ns(x) for waiting in self._waiting for x in waiting), default=None)

    def _came_together(self, one: _Arrival, other: _Arrival) -> bool:
        late_ns = one.received_ns - other.received_ns
        return late_ns <= self._wait_ns and self._differ_by_ns(one, other) <= self._tolerance_ns

    def _partner(self, frame: Frame) -> Frame | None:
        """Find the other camera's waiting frame with the nearest stamp, the newest if equal."""
        others = (
            other
            for other in reversed(self._waiting[1 - frame.camera])
            if other.generation == frame.generation
            and self._differ_by_ns(frame, other) <= self._tolerance_ns
        )
        return min(others, key=lambda other: self._differ_by_ns(frame, other), default=None)

    def _newest_due(self, camera: int, now_ns: int) -> Frame | None:
        due = (x for x in reversed(self._waiting[camera]) if self._due_ns(x) <= now_ns)
        return next(due, None)

    def _due_ns(self, frame: Frame) -> int:
        alone = not frame.stamp_ns or self._misses >= _MAX_MISSES
        return frame.received_ns + (0 if alone else self._wait_ns)

    def _remove(self, frame: Frame) -> None:
        """Remove a waiting frame, and drop earlier frames of its camera."""
        waiting = self._waiting[frame.camera]
        while (older := waiting.popleft()) is not frame:
            self._dropped(older)

    @staticmethod
    def _differ_by_ns(one: Frame | _Arrival, other: Frame | _Arrival) -> float:
        """Return the difference of two stamps; infinite if one is zero or missing."""
        if not one.stamp_ns or not other.stamp_ns:
            return float('inf')
        return abs(one.stamp_ns - other.stamp_ns)


class Mailbox:
    """
    Passes frames to the worker; thread-safe.

    :param pairing: pairs frames of two cameras; None: the newest frame of each camera in turn.
    :param dropped: called with each frame that is dropped for a newer one.
    :param now_ns: the steady clock.
    """

    def __init__(
        self,
        pairing: Pairing | None = None,
        dropped: Callable[[Frame], None] = lambda frame: None,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._queue: FrameQueue = (
            NewestOfEach(dropped) if pairing is None else NewestPair(pairing, dropped)
        )
        self._now_ns = now_ns
        self._changed = threading.Condition()
        self._closed = False

    def put(self, frame: Frame) -> None:
        """
        Add a frame that has just been received.

        :param frame: the newest of its camera.
        """
        with self._changed:
            self._queue.add(frame)
            self._changed.notify()

    def take(self, maximum: int = 1) -> tuple[Frame, ...]:
        """
        Wait for a frame, and take it with frames of other cameras that are available.

        :param maximum: the maximum number of frames, except for pairs.
        :return: a Pair, regardless of the maximum; or the newest frame of each camera, in turn;
            empty if the mailbox is closed.
        """
        with self._changed:
            while not self._closed:
                now_ns = self._now_ns()
                if frames := self._queue.pop(maximum, now_ns):
                    return frames
                due_ns = self._queue.due_ns()
                self._changed.wait(None if due_ns is None else max(0, due_ns - now_ns) / 1e9)
            return ()

    def peek(self, maximum: int = 1) -> tuple[Frame, ...]:
        """
        Return the frames that `take` would return now, without taking them.

        :param maximum: see `take`.
        :return: see `take`; empty if it would wait.
        """
        with self._changed:
            return () if self._closed else self._queue.peek(maximum, self._now_ns())

    def take_now(self, maximum: int = 1) -> tuple[Frame, ...]:
        """
        Take frames as `take` does, but without waiting.

        :param maximum: see `take`.
        :return: see `take`; empty if it would wait.
        """
        with self._changed:
            return () if self._closed else self._queue.pop(maximum, self._now_ns())

    def clear(self) -> None:
        """Drop all frames."""
        with self._changed:
            self._queue.clear()

    def close(self) -> None:
        """Make `take` return empty from now on."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


PAUSE: Final = 60
"""Number of batches without speculation after it was in vain, which made the next mask later."""


class Speculation(NamedTuple):
    """
    Frames in the mailbox that a GPU already works on, while the CPU finds instruments.

    If the mailbox then returns exactly these frames, their mask is ready; if it returns newer
    ones, the work is discarded. So speculation affects only when results are published. Steps that
    depend on earlier images (gates, filter, a roi that is found) wait until the frames are taken.

    :param frames: as the mailbox would have returned them.
    :param images: the images in them.
    :param confidence: whether the confidence of each pixel is computed.
    :param results: returned by `Inference.begin`.
    :param inference: returns the inference, unless it is gone.
    """

    frames: tuple[Frame, ...]
    images: tuple[ReceivedImage, ...]
    confidence: bool
    results: Callable[[], list[Result]]
    inference: Callable[[], Inference | None]

    def is_for(self, frames: Sequence[Frame]) -> bool:
        """
        Return whether these are the frames that the mailbox returned.

        :param frames: the frames that it returned.
        :return: True if they are the same objects.
        """
        return [*map(id, frames)] == [*map(id, self.frames)]

    def results_for(
        self, batch: Sequence[ReceivedImage], confidence: bool, inference: Inference
    ) -> Callable[[], list[Result]] | None:
        """
        Return the results if they are those that are needed now.

        :param batch: some of the images.
        :param confidence: whether the confidence of each pixel is needed.
        :param inference: the inference in use.
        :return: a function that waits for them; None if they are not.
        """
        is_all = len(batch) == len(self.images)
        if is_all and confidence == self.confidence and self.inference() is inference:
            return self.results
        return None
