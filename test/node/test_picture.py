# SPDX-License-Identifier: Apache-2.0
"""What is odd about a picture after what came before is found."""

import pytest

from surgseg_ros.messages.results import header
from surgseg_ros.node.mailbox import Frame
from surgseg_ros.node.picture import Course

S = 10**9
SIZE = (48, 80)


def follow(*steps, size=SIZE):
    """Give a camera's course the (stamp, steady time) of pictures in ns; what the last one is."""
    course = Course()
    for stamp_ns, received_ns in steps[:-1]:
        course.follow(Frame(0, b'', received_ns, 0, 0), header(stamp_ns), SIZE)
    stamp_ns, received_ns = steps[-1]
    return course.follow(Frame(0, b'', received_ns, 0, 0), header(stamp_ns), size)


@pytest.mark.parametrize(
    'steps',
    [
        [(5 * S, 0)],
        [(5 * S, 0), (6 * S, S)],
        [(5 * S, 0), (3600 * S, 3600 * S)],  # the camera was off for an hour
        [(5 * S, 0), (6 * S, 3600 * S)],  # a bag was paused
        [(5 * S, 0), (15 * S, S)],  # frames were left out
    ],
)
def test_stamps_that_go_on_are_nothing_odd(steps):
    assert follow(*steps) == []


@pytest.mark.parametrize(
    ('steps', 'said', 'doubtful', 'anew'),
    [
        ([(0, 0)], 'the stamp is zero', True, False),
        ([(5 * S, 0), (0, S)], 'the stamp is zero', True, False),
        ([(5 * S, 0), (5 * S, S)], 'the same stamp', True, False),
        ([(5 * S, 0), (4 * S, S)], 'stamps go back from 5000000000 to 4000000000', False, True),
        ([(5 * S, 0), (17 * S, S)], 'stamps jump ahead from 5000000000', False, True),
    ],
)
def test_odd_stamps_are_told_and_only_those_that_tell_nothing_are_doubted(
    steps, said, doubtful, anew
):
    (oddity,) = follow(*steps)
    assert said in oddity.text
    assert (oddity.doubtful, oddity.anew) == (doubtful, anew)


def test_another_size_begins_anew():
    (oddity,) = follow((5 * S, 0), (6 * S, S), size=(24, 32))
    assert 'from 80x48 to 32x24' in oddity.text
    assert (oddity.doubtful, oddity.anew) == (False, True)


def test_an_activation_forgets_what_came_before():
    course = Course()
    course.follow(Frame(0, b'', 0, 0, generation=1), header(9 * S), SIZE)
    assert course.follow(Frame(0, b'', S, 0, generation=2), header(3 * S), (5, 5)) == []
