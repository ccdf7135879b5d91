# SPDX-License-Identifier: Apache-2.0
"""Finds implausible stamps, compared with the images before."""

import pytest

from surgseg_ros.core.gates import StampMonitor
from surgseg_ros.core.reasons import ReasonCode

S = 10**9
SIZE = (48, 80)


def check(*steps, size=SIZE):
    """Give a monitor the (stamp, receipt time) of images in ns; return the last verdict."""
    monitor = StampMonitor()
    for stamp_ns, received_ns in steps[:-1]:
        monitor.check(stamp_ns, received_ns, SIZE)
    return monitor.check(*steps[-1], size)


@pytest.mark.parametrize(
    'steps',
    [
        [(5 * S, 0)],
        [(5 * S, 0), (6 * S, S)],
        [(5 * S, 0), (3600 * S, 3600 * S)],  # the camera was off for an hour
        [(5 * S, 0), (6 * S, 3600 * S)],  # a bag was paused
        [(5 * S, 0), (15 * S, S)],  # frames were skipped
    ],
)
def test_accepts_plausible_stamps(steps):
    assert check(*steps) == ()


@pytest.mark.parametrize(
    ('steps', 'expected', 'code', 'restarts'),
    [
        ([(0, 0)], 'the stamp is zero', ReasonCode.STAMP_ZERO, False),
        ([(5 * S, 0), (0, S)], 'the stamp is zero', ReasonCode.STAMP_ZERO, False),
        ([(5 * S, 0), (5 * S, S)], 'the same stamp', ReasonCode.STAMP_REPEATED, False),
        ([(5 * S, 0), (4 * S, S)], 'stamps go back from 5000000000 to 4000000000', None, True),
        ([(5 * S, 0), (17 * S, S)], 'stamps jump ahead from 5000000000', None, True),
    ],
)
def test_reports_implausible_stamps_and_marks_only_meaningless_ones_as_unreliable(
    steps, expected, code, restarts
):
    (anomaly,) = check(*steps)
    assert expected in anomaly.text
    assert (anomaly.code, anomaly.restarts) == (code, restarts)
    assert anomaly.degrades == (code is not None)


def test_another_size_resets_the_state():
    (anomaly,) = check((5 * S, 0), (6 * S, S), size=(24, 32))
    assert 'from 80x48 to 32x24' in anomaly.text
    assert (anomaly.degrades, anomaly.restarts) == (False, True)


def test_a_reset_clears_the_history():
    monitor = StampMonitor()
    monitor.check(9 * S, 0, SIZE)
    monitor.reset()
    assert monitor.check(3 * S, S, (5, 5)) == ()
