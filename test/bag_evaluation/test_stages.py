# SPDX-License-Identifier: Apache-2.0
"""Iterators between processes: order, limited memory, errors and ends."""

import errno
import functools
import gc
import multiprocessing
import os
import signal
import threading
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from calls import (
    failing,
    killed,
    killed_after,
    leaving,
    locked,
    noted,
    numbered,
    refusing,
    summed,
)

from surgseg_ros.bag_evaluation import worker_pool
from surgseg_ros.bag_evaluation.stages import WorkerError, consumed, produced


def test_items_of_another_process_come_in_order_and_unchanged():
    with closing(produced(functools.partial(numbered, 50), 3)) as items:
        for number, (process, array) in enumerate(items):
            assert process != os.getpid()
            assert array.shape == (number % 7, 5)
            assert (array == number).all()
    assert number == 49


def test_memory_is_used_again_only_when_no_array_refers_to_it(tmp_path):
    kept = []
    with closing(produced(functools.partial(noted, 9, tmp_path), 4)) as items:
        for _ in range(4):
            _, array = next(items)
            kept.append(array[1:, 2:])
            del array
        thread = threading.Thread(target=lambda: kept.append(next(items)[1]))
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
        assert [int(array[0, 0]) for array in kept] == [0, 1, 2, 3]
        del kept[0]
        thread.join(60)
        assert [int(array[0, 0]) for array in kept] == [1, 2, 3, 4]
        kept.clear()
        assert [int(array[0, 0]) for _, array in items] == [5, 6, 7, 8]
    assert len(list(tmp_path.iterdir())) == 9


def test_arrays_in_reference_cycles_do_not_stop_the_iteration():
    found = []
    for _, array in produced(functools.partial(numbered, 9), 2):
        cycle = [array]
        cycle.append(cycle)
        found.append(array.tolist())
    assert found == [[[number] * 5] * (number % 7) for number in range(9)]


def test_items_reach_a_function_in_another_process():
    items = (np.full((3, 4), number) for number in range(40))
    process, total, count = consumed(summed, items, 2)
    assert process != os.getpid()
    assert (total, count) == (12 * sum(range(40)), 40)


@pytest.mark.parametrize('count', [0, 3])
def test_errors_of_the_other_process_are_raised_after_its_items(count):
    found = []
    with pytest.raises(ValueError, match=f'{count} is the end'):
        found.extend(produced(functools.partial(failing, count), 4))
    assert [array.tolist() for array in found] == [[[n] * 5] * 4 for n in range(count)]
    items = iter(range(10**9))
    with pytest.raises(ValueError, match=f'{count} is the end'):
        consumed(functools.partial(failing, count), items, 4)
    assert next(items) < 10**8
    assert not multiprocessing.active_children()


def test_a_killed_process_is_reported():
    with pytest.raises(WorkerError, match='was killed: check the memory'):
        list(produced(killed, 4))
    for count in (1, 3):
        with pytest.raises(WorkerError, match='was killed: check the memory'):
            list(produced(functools.partial(killed_after, count), 4))
    with pytest.raises(WorkerError, match='was killed: check the memory'):
        consumed(killed, iter(range(10**9)), 4)


def test_an_exit_without_a_result_is_reported():
    with pytest.raises(WorkerError, match='ended with exit status 3'):
        list(produced(leaving, 4))
    with pytest.raises(WorkerError, match='ended with exit status 3'):
        consumed(leaving, iter(range(10**9)), 4)


@pytest.mark.parametrize(
    ('function', 'text'), [(refusing, 'ImageError: it is not an image'), (locked, 'it is locked')]
)
def test_an_error_that_cannot_be_sent_keeps_its_text(function, text):
    with pytest.raises(RuntimeError, match=text) as raised:
        list(produced(function, 4))
    assert f'in {function.__name__}' in str(raised.value.__cause__)
    with pytest.raises(RuntimeError, match=text) as raised:
        consumed(function, iter(range(10**9)), 4)
    assert getattr(raised.value, '__notes__', []) == (['a note'] if function is refusing else [])


def test_memory_that_cannot_be_mapped_is_an_error_of_this_bag_only(monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOMEM, 'no memory')

    monkeypatch.setattr(worker_pool, 'unpack', refuse)
    with pytest.raises(WorkerError, match='no memory'):
        list(produced(functools.partial(numbered, 50), 3))


def open_files():
    return len(list(Path('/proc/self/fd').iterdir()))


@pytest.mark.parametrize('error', [KeyboardInterrupt, ValueError])
def test_an_error_in_this_process_ends_both_and_lets_them_clean_up(error, tmp_path):
    def items():
        with closing(produced(functools.partial(noted, 10**9, tmp_path / 'a'), 4)) as source:
            for number, (_, array) in enumerate(source):
                yield array
                if number == 9:
                    raise error

    (tmp_path / 'a').mkdir()
    before, handler = open_files(), signal.getsignal(signal.SIGTERM)
    with pytest.raises(error):
        consumed(functools.partial(summed, folder=tmp_path / 'b'), items(), 4)
    gc.collect()
    assert not multiprocessing.active_children()
    assert open_files() <= before
    assert not (tmp_path / 'b').exists()
    assert signal.getsignal(signal.SIGTERM) == handler
