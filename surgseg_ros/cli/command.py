# SPDX-License-Identifier: Apache-2.0
"""The only place that converts errors and signals to messages and exit status."""

import atexit
import contextlib
import gc
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from types import FrameType
from typing import Any, Final, NamedTuple, NoReturn, cast

from surgseg_ros.core.errors import explain
from surgseg_ros.core.files import remove_unfinished, writing
from surgseg_ros.core.processes import importing, kill_children
from surgseg_ros.core.timing import forward_logs

FAILED: Final = 2
"""Status if input or machine cause a failure; 1 has another meaning in some commands."""

BUG: Final = 70
"""The status after a traceback: EX_SOFTWARE of sysexits.h."""

CLOSED: Final = 128 + signal.SIGPIPE
"""Status if the reader of stdout has exited, as with `head`; shells return the same."""

_SIGNALS: Final = {
    signal.SIGINT: 'interrupted',
    signal.SIGTERM: 'terminated',
    signal.SIGHUP: 'the terminal was closed',
}

_OUTPUT: Final = 'standard output'

_GRACE_S: Final = 1.0
"""Time that a command may take to clean up after a signal; it must exit within two seconds."""


class Command(NamedTuple):
    """
    A command, with its messages and status for failures and interruptions.

    :param name: name of the command.
    :param target: 'package.module:function'; the function takes the arguments and returns the exit
        status or raises. It is imported when it is run.
    :param leftovers: what remains after an interruption, and how to continue.
    :param failed: the status if input or machine cause a failure.
    """

    name: str
    target: str
    leftovers: str = ''
    failed: int = FAILED

    def interrupted(self, number: int) -> str:
        """
        Describe the interruption by a signal.

        :param number: number of the signal.
        :return: a line.
        """
        what = _SIGNALS[signal.Signals(number)]
        return f'{what}; {self.leftovers}' if self.leftovers else what


def run(command: Command, arguments: Sequence[str], signals: 'Signals | None' = None) -> int:
    """
    Run a command, and print one line on stderr if it fails.

    :param command: the command.
    :param arguments: its arguments.
    :param signals: the signal handler, if the process runs only this command.
    :return: the exit status: the function's; the command's `failed`; 128 + the number of the
        signal; CLOSED; or BUG, after a traceback.
    :raises SystemExit: by the command's argument parser, which has printed the reason.
    """
    try:
        action = _imported(command.target)
        with (
            forward_logs(lambda level, text: print_line(command.name, text)),
            signals.raised() if signals else contextlib.nullcontext(),
        ):
            status = action(arguments)
        sys.stdout.flush()
    except BaseException as error:
        if signals and signals.number:
            return signals.report()
        if isinstance(error, SystemExit):
            return _leave(command, error)
        return _report(command, error)
    return signals.report() if signals and signals.number else status


def _imported(target: str) -> Callable[[Sequence[str]], int]:
    module, _, function = target.partition(':')
    with importing(freeze=False):
        return cast('Callable[[Sequence[str]], int]', getattr(import_module(module), function))


def _leave(command: Command, error: SystemExit) -> int:
    """Re-raise SystemExit, unless stdout cannot be flushed."""
    try:
        sys.stdout.flush()
    except OSError as unwritten:
        return _report(command, unwritten)
    raise error


def _report(command: Command, error: BaseException) -> int:
    """Print the explanation of an error; return the status."""
    if isinstance(error, KeyboardInterrupt):
        print_line(command.name, command.interrupted(signal.SIGINT))
        return 128 + signal.SIGINT
    if isinstance(error, OSError) and error.filename == _OUTPUT:
        _forget_output()
        if isinstance(error, BrokenPipeError):
            return CLOSED
    text = explain(error)
    if text is None or sys.flags.dev_mode:
        traceback.print_exception(error)
    if text is None:
        return BUG
    print_line(command.name, text)
    return command.failed


def _forget_output() -> None:
    """Redirect stdout to /dev/null so that shutdown does not fail."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


class Output:
    """
    Standard output whose errors name standard output.

    :param stream: standard output.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """
        Write text.

        :param text: the text.
        :return: the number of characters written.
        :raises OSError: if it cannot be written.
        """
        with writing(_OUTPUT):
            return int(self._stream.write(text))

    def flush(self) -> None:
        """
        Write buffered text.

        :raises OSError: if it cannot be written.
        """
        with writing(_OUTPUT):
            self._stream.flush()


