# SPDX-License-Identifier: Apache-2.0
"""Threads that read ahead, work in parallel or write behind; queues are bounded and in order."""

import functools
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Final, Generic, ParamSpec, TypeVar

P = ParamSpec('P')
T = TypeVar('T')

DEPTH: Final = 3
"""Maximum number of waiting items; an image of 1080p takes 6 MB."""

_POLL_S: Final = 0.2
"""Interval at which a thread that waits for space in its queue checks whether it should stop."""


def prefetch(source: Generator[T, None, None], depth: int = DEPTH) -> Generator[T, None, None]:
    """
    Run a generator in a thread, in parallel with the use of its items.

    :param source: the generator; it is closed, in its thread, when the result is closed.
    :param depth: number of items that it may be ahead.
    :return: its items in their order; an exception of the generator is raised after them.
    """
    runner = _Runner(source, depth)
    runner.start()
    try:
        yield from runner.items()
    finally:
        runner.stop()


def follow(function: Callable[[T], object], items: Iterable[T], depth: int = DEPTH) -> None:
    """
    Call a function with each item, one at a time in a thread, while this thread gets the next.

    :param function: the function.
    :param items: iterated over in this thread.
    :param depth: number of items that it may be behind.
    :raises BaseException: exceptions of the function or `items`; then no further item is taken,
        but the function is still called with items that are waiting.
    """
    waiting: deque[Future[object]] = deque()
    with ThreadPoolExecutor(1, 'behind') as thread:
        for item in items:
            waiting.append(thread.submit(function, item))
            if len(waiting) > depth:
                waiting.popleft().result()
        for future in waiting:
            future.result()


class WorkerPool:
    """
    A pool of threads, which may be empty if there are no cores for it.

    :param count: number of threads; with 0, a result is computed when it is requested.
    """

    def __init__(self, count: int = 0) -> None:
        """Start threads only when there is work."""
        self.count = count
        self._pool = ThreadPoolExecutor(count, 'beside') if count else None

    def begin(
        self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> Callable[[], T]:
        """
        Submit a call.

        :param function: the function and its arguments; called from any thread, in any order.
        :return: a function that waits for the call, and returns its result or raises its error.
        """
        if self._pool is None:
            return functools.partial(function, *args, **kwargs)
        return self._pool.submit(function, *args, **kwargs).result

    def __enter__(self) -> 'WorkerPool':
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for the threads; after an error, calls that have not started never start."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=error is not None)


class _End:
    """Marks the end of the items, with the exception that ended them, if any."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class _Runner(threading.Thread, Generic[T]):
    def __init__(self, source: Generator[T, None, None], depth: int) -> None:
        super().__init__(name='ahead', daemon=True)
        self._source = source
        self._queue: queue.Queue[T | _End] = queue.Queue(depth)
        self._stopped = threading.Event()

    def run(self) -> None:
        error: BaseException | None = None
        try:
            for item in self._source:
                if not self._put(item):
                    break
        except BaseException as raised:  # raised again in the thread that uses the items
            error = raised
        finally:
            self._source.close()
        self._put(_End(error))

    def _put(self, item: T | _End) -> bool:
        while not self._stopped.is_set():
            try:
                self._queue.put(item, timeout=_POLL_S)
            except queue.Full:
                continue
            return True
        return False

    def items(self) -> Iterator[T]:
        while not isinstance(item := self._queue.get(), _End):
            yield item
        if item.error is not None:
            raise item.error

    def stop(self) -> None:
        self._stopped.set()
        self.join()
