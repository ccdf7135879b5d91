# SPDX-License-Identifier: Apache-2.0
"""A command prints its current activity at once, and repeats it periodically."""

import io
import logging
import threading

import pytest

from surgseg_ros.core.timing import Progress, forward_logs

PATIENCE_S = 100.0


class Terminal(io.StringIO):
    """Keeps lines, and lets a test wait for one."""

    def __init__(self) -> None:
        super().__init__()
        self._news = threading.Condition()

    def write(self, text: str) -> int:
        with self._news:
            written = super().write(text)
            self._news.notify_all()
        return written

    def wait_for(self, text: str, times: int = 1) -> bool:
        with self._news:
            return self._news.wait_for(lambda: self.getvalue().count(text) >= times, PATIENCE_S)


def test_an_activity_is_repeated_with_its_time_until_the_next() -> None:
    terminal = Terminal()
    with Progress('benchmark', terminal, silence_s=0.01) as progress:
        progress.print_line('loading')
        assert terminal.wait_for('benchmark: loading (', times=3)
        progress.print_line('measuring')
        progress.update('measuring: 7 of 9')
        assert terminal.wait_for('measuring: 7 of 9 (0 s)')
    lines = terminal.getvalue().splitlines()
    assert lines[lines.index('benchmark: measuring') + 1].startswith('benchmark: measuring')


def test_prints_nothing_after_the_end_or_while_there_is_other_output() -> None:
    terminal = Terminal()
    with Progress('demo', terminal, silence_s=PATIENCE_S) as progress:
        for number in range(3):
            progress.print_line(f'step {number}')
    assert terminal.getvalue() == 'demo: step 0\ndemo: step 1\ndemo: step 2\n'
    assert not any(thread.name == 'progress' for thread in threading.enumerate())


def test_an_error_is_propagated(capsys: pytest.CaptureFixture[str]) -> None:
    def divide() -> None:
        with Progress('demo') as progress:
            progress.print_line('dividing')
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        divide()
    assert capsys.readouterr().err == 'demo: dividing\n'


def test_a_closed_terminal_does_not_stop_the_command() -> None:
    terminal = io.StringIO()
    terminal.close()
    lines: list[str] = []
    with Progress('demo', terminal) as progress:
        for line in ('one', 'two'):
            progress.print_line(line)
            lines.append(line)
    assert lines == ['one', 'two']
    assert not any(thread.name == 'progress' for thread in threading.enumerate())


def test_what_is_logged_goes_to_the_innermost_block_from_level_info() -> None:
    logger = logging.getLogger('surgseg_ros.core.something')
    before = logger.getEffectiveLevel()
    outer: list[str] = []
    inner: list[tuple[int, str]] = []
    with forward_logs(lambda level, text: outer.append(text)):
        logger.info('first')
        with forward_logs(lambda level, text: inner.append((level, text))):
            logger.debug('no')
            logger.warning('%s', 'second')
        logger.info('third')
    logger.error('nobody is told')
    assert outer == ['first', 'third']
    assert inner == [(logging.WARNING, 'second')]
    assert logger.getEffectiveLevel() == before