def print_line(name: str, text: str) -> None:
    """
    Print a line on stderr, below any progress bars.

    :param name: name of the command.
    :param text: the text; several lines for a list.
    """
    for bar in _bars():
        bar.close()
    # Stderr is full, closed, or in use when a signal arrives; this cannot be reported.
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        print(f'{name}: {text}', file=sys.stderr, flush=True)


def _bars() -> list[Any]:
    tqdm = sys.modules.get('tqdm')
    return list(getattr(tqdm.tqdm, '_instances', ())) if tqdm else []


class Signals:
    """
    Raises KeyboardInterrupt at the first signal, and ends the process if that takes too long.

    Native code may not return for a long time; KeyboardInterrupt can be lost in a callback, or be
    converted to another error by an import; a library may install its own handler. So a thread is
    notified of each signal through `signal.set_wakeup_fd`, independent of the main thread.

    :param command: the command of this process.
    :param to_zero: whether the command handles SIGINT and SIGTERM itself, and exits with 0;
        earlier signals then also exit with 0.
    """

    def __init__(self, command: Command, *, to_zero: bool = False) -> None:
        self.number = 0
        """Number of the signal that arrived, if any."""
        self._command = command
        self._to_zero = to_zero
        self._is_raised = False
        # Of the processes that share a training, only one reports.
        self._is_reported = os.environ.get('LOCAL_RANK', '0') != '0'
        self._is_printed = threading.Event()
        if self._is_reported:
            self._is_printed.set()
        self._at_once = True  # there is nothing to clean up yet

    def listen(self) -> None:
        """Start in the main thread; ignored signals, as with nohup and `&`, stay ignored."""
        # Otherwise, Python examines all objects of the libraries again before it exits.
        atexit.register(gc.freeze)
        numbers = [n for n in _SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]
        if self._to_zero:
            for number in {signal.SIGINT, signal.SIGTERM}.intersection(numbers):
                signal.signal(number, self._handle)
            return
        # Resources of this process are removed by multiprocessing's resource tracker, without
        # warning.
        sys.warnoptions.append('ignore:resource_tracker:UserWarning')
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        # Blocked there, signals are delivered to the main thread and interrupt its waiting.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        threading.Thread(target=self._watch, args=(reading,), name='signals', daemon=True).start()
        for number in numbers:
            signal.signal(number, self._handle)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    @contextlib.contextmanager
    def raised(self) -> Any:
        """Raise on signals in the block, in which a command can clean up."""
        self._at_once = self._to_zero
        try:
            yield
        finally:
            self._at_once = True

    def report(self) -> int:
        """
        Print once which signal arrived.

        :return: the exit status.
        """
        if not self._is_reported:
            self._is_reported = True
            print_line(self._command.name, self._command.interrupted(self.number))
            self._is_printed.set()
        return 128 + self.number

    def end(self, status: int) -> NoReturn:
        """
        End the process; after a signal, without waiting for threads or cleanup of libraries.

        :param status: exit status, if no signal arrived.
        """
        if not self.number:
            # Python removes handlers before it exits: another signal would then kill it.
            for number in (signal.SIGINT, signal.SIGTERM) if self._to_zero else ():
                signal.signal(number, signal.SIG_IGN)
            sys.exit(status)
        self._end_now()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """Raise at the first signal; later signals must not interrupt the cleanup."""
        self.number = self.number or number
        if self._at_once:
            self._end_now()
        if not self._is_raised:
            self._is_raised = True
            sys.unraisablehook = threading.excepthook = _ignore
            raise KeyboardInterrupt

    def _watch(self, reading: int) -> None:
        while received := os.read(reading, 1):
            if received[0] in _SIGNALS:
                self.number = self.number or received[0]
                threading.Event().wait(_GRACE_S)
                self._end_now()

    def _end_now(self) -> NoReturn:
        """End the process and all processes that it started, without unwinding the stack."""
        if self._to_zero:
            os._exit(0)
        kill_children()
        remove_unfinished()
        if threading.current_thread() is threading.main_thread():
            self.report()
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
        elif self._is_reported:  # perhaps the main thread is just printing
            self._is_printed.wait(_GRACE_S / 2)
        if not self._is_printed.is_set():  # without locks, one of which the main thread may hold
            line = f'{self._command.name}: {self._command.interrupted(self.number)}\n'
            start = '\n' if _bars() else ''
            with contextlib.suppress(OSError):
                os.write(2, (start + line).encode())
        os._exit(128 + self.number)


def _ignore(*_: object) -> None:
    """Ignore exceptions raised while the process exits."""
