# SPDX-License-Identifier: Apache-2.0
"""The verdict on whether masks can be used, by a clock that the test holds."""

import pytest

from surgseg_ros.node.health import DEGRADED, INACTIVE, STALE, VALID, Health

MS = 10**6
LIMIT_MS = 500


@pytest.fixture
def health() -> Health:
    """Give one that was activated at 1000 ms."""
    health = Health()
    health.activate(1000 * MS)
    return health


def record_frame(health: Health, at_ms: int, stamp_ns: int = 42) -> None:
    health.record_arrival(at_ms * MS)
    health.record_mask(at_ms * MS, stamp_ns, {'network': 1.0})


def test_at_first_it_is_inactive():
    assert Health().verdict(0, LIMIT_MS) == (INACTIVE, 'not configured yet')


def test_without_an_image_it_is_stale(health):
    assert health.verdict(1000 * MS, LIMIT_MS) == (STALE, 'no image has come yet')
    assert health.silent_for_ns(1300 * MS) == 300 * MS


def test_a_young_mask_is_valid_and_its_image_counts(health):
    record_frame(health, at_ms=2000)
    assert health.verdict(2500 * MS, LIMIT_MS) == (VALID, '')
    assert health.verdict(2501 * MS, LIMIT_MS) == (STALE, 'no image has come within 500 ms')
    assert health.last_stamp_ns() == 42
    assert health.silent_for_ns(2600 * MS) == 600 * MS


def test_a_publisher_gets_its_time_before_it_is_called_silent(health):
    health.record_publisher(5900 * MS)
    assert health.silent_for_ns(6000 * MS) == 100 * MS
    health.record_arrival(5950 * MS)
    assert health.silent_for_ns(6000 * MS) == 50 * MS


def test_a_mask_is_as_old_as_its_image(health):
    health.record_arrival(2000 * MS)
    health.record_mask(1000 * MS, 42, {})  # the middleware had it for a second
    assert health.verdict(2001 * MS, LIMIT_MS).state == STALE


def test_images_without_masks_are_told_from_silence(health):
    record_frame(health, at_ms=2000)
    health.record_arrival(2550 * MS)
    reason = 'images come, but no mask is ready within 500 ms'
    assert health.verdict(2600 * MS, LIMIT_MS) == (STALE, reason)


def test_trouble_degrades_until_the_next_mask(health):
    record_frame(health, at_ms=2000)
    health.record_failure('bad image')
    assert health.verdict(2100 * MS, LIMIT_MS) == (DEGRADED, 'bad image')
    record_frame(health, at_ms=2200)
    assert health.verdict(2300 * MS, LIMIT_MS) == (VALID, '')
    assert health.counts()['rejected'] == 1


def test_trouble_explains_why_there_is_no_mask(health):
    health.record_arrival(1100 * MS)
    health.record_failure('bad image')
    assert health.verdict(1200 * MS, LIMIT_MS) == (STALE, 'bad image')


def test_a_limited_model_is_never_valid():
    health = Health()
    health.activate(0, ('demo only',))
    record_frame(health, at_ms=1)
    assert health.verdict(2 * MS, LIMIT_MS) == (DEGRADED, 'demo only')
    health.record_failure('bad image')
    assert health.verdict(2 * MS, LIMIT_MS) == (DEGRADED, 'demo only; bad image')


def test_inactive_it_is_whatever_came_before(health):
    record_frame(health, at_ms=2000)
    health.deactivate('a person asked')
    assert health.verdict(2001 * MS, LIMIT_MS) == (INACTIVE, 'a person asked')
    assert health.silent_for_ns(9000 * MS) is None


def test_an_activation_forgets_the_last_but_keeps_its_counts(health):
    record_frame(health, at_ms=2000)
    assert health.first_time('cause')
    assert not health.first_time('cause')
    health.deactivate('for a while')
    health.activate(9000 * MS)
    assert health.verdict(9001 * MS, LIMIT_MS) == (STALE, 'no image has come yet')
    assert health.last_stamp_ns() is None
    assert health.first_time('cause')
    assert health.times_ms() == {}
    assert health.counts()['published'] == 1


def test_times_are_summed_up(health):
    for time_ms in range(1, 102):
        health.record_mask(0, 0, {'network': float(time_ms)})
    assert health.times_ms() == {'network': (51.0, 96.0, 100.0)}


def test_the_way_of_every_image_is_summed_up_also_of_those_without_a_mask(health):
    for time_ms in (1.0, 3.0, 2.0):
        health.record_arrival(0, time_ms)
    health.record_arrival(0)
    assert health.times_ms()['transport'].p50 == 2.0
    assert health.counts()['received'] == 4


def test_counts_add_up(health):
    health.count('lost')
    health.count('lost', 3)
    counts = health.counts()
    assert (counts['lost'], counts['never']) == (4, 0)
