# SPDX-License-Identifier: Apache-2.0
"""While masks are stale, `no decision` is published when due; the test controls the clock."""

import pytest

from surgseg_ros.core.reasons import Reason, ReasonCode
from surgseg_ros.messages.serialization import IMAGE, stamp_ns
from surgseg_ros.node.freshness import (
    PUBLISH_NO_DECISION,
    SILENT,
    FailSafe,
    Generation,
    ResultPolicy,
)
from surgseg_ros.node.health import CameraChannel, Health, LastImage

MS = 10**6
STAMP_NS = 77 * 10**9
SIZE = (6, 8)


class FakeOutputs:
    """Fake Outputs."""

    def __init__(self):
        self.headers = []

    def wants_confidence(self):
        return False

    def publish_no_decision(self, header, image):
        assert image.shape == (*SIZE, 3)
        assert header.frame_id == 'left'
        self.headers.append(stamp_ns(header))


class OneCamera:
    """One camera, activated at 1000 ms, and a clock."""

    def __init__(self, fail_safe):
        self.health, self.reported = Health(), FakeOutputs()
        self.health.activate(1000 * MS)
        channel = CameraChannel('', IMAGE, None, self.health, self.reported)
        policy = ResultPolicy(stale_after_ms=500, fail_safe=fail_safe)
        self.now_ms = 1000
        self._fail_safe = FailSafe(
            (channel,), Generation(), lambda: policy, lambda: self.now_ms * MS
        )

    def record_image(self, mask=True):
        received_ns = self.now_ms * MS
        self.health.record_arrival(received_ns)
        self.health.record_image(LastImage(STAMP_NS, 'left', SIZE, received_ns))
        if mask:
            self.health.record_mask(received_ns, STAMP_NS, {})

    def pass_until(self, end_ms):
        """Advance the clock in steps of 10 ms; return the times of publications."""
        times_ms = []
        while self.now_ms < end_ms:
            self.now_ms += 10
            before = len(self.reported.headers)
            self._fail_safe.check()
            times_ms += [self.now_ms] * (len(self.reported.headers) - before)
        return times_ms


@pytest.fixture
def camera():
    return OneCamera(PUBLISH_NO_DECISION)


def test_without_any_image_nothing_is_published(camera):
    assert camera.pass_until(5000) == []


def test_no_decision_is_published_when_stale_and_then_periodically(camera):
    camera.record_image()
    assert camera.pass_until(3000) == [1510, 2010, 2510]
    assert camera.health.counts()['no_decision'] == 3


def test_stamps_continue_by_the_clock_of_the_camera_and_never_equal_those_of_images(camera):
    camera.record_image()
    camera.pass_until(2100)
    assert camera.reported.headers == [STAMP_NS + 510 * MS, STAMP_NS + 1010 * MS]


def test_a_mask_ends_it_and_the_next_gap_starts_it_again(camera):
    camera.record_image()
    assert camera.pass_until(1600) == [1510]
    camera.record_image()
    assert camera.pass_until(2200) == [2110]


def test_an_image_without_a_mask_is_enough_to_start_it(camera):
    camera.record_image(mask=False)
    assert camera.pass_until(1020) == [1010]


def test_nothing_is_published_while_inactive_or_if_disabled(camera):
    camera.record_image()
    camera.health.deactivate(Reason(ReasonCode.NOT_ACTIVE, 'a person asked'))
    assert camera.pass_until(5000) == []
    silent = OneCamera(SILENT)
    silent.record_image()
    assert silent.pass_until(5000) == []
