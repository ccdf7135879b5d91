# SPDX-License-Identifier: Apache-2.0
"""How old a result may be, by the clock of receipt or of headers, and its generation."""

import threading

import pytest

from surgseg_ros.core.reasons import ReasonCode
from surgseg_ros.node.freshness import (
    HEADER,
    RECEIPT,
    Age,
    Generation,
    ResultPolicy,
    clock_warning,
    staleness,
)


@pytest.mark.parametrize(
    ('age', 'policy', 'text'),
    [
        (Age(500, 9e9), ResultPolicy(), ''),
        (Age(501, 0), ResultPolicy(), '501 ms after its receipt, and stale_after_ms is 500'),
        (Age(501, 0), ResultPolicy(max_frame_age_ms=900), 'stale_after_ms is 500'),
        (Age(100, 9e9), ResultPolicy(max_frame_age_ms=100), ''),
        (
            Age(101, 0),
            ResultPolicy(max_frame_age_ms=100),
            '101 ms after its receipt, and max_frame_age',
        ),
        (
            Age(0, 101),
            ResultPolicy(max_frame_age_ms=100, age_source=HEADER),
            '101 ms after its stamp',
        ),
        (Age(101, 99), ResultPolicy(max_frame_age_ms=100, age_source=HEADER), ''),
        (Age(0, 9e9), ResultPolicy(age_source=HEADER), ''),
    ],
)
def test_the_selected_clock_decides_whether_a_result_is_too_old(age, policy, text):
    reason = staleness(age, policy)
    assert (reason is not None) == bool(text)
    assert reason is None or (reason.code is ReasonCode.TOO_OLD and text in reason.text)


@pytest.mark.parametrize(
    ('header_ms', 'source', 'text'),
    [
        (-1, HEADER, '0.001 s in the future'),
        (0, HEADER, ''),
        (10_000, HEADER, ''),
        (10_001, HEADER, '10.001 s old'),
        (-1, RECEIPT, ''),
        (1e12, RECEIPT, ''),
    ],
)
def test_implausible_stamps_are_reported_if_age_is_measured_by_headers(header_ms, source, text):
    reason = clock_warning(Age(0, header_ms), ResultPolicy(age_source=source))
    assert (reason is not None) == bool(text)
    assert reason is None or (reason.code is ReasonCode.CLOCKS_DIFFER and text in reason.text)


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
