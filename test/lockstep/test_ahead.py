# SPDX-License-Identifier: Apache-2.0
"""A thread works ahead as far as it may, in order, and ends when it is not wanted any more."""

import threading
from contextlib import closing

import pytest

from surgseg_ros.lockstep.ahead import ahead


def test_items_come_in_order_through_several_threads():
    numbers = ahead(x for x in range(500))
    assert list(ahead(2 * x for x in numbers)) == list(range(0, 1000, 2))


def test_what_is_raised_comes_after_the_items():
    def source():
        yield 1
        yield 2
        raise ValueError('broken')

    found = []
    with pytest.raises(ValueError, match='broken'):
        found.extend(ahead(source()))
    assert found == [1, 2]


def test_it_is_ahead_no_farther_than_allowed():
    made = []
    full = threading.Event()

    def source():
        for number in range(100):
            made.append(number)
            if number == 3:  # one is taken, two wait, and one is in the hand
                full.set()
            yield number

    with closing(ahead(source(), depth=2)) as items:
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

    items = ahead(source())
    assert next(items) == 1
    items.close()
    assert [thread.name for thread in closed_in] == ['ahead']
    assert not closed_in[0].is_alive()
