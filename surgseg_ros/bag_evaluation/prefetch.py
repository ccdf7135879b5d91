# SPDX-License-Identifier: Apache-2.0
"""Lets threads work ahead, beside and behind, as far as a queue has room; the order stays."""

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
"""Items that wait at most; an image of 1080p takes 6 MB."""

_POLL_S: Final = 0.2
"""How often a thread that finds no room looks whether it is still wanted."""


def prefetch(source: Generator[T, None, None], depth: int = DEPTH) -> Generator[T, None, None]:
    """
    Run a generator in a thread, so that it works while its items are used.

    :param source: what to run; it is closed, in its thread, when the result is.
    :param depth: items that it may be ahead.
    :return: its items in their order; what it raises is raised after them.
    """
    runner = _Runner(source, depth)
    runner.start()
    try:
        yield from runner.items()
    finally:
        runner.stop()


def follow(function: Callable[[T], object], items: Iterable[T], depth: int = DEPTH) -> None:
    """
    Call a function with each item, one after another in a thread, while this one gets the next.

    :param function: what to call.
    :param items: gone through in this thread.
    :param depth: items that it may be behind.
    :raises BaseException: what the function or `items` raise; no further item is got, but those
        that wait still go through the function.
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
    Threads that work beside others, where there are cores for them.

    :param count: of threads; with 0 who asks for a result finds it by itself.
    """

    def __init__(self, count: int = 0) -> None:
        """Start none before there is work."""
        self.count = count
        self._pool = ThreadPoolExecutor(count, 'beside') if count else None

    def begin(
        self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> Callable[[], T]:
        """
        Begin a call.

        :param function: what to call, with its arguments; from any thread, in no order.
        :return: waits for what the call gives, or raises what it raised.
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
        """Wait for the threads; what has not begun after an error never does."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=error is not None)


class _End:
    """The end of the items, and what ended them."""

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
        except BaseException as raised:  # belongs to whoever takes the items
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
