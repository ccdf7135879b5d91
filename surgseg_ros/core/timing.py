# SPDX-License-Identifier: Apache-2.0
"""Times by stage, their percentiles, and reports of long work while it lasts."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TextIO

if TYPE_CHECKING:
    import torch


class Percentiles(NamedTuple):
    """
    Percentiles of times, in the unit of the times.

    :param p50: the median.
    :param p95: the 95th percentile.
    :param p99: the 99th percentile.
    """

    p50: float
    p95: float
    p99: float


def percentiles(values: Iterable[float]) -> Percentiles:
    """
    Compute percentiles of times, interpolated linearly.

    :param values: at least one.
    :return: the percentiles.
    :raises ValueError: if there is no value.
    """
    import numpy as np  # imported here: verbs use `forward_logs` before they find what is missing

    known = list(values)
    if not known:
        raise ValueError('there is nothing to summarize: no frame was measured')
    return Percentiles(*(float(value) for value in np.percentile(known, (50, 95, 99))))


class Stopwatch:
    """Measures stages that run on the host and are complete when they return."""

    def __init__(self) -> None:
        self.started_ns = self.last_ns = time.monotonic_ns()
        self._times_ms: dict[str, float] = {}

    def lap(self, stage: str) -> None:
        """
        End a stage, or part of a stage.

        :param stage: its name; the times of its parts are added.
        """
        now_ns = time.monotonic_ns()
        before_ms = self._times_ms.get(stage, 0.0)
        self._times_ms[stage] = before_ms + (now_ns - self.last_ns) / 1e6
        self.last_ns = now_ns

    def resume(self) -> None:
        """Start the next stage now, and ignore the time since the last stage."""
        self.last_ns = time.monotonic_ns()

    def times_ms(self) -> dict[str, float]:
        """Return the milliseconds of each stage, in their order."""
        return dict(self._times_ms)


class CudaStopwatch:
    """
    Measures stages on a CUDA device, which works asynchronously.

    It records CUDA events in streams, so that stages do not wait for each other; only
    `times_ms` waits, for the last event.

    :param device: a CUDA device; the work of a stage is done in the stream that is current then.
    """

    def __init__(self, device: torch.device) -> None:
        import torch  # imported here: the node uses Stopwatch before it imports torch

        self._event: Any = torch.cuda.Event
        self._stream: Any = functools.partial(torch.cuda.current_stream, device)
        self._marks: list[tuple[str, Any]] = []
        self.lap('')

    def lap(self, stage: str) -> None:
        """
        End a stage when the device reaches this point of the current stream.

        :param stage: its name.
        """
        mark = self._event(enable_timing=True)
        mark.record(self._stream())
        self._marks.append((stage, mark))

    def times_ms(self) -> dict[str, float]:
        """Return the milliseconds of each stage, in their order; waits for the device."""
        self._marks[-1][1].synchronize()
        pairs = itertools.pairwise(self._marks)
        return {stage: before.elapsed_time(mark) for (_, before), (stage, mark) in pairs}


def stopwatch(device: torch.device) -> Stopwatch | CudaStopwatch:
    """
    Start a stopwatch for work on a device.

    :param device: the device that does the work.
    :return: a stopwatch for this device.
    """
    return CudaStopwatch(device) if device.type == 'cuda' else Stopwatch()


LONGEST_SILENCE_S: Final = 5.0
"""Half of the ten seconds that are guaranteed, since a busy machine wakes up a thread late."""


class Progress:
    """
    A context manager that prints the current activity, and repeats it while it continues.

    :param command: prefix of every line, such as `benchmark`.
    :param file: where to print; standard error by default, so that standard output has only
        results.
    :param silence_s: seconds without a line after which the last one is repeated, with the time
        that the activity has taken so far.
    """

    def __init__(
        self, command: str, file: TextIO | None = None, silence_s: float = LONGEST_SILENCE_S
    ) -> None:
        self._command, self._file, self._silence_s = command, file, silence_s
        self._changed = threading.Condition()
        self._activity = 'starting'
        self._began_s = time.monotonic()
        self._printed = self._ended = False
        self._thread = threading.Thread(target=self._repeat, name='progress', daemon=True)

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join()

    def print_line(self, activity: str) -> None:
        """
        Start an activity, and print it.

        :param activity: what is being done.
        """
        with self._changed:
            self._activity, self._began_s = activity, time.monotonic()
            self._print(activity)
            self._printed = True
            self._changed.notify()

    def update(self, activity: str) -> None:
        """
        Change the text of the activity that is printed next.

        :param activity: what is being done, and its progress.
        """
        self._activity = activity  # a single assignment, so no lock in the loops that call this

    def _repeat(self) -> None:
        with self._changed:
            while not self._ended:
                self._printed = False
                self._changed.wait(self._silence_s)
                if not (self._printed or self._ended):
                    self._print(f'{self._activity} ({time.monotonic() - self._began_s:.0f} s)')

    def _print(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # the output is closed
            print(f'{self._command}: {text}', file=self._file or sys.stderr, flush=True)


_LOGGER: Final = logging.getLogger('surgseg_ros')
_CHANGING: Final = threading.Lock()


class _Reports(logging.Handler):
    """Passes on the texts of records; see `forward_logs`."""

    def __init__(self, report: Callable[[int, str], object]) -> None:
        super().__init__()
        self._report = report
        self.level_before = logging.NOTSET

    def emit(self, record: logging.LogRecord) -> None:
        if _reports()[-1:] == [self]:
            self._report(record.levelno, record.getMessage())


def _reports() -> list[_Reports]:
    return [handler for handler in _LOGGER.handlers if isinstance(handler, _Reports)]


@contextlib.contextmanager
def forward_logs(report: Callable[[int, str], object]) -> Iterator[None]:
    """
    Pass on what this package logs in the block, from level info: long work and its warnings.

    Without this, Python's logging prints warnings alone, on standard error. If several blocks
    overlap, the one that was entered last gets the records: a node's log instead of the terminal.

    :param report: called with level and text, by any thread.
    :return: context manager.
    """
    handler = _Reports(report)
    with _CHANGING:
        others = _reports()
        handler.level_before = others[0].level_before if others else _LOGGER.level
        _LOGGER.addHandler(handler)
        _LOGGER.setLevel(logging.INFO)
    try:
        yield
    finally:
        with _CHANGING:  # blocks of several threads end in any order
            _LOGGER.removeHandler(handler)
            if not _reports():
                _LOGGER.setLevel(handler.level_before)
