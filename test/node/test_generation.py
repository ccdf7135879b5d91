# SPDX-License-Identifier: Apache-2.0
"""A result belongs to a generation, which does not end while one of its results is published."""

import threading

from surgseg_ros.node.freshness import Generation


def test_a_result_of_an_older_generation_is_reported():
    generation = Generation()
    first = generation.advance()
    with generation.held(first) as current:
        assert current
    generation.advance()
    with generation.held(first) as current:
        assert not current


def test_a_generation_does_not_end_while_it_is_held():
    """Nothing is published once a deactivation has begun."""
    generation = Generation()
    number = generation.advance()
    ended = threading.Event()

    def end():
        generation.advance()
        ended.set()

    thread = threading.Thread(target=end)
    with generation.held(number):
        thread.start()
        assert not ended.is_set()
        assert generation.number == number
    thread.join()
    assert generation.number == number + 1
