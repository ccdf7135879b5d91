# SPDX-License-Identifier: Apache-2.0
"""Calls in other processes: their arrays, errors and ends."""

import logging
import multiprocessing
import os
import threading
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from calls import described, die_at, wait_for, with_a_killed_worker

from surgseg_ros.bag_evaluation.stages import consumed
from surgseg_ros.bag_evaluation.worker_pool import Block, Packed, Sender, WorkerPool, pack, unpack


@pytest.fixture(scope='module')
def pool():
    with WorkerPool(1) as started:
        yield started


def test_arrays_of_any_kind_reach_the_process_unchanged(pool):
    plane = np.arange(60, dtype=np.uint16).reshape(6, 10)
    arrays = [plane, plane[:, ::2], plane.T, plane[:0], np.arange(10**6), plane > 3]
    pending = [pool.begin(described, array, number=number) for number, array in enumerate(arrays)]
    for number, (array, result) in enumerate(zip(arrays, pending)):
        process, *found = result()
        assert process != os.getpid()
        assert found == [array.dtype.str, array.shape, int(array.sum()) + number]


def test_an_error_is_raised_where_the_result_is_needed(pool):
    failed = pool.begin(described, np.ones(3), -1)
    assert pool.begin(described, np.ones(3), 1)()[3] == 4
    with pytest.raises(ValueError, match='-1 is negative'):
        failed()


def test_what_cannot_be_sent_is_an_error_and_keeps_no_memory(pool):
    for _ in range(5):
        with pytest.raises(Exception, match=r'(?i)pickle'):
            pool.begin(lambda array: 0, np.ones(3))
    assert pool.begin(described, np.ones(3))()[3] == 3


def test_memory_is_limited_and_a_call_waits_for_it(pool, tmp_path):
    begun = []

    def begin():
        for number in range(4):
            begun.append(pool.begin(wait_for, tmp_path / 'go', np.full(10, number)))

    thread = threading.Thread(target=begin)
    thread.start()
    try:
        end_s = time.monotonic() + 300
        while len(begun) < 2 and time.monotonic() < end_s:
            time.sleep(0.01)
        thread.join(0.2)
        assert len(begun) == 2
    finally:
        (tmp_path / 'go').touch()
    thread.join(60)
    assert [result() for result in begun] == [0, 10, 20, 30]


def test_without_processes_a_call_is_made_when_its_result_is_requested():
    with WorkerPool() as pool:
        result = pool.begin(described, np.ones(3))
        assert result()[0] == os.getpid()


def test_the_work_of_a_killed_process_is_done_in_this_one(caplog):
    caplog.set_level(logging.INFO)  # other libraries raise the level of the root logger
    with WorkerPool(1) as pool:
        pending = [pool.begin(die_at, n, os.getpid(), np.ones(2)) for n in range(12)]
        assert [result() for result in pending] == [2 + n for n in range(12)]
    assert caplog.text.count('was killed') == 1


def test_a_killed_process_of_another_process_is_reported_on_stderr(capfd):
    assert consumed(with_a_killed_worker, [np.ones(2)], 4) == [5]
    assert capfd.readouterr().err.count('was killed: check the memory') == 1


def test_arrays_are_aligned():
    arrays = [np.arange(count, dtype=np.float64)[1:] for count in (2, 9, 10)]
    pickled, stored = pack([*arrays, np.ones(3, np.uint8), np.ones(5)])
    block = Block()
    found, _ = unpack(Packed(pickled, block.store(stored)), {})
    assert all(array.ctypes.data % 64 == 0 for array in found)
    assert all((array == expected).all() for array, expected in zip(found, arrays))
    block.close()


def test_more_blocks_than_can_be_numbered_are_refused():
    ours, theirs = multiprocessing.Pipe()
    with closing(ours), closing(theirs):
        with pytest.raises(ValueError, match='at most 255'):
            Sender(ours, 256)
        Sender(ours, 255).close()


def files():
    """List the open files that are shared memory."""
    names = Path('/proc/self/fd').iterdir()
    return [name for name in names if name.is_symlink() and 'surgseg_ros' in str(name.readlink())]


def interrupt(never):
    with WorkerPool(1) as pool:
        assert pool.begin(described, np.ones(2))()[3] == 2
        pool.begin(wait_for, never, np.ones(2))
        assert len(files()) >= 2
        raise KeyboardInterrupt


def test_after_an_error_processes_are_killed_and_memory_is_freed(tmp_path):
    before = len(files())
    with pytest.raises(KeyboardInterrupt):
        interrupt(tmp_path / 'never')
    assert len(files()) == before
