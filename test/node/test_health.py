# SPDX-License-Identifier: Apache-2.0
"""The verdict on whether masks can be used; the test controls the clock."""

import pytest

from surgseg_ros.core.reasons import Reason, ReasonCode
from surgseg_ros.node.health import DEGRADED, INACTIVE, STALE, VALID, Health

MS = 10**6
LIMIT_MS = 500

REJECTED = Reason(ReasonCode.IMAGE_REJECTED, 'bad image')
DEMO = Reason(ReasonCode.MODEL_DEMO, 'demo only')
RESTING = Reason(ReasonCode.NOT_ACTIVE, 'a person asked')


@pytest.fixture
def health() -> Health:
    """Return a `Health` that was activated at 1000 ms."""
    health = Health()
    health.activate(1000 * MS)
    return health


def record_frame(health: Health, at_ms: int, stamp_ns: int = 42) -> None:
    health.record_arrival(at_ms * MS)
    health.record_mask(at_ms * MS, stamp_ns, {'network': 1.0})


def reported(health: Health, at_ms: int) -> tuple[str, str, tuple[str, ...]]:
    verdict = health.verdict(at_ms * MS, LIMIT_MS)
    return verdict.state, verdict.reason, verdict.codes


def test_the_initial_state_is_inactive():
    assert reported(Health(), 0) == (INACTIVE, 'not configured yet', ('not_configured',))


def test_without_an_image_the_status_is_stale(health):
    assert reported(health, 1000) == (STALE, 'no image has arrived yet', ('no_image_yet',))
    assert health.silent_for_ns(1300 * MS) == 300 * MS


def test_a_recent_mask_is_valid_and_its_age_is_that_of_its_image(health):
    record_frame(health, at_ms=2000)
    assert reported(health, 2500) == (VALID, '', ())
    stale = 'no image has arrived within 500 ms'
    assert reported(health, 2501) == (STALE, stale, ('stale_camera',))
    health.record_silence(Reason(ReasonCode.NO_PUBLISHER, 'nobody publishes'))
    codes = ('no_publisher', 'stale_camera')
    assert reported(health, 2501) == (STALE, f'{stale}; nobody publishes', codes)
    assert health.last_stamp_ns() == 42
    assert health.silent_for_ns(2600 * MS) == 600 * MS


def test_a_new_publisher_is_not_reported_as_silent_at_once(health):
    health.record_publisher(5900 * MS)
    assert health.silent_for_ns(6000 * MS) == 100 * MS
    health.record_arrival(5950 * MS)
    assert health.silent_for_ns(6000 * MS) == 50 * MS


def test_a_mask_is_as_old_as_its_image(health):
    health.record_arrival(2000 * MS)
    health.record_mask(1000 * MS, 42, {})  # it spent a second in the middleware
    assert health.verdict(2001 * MS, LIMIT_MS).state == STALE


def test_images_without_masks_have_another_reason_than_no_images(health):
    record_frame(health, at_ms=2000)
    health.record_arrival(2550 * MS)
    reason = 'images arrive, but no mask is ready within 500 ms'
    assert reported(health, 2600) == (STALE, reason, ('stale_mask',))


def test_an_error_degrades_the_status_until_the_next_mask(health):
    record_frame(health, at_ms=2000)
    health.record_failure(REJECTED)
    assert reported(health, 2100) == (DEGRADED, 'bad image', ('image_rejected',))
    record_frame(health, at_ms=2200)
    assert reported(health, 2300) == (VALID, '', ())
    assert health.counts()['rejected'] == 1


def test_an_error_is_the_reason_for_a_missing_mask(health):
    health.record_arrival(1100 * MS)
    health.record_failure(REJECTED)
    assert reported(health, 1200) == (STALE, 'bad image', ('image_rejected',))


def test_before_the_first_mask_the_reason_depends_on_whether_images_arrive(health):
    health.record_arrival(1100 * MS)
    reason = 'images arrive, but no mask is ready yet'
    assert reported(health, 1200) == (STALE, reason, ('no_mask_yet',))


def test_a_limited_model_is_never_valid():
    health = Health()
    health.activate(0, (DEMO,))
    record_frame(health, at_ms=1)
    assert reported(health, 2) == (DEGRADED, 'demo only', ('model_demo',))
    health.record_failure(REJECTED)
    codes = ('image_rejected', 'model_demo')
    assert reported(health, 2) == (DEGRADED, 'demo only; bad image', codes)


def test_codes_are_sorted_and_each_is_reported_once(health):
    record_frame(health, at_ms=2000)
    health.record_warning(*(Reason(code, code.value) for code in reversed(ReasonCode)), DEMO)
    _, reason, codes = reported(health, 2100)
    assert list(codes) == sorted(code.value for code in ReasonCode)
    assert reason.count('; ') == len(codes)


def test_an_inactive_node_is_inactive_whatever_came_before(health):
    record_frame(health, at_ms=2000)
    health.deactivate(RESTING)
    assert reported(health, 2001) == (INACTIVE, 'a person asked', ('not_active',))
    assert health.silent_for_ns(9000 * MS) is None


def test_an_activation_resets_the_state_but_keeps_the_counts(health):
    record_frame(health, at_ms=2000)
    assert health.first_time('cause')
    assert not health.first_time('cause')
    health.deactivate(RESTING)
    health.activate(9000 * MS)
    assert reported(health, 9001) == (STALE, 'no image has arrived yet', ('no_image_yet',))
    assert health.last_stamp_ns() is None
    assert health.first_time('cause')
    assert health.times_ms() == {}
    assert health.counts()['published'] == 1


def test_times_are_summarized(health):
    for time_ms in range(1, 102):
        health.record_mask(0, 0, {'network': float(time_ms)})
    assert health.times_ms() == {'network': (51.0, 96.0, 100.0)}


def test_transport_times_include_images_without_a_mask(health):
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
