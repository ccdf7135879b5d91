# SPDX-License-Identifier: Apache-2.0
"""Parts of an evaluation in processes of their own: what comes before the network, or after it."""

import multiprocessing
import pickle
import signal
import sys
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any, Final, Generic, NamedTuple, TypeVar

from surgseg_ros.bag_evaluation.worker_pool import DisconnectedError, Sender, received
from surgseg_ros.core.errors import describe
from surgseg_ros.core.processes import exit_with_parent, ignore_terminal_signals, keep_freed

T = TypeVar('T')

_GRACE_S: Final = 0.4
"""
Time for cleaning up before a process is killed; a command ends within two seconds.

It may not be enough, since `follow` still writes what is waiting: `archive.run` removes the rest.
"""


class WorkerError(RuntimeError):
    """Work whose process was killed, or ended for another reason without a result."""


class _Failure(NamedTuple):
    """An error in another process, whose traceback cannot be sent."""

    error: Exception
    trace: str


class _Process(Generic[T]):
    """
    A process that calls one function.

    :param function: the function, of a module, and its arguments, which must be picklable.
    """

    def __init__(self, function: Callable[..., T], *arguments: object) -> None:
        """Start the process."""
        # A forked child would wait for threads of OpenCV or torch that do not exist in it.
        context = multiprocessing.get_context('spawn')
        self._results, sending = context.Pipe(duplex=False)
        self._process = context.Process(target=_run, args=(sending, function, *arguments))
        with closing(sending), ignore_terminal_signals():
            self._process.start()

    def result(self) -> T:
        """
        Wait for the result.

        :return: the result; an error of the function is raised.
        :raises WorkerError: if the process ended without one.
        """
        try:
            outcome = self._results.recv()
        except EOFError as error:
            self._process.join()
            raise WorkerError(_reason(self._process.exitcode)) from error
        if isinstance(outcome, _Failure):
            raise outcome.error from RuntimeError(outcome.trace)
        self._process.join()
        result: T = outcome
        return result

    def end(self) -> None:
        """End the process, if it has not ended; it may clean up first."""
        self._process.terminate()
        self._process.join(_GRACE_S)
        self._process.kill()
        self._process.join()
        self._results.close()


def _run(results: Connection, function: Callable[..., object], *arguments: object) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    exit_with_parent()
    keep_freed()
    try:
        outcome = function(*arguments)
    except Exception as error:
        outcome = _Failure(_picklable(error), traceback.format_exc())
    with suppress(BrokenPipeError):  # the parent was killed
        results.send(outcome)


def _reason(exit_code: int | None) -> str:
    """Explain why a process has sent no result."""
    if exit_code is not None and exit_code < 0:
        return 'a process that evaluated it was killed: check the memory and the system log'
    return f'a process that evaluated it ended with exit status {exit_code}'


def _picklable(error: Exception) -> Exception:
    """Replace an error that cannot be pickled, or not restored."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - from this process
    except Exception:
        replaced = RuntimeError(describe(error))
        for note in getattr(error, '__notes__', ()):
            replaced.add_note(str(note))
        return replaced
    return error


@contextmanager
def _started(function: Callable[..., T], *arguments: object) -> Iterator[_Process[T]]:
    process = _Process(function, *arguments)
    try:
        yield process
    finally:
        process.end()


def produced(source: Callable[[], Iterable[T]], blocks: int) -> Generator[T, None, None]:
    """
    Iterate in another process.

    :param source: returns what to iterate over; picklable. Items must be picklable, and not None.
    :param blocks: how many items with arrays may exist here and there; the arrays of an item are
        shared memory, which is used again when no array refers to it.
    :return: the items in order; closing it ends the process.
    :raises WorkerError: if the process was killed; its own errors are raised as they are, after
        its items, or as a RuntimeError of the same text if they cannot be pickled.
    """
    own_end, other_end = multiprocessing.Pipe()
    with closing(own_end), _started(_send, other_end, source, blocks) as process:
        other_end.close()
        lost = None
        try:
            yield from received(own_end)
        except DisconnectedError as error:
            lost = error
        own_end.close()  # the process waits for this
        process.result()
        if lost is not None:
            raise WorkerError(str(lost)) from lost


def _send(connection: Connection, source: Callable[[], Iterable[object]], blocks: int) -> None:
    sender = Sender(connection, blocks)
    try:
        for item in source():
            sender.send(item)
    except DisconnectedError:
        return  # no more items are needed
    except Exception:
        sender.finish()
        raise
    sender.finish()


def consumed(function: Callable[[Iterator[Any]], T], items: Iterable[object], blocks: int) -> T:
    """
    Call a function in another process, with the items of an iterator of this one.

    :param function: picklable; iterates over its argument.
    :param items: the items, picklable, and not None; their arrays are copied to shared memory.
    :param blocks: how many items with arrays may exist there.
    :return: what the function returns.
    :raises WorkerError: if the process was killed; its own errors are raised as by `produced`.
    """
    own_end, other_end = multiprocessing.Pipe()
    sender = Sender(own_end, blocks)
    with closing(sender), _started(_receive, other_end, function) as process:
        other_end.close()
        with suppress(DisconnectedError):  # the result says why
            for item in items:
                sender.send(item)
            sender.send(None)
        result: T = process.result()
        return result


def _receive(connection: Connection, function: Callable[[Iterator[Any]], T]) -> T:
    with closing(connection):  # so that no item is sent any more
        return function(received(connection))
