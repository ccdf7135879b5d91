# SPDX-License-Identifier: Apache-2.0
"""A thread prefetches items in order, up to a limit, and ends when it is closed."""

import threading
import time
from contextlib import closing
from functools import partial

import pytest

from surgseg_ros.core.processes import follow, in_order, prefetch


def test_items_keep_their_order_through_several_threads():
    numbers = prefetch(x for x in range(500))
    assert list(prefetch(2 * x for x in numbers)) == list(range(0, 1000, 2))


def test_an_exception_is_raised_after_the_items():
    def source():
        yield 1
        yield 2
        raise ValueError('broken')

    found = []
    with pytest.raises(ValueError, match='broken'):
        found.extend(prefetch(source()))
    assert found == [1, 2]


def test_prefetching_is_limited():
    made = []
    full = threading.Event()

    def source():
        for number in range(100):
            made.append(number)
            if number == 3:  # one is taken, two are queued, and one is pending
                full.set()
            yield number

    with closing(prefetch(source(), depth=2)) as items:
        assert next(items) == 0
        assert full.wait(60)
        assert len(made) == 4


def test_closing_closes_the_source_in_its_own_thread():
    closed_in = []

    def source():
        try:
            while True:
                yield 1
        finally:
            closed_in.append(threading.current_thread())

    items = prefetch(source())
    assert next(items) == 1
    items.close()
    assert [thread.name for thread in closed_in] == ['prefetch']
    assert not closed_in[0].is_alive()


@pytest.mark.parametrize('threads', [0, 1, 3])
def test_results_of_calls_keep_their_order_and_errors_their_place(threads):
    def call(number):
        if number == 7:
            raise ValueError('broken')
        return number

    found = []
    with pytest.raises(ValueError, match='broken'):
        found.extend(in_order((partial(call, number) for number in range(20)), threads))
    assert found == [*range(7)]


@pytest.mark.parametrize(('threads', 'depth', 'begun'), [(0, 0, 1), (2, 0, 3), (1, 4, 5)])
def test_calls_in_advance_are_limited(threads, depth, begun):
    made = []

    def calls():
        for number in range(100):
            made.append(number)
            yield partial(int, number)

    with closing(in_order(calls(), threads, depth)) as results:
        assert next(results) == 0
        assert len(made) == begun


def test_a_follower_thread_gets_items_in_order():
    seen = []
    follow(lambda item: seen.append((item, threading.current_thread())), iter(range(50)))
    assert [item for item, _ in seen] == list(range(50))
    assert {thread for _, thread in seen}.isdisjoint({threading.current_thread()})


def test_the_lag_of_a_follower_is_limited():
    got, lead = [], []

    def items():
        for number in range(100):
            got.append(number)
            yield number

    def take(item):
        time.sleep(0.001)
        lead.append(len(got) - item)

    follow(take, items(), depth=2)
    assert len(lead) == 100
    assert max(lead) == 3  # one in progress, and two queued


def test_an_exception_of_the_follower_ends_the_items():
    got = []

    def items():
        for number in range(100):
            got.append(number)
            yield number

    def refuse(item):
        if item == 5:
            raise ValueError('broken')

    with pytest.raises(ValueError, match='broken'):
        follow(refuse, items(), depth=2)
    assert len(got) <= 5 + 2 + 2
