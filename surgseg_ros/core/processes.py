# SPDX-License-Identifier: Apache-2.0
"""
Limits memory, cores and image sizes of a process, and manages worker processes and threads.

Threads read ahead, work in parallel or write behind; their queues are bounded and in order.

Imports no slow library: some functions must be called before OpenCV or torch is imported.
"""

import ctypes
import gc
import multiprocessing
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from functools import partial
from typing import Final, Generic, TypeVar

T = TypeVar('T')

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
"""glibc's malloc.h."""

_ARENAS: Final = 2
_LARGEST: Final = 32 << 20
"""Largest value that glibc accepts for M_MMAP_THRESHOLD; five images of 1920x1080 rgb8."""
_KEPT: Final = 256 << 20


def limit_arenas() -> None:
    """
    Limit malloc to two arenas for all threads.

    A model is loaded in one thread and used in another, both new each time. By default, glibc
    creates up to eight arenas per core, and each keeps its peak memory: 40 life cycles of the demo
    model grew the process by a quarter.
    """
    _set((_M_ARENA_MAX, _ARENAS))


def keep_freed() -> None:
    """
    Keep freed memory for the next image, which saves milliseconds for clearing its pages.

    For programs that load one model and process many images. If models are replaced, as in the
    node, this would fragment the memory.
    """
    _set((_M_MMAP_THRESHOLD, _LARGEST), (_M_TRIM_THRESHOLD, _KEPT))


def _set(*options: tuple[int, int]) -> None:
    with suppress(OSError, AttributeError):  # not glibc
        mallopt = ctypes.CDLL(None).mallopt
        for name, value in options:
            mallopt(name, value)


def freeze_garbage() -> None:
    """
    Exclude objects that live until the process ends, mainly those of libraries, from collection.

    These are 400,000 objects. A full collection of them, which may happen at any time, stops all
    threads for a quarter of a second: at 30 Hz, 8 frames arrive meanwhile, and DDS keeps 5.
    """
    gc.collect()
    gc.freeze()
    gc.collect()  # the next full collection follows after 25 % new objects


@contextmanager
def importing(*, freeze: bool = True) -> Iterator[None]:
    """
    Import large libraries without garbage collection, which takes a third of the import's time.

    :param freeze: whether to call `freeze_garbage` afterwards.
    :return: context manager.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
    if freeze:
        freeze_garbage()


def empty_device_cache() -> None:
    """Empty torch's cache of CUDA memory, if torch is imported."""
    if (torch := sys.modules.get('torch')) is None:
        return
    with suppress(RuntimeError):  # the device may be gone
        torch.cuda.empty_cache()  # has no effect if no device is in use


def release_memory() -> None:
    """Free unused memory, on the host and on the device."""
    gc.collect()  # runtimes may contain reference cycles
    empty_device_cache()
    with suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


_SPINS: Final = '2000'
"""Spin count, enough for the gaps inside a network; the default of GNU OpenMP is 300,000."""


def limit_spinning() -> None:
    """
    Limit busy waiting between two operations of torch; call it before torch is imported.

    The threads of GNU OpenMP, which torch uses on Linux, wait for milliseconds in a busy loop by
    default. On two cores this slowed down OpenVINO's threads, DDS, and the reading and writing of
    bags: 1080p over DDS took 27.5 ms at the median and 41 at the 99th percentile, and 24.6 and 30
    with this limit. Torch alone gets about 3 % slower. A value that is already set is kept.
    """
    if 'OMP_WAIT_POLICY' not in os.environ:
        os.environ.setdefault('GOMP_SPINCOUNT', _SPINS)


_SWITCH_S: Final = 5e-4


def limit_waiting() -> None:
    """
    Let a thread that becomes ready wait for the GIL for half a millisecond, not for five.

    The node receives an image while it finds instruments in the one before, which is a long
    sequence of short steps in Python: of 300 images, one in ten waited for more than 2.6 ms, and
    one in a hundred for more than 10.9; with this limit, 0.9 and 3.2 ms.
    """
    sys.setswitchinterval(_SWITCH_S)


MAX_PIXELS: Final = 100_000_000
"""Maximum number of pixels of an image from outside: twelve times 4K."""

TOO_LARGE: Final = f'declares more than {MAX_PIXELS} pixels, or a side that is too long'
"""Error text for a larger image."""


def limit_image_size() -> None:
    """
    Make OpenCV reject files of larger images; call it before `import cv2`.

    A file of a hundred bytes can claim a billion pixels. JPEG and PNG are rejected by their
    headers in any case; this is for the other formats that `predict` and the like accept. OpenCV
    reads the variable once, when it is loaded. A value that is already set is kept.
    """
    os.environ.setdefault('OPENCV_IO_MAX_IMAGE_PIXELS', str(MAX_PIXELS))


def refusal(error: Exception) -> str:
    """
    Explain why OpenCV rejects a file.

    :param error: raised by OpenCV.
    :return: a sentence without subject and full stop.
    """
    if 'IMAGE' in str(error) and 'MAX' in str(error):
        return TOO_LARGE
    return f'is refused by the decoder: {error}'


_LEFT_TO_PARENT: Final = (signal.SIGINT, signal.SIGHUP)
"""Signals that a terminal sends to all of its processes; the parent handles them for workers."""

_OF_PARENT: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_beginning = threading.RLock()
"""Held while processes are started, so that all of them are known when they are killed."""

_children: set['subprocess.Popen[str]'] = set()


def exit_with_parent() -> None:
    """End this process if its parent is killed, instead of waiting forever."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def ignore_terminal_signals() -> Iterator[None]:
    """
    Start processes that ignore Ctrl-C from the beginning.

    A process inherits its blocked signals. A handler, or an initializer of a pool, would only be
    installed after seconds of imports, and Ctrl-C before that would show a traceback per worker.
    Signals to this process are delayed until all have started: a process that gets only half of
    its input would show a traceback, too.
    """
    with _beginning, _signals_later():
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _LEFT_TO_PARENT)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _signals_later() -> Iterator[None]:
    """Delay Python's signal handlers to the end of the block, in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield  # outside the main thread, there are no handlers
        return
    came: list[int] = []
    handlers = {number: signal.getsignal(number) for number in _OF_PARENT}
    in_python = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in in_python:
        signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in in_python.items():
            signal.signal(number, handler)
        for first in came[:1]:
            signal.raise_signal(first)


@contextmanager
def worker_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """
    Yield a pool of processes; if the block raises, they are killed.

    Submit within `ignore_terminal_signals`, because that starts the processes.

    :param workers: number of processes.
    :return: context manager that yields the pool.
    """
    # A forked child would wait for threads of OpenCV or torch that do not exist in it.
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
    Register a process, which is killed if this one has to end at once; forget those that ended.

    :param child: the process.
    """
    _children.difference_update([known for known in _children if known.poll() is not None])
    _children.add(child)


def kill_children() -> None:
    """Kill all child processes, before this one exits without unwinding its stack."""
    for worker in multiprocessing.active_children():
        worker.kill()
    for child in [*_children]:  # another thread may register one
        child.kill()


QUEUE_DEPTH: Final = 3
"""Maximum number of waiting items; an image of 1080p takes 6 MB."""

_POLL_S: Final = 0.2
"""Interval at which a thread that waits for space in its queue checks whether it should stop."""


def prefetch(
    source: Generator[T, None, None], depth: int = QUEUE_DEPTH
) -> Generator[T, None, None]:
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


def in_order(
    calls: Generator[Callable[[], T], None, None], threads: int, depth: int = 0
) -> Generator[T, None, None]:
    """
    Make calls in threads, or in this one if there are none.

    :param calls: the functions; it is closed when the result is closed.
    :param threads: number of threads.
    :param depth: number of calls beyond the one whose result is due; 0: one for each thread.
    :return: the results in order; if it is closed, calls that were begun are still completed.
    :raises BaseException: exceptions of the functions, each when its result is due.
    """
    with closing(calls):
        if not threads:
            for call in calls:
                yield call()
            return
        begun: deque[Future[T]] = deque()
        with ThreadPoolExecutor(threads, 'in_order') as pool:
            for call in calls:
                begun.append(pool.submit(call))
                if len(begun) > (depth or threads):
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()


def follow(function: Callable[[T], object], items: Iterable[T], depth: int = QUEUE_DEPTH) -> None:
    """
    Call a function with each item, one at a time in a thread, while this thread gets the next.

    :param function: the function.
    :param items: iterated over in this thread.
    :param depth: number of items that it may be behind.
    :raises BaseException: exceptions of the function or `items`; then no further item is taken,
        but the function is still called with items that are waiting.
    """
    for _ in in_order((partial(function, item) for item in items), 1, depth):
        pass


class _End:
    """Marks the end of the items, with the exception that ended them, if any."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class _Runner(threading.Thread, Generic[T]):
    def __init__(self, source: Generator[T, None, None], depth: int) -> None:
        super().__init__(name='prefetch', daemon=True)
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
