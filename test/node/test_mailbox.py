# SPDX-License-Identifier: Apache-2.0
"""One slot per camera: the newest frame, and each camera in its turn."""

import threading

from surgseg_ros.node.freshness import Mailbox
from surgseg_ros.node.health import Frame


def frame(camera: int, number: int) -> Frame:
    return Frame(camera, bytes([number]), number, 0, 1)


def test_the_newest_frame_replaces_the_older():
    mailbox = Mailbox()
    assert [mailbox.put(frame(0, number)) for number in range(3)] == [False, True, True]
    assert mailbox.take() == (frame(0, 2),)


def test_no_camera_waits_for_a_quicker_one():
    mailbox = Mailbox()
    for taken in (frame(0, 1), frame(1, 2), frame(0, 3)):
        mailbox.put(taken)
    assert mailbox.take() == (frame(0, 3),), 'the first in the queue, with its newest'
    mailbox.put(frame(0, 4))
    assert mailbox.take() == (frame(1, 2),)
    assert mailbox.take() == (frame(0, 4),)


def test_what_other_cameras_have_comes_along_and_what_they_have_not_is_not_waited_for():
    mailbox = Mailbox()
    for taken in (frame(2, 1), frame(0, 2), frame(1, 3)):
        mailbox.put(taken)
    assert mailbox.take(2) == (frame(2, 1), frame(0, 2))
    assert mailbox.take(2) == (frame(1, 3),)


def test_taking_waits_for_a_frame():
    mailbox, taken = Mailbox(), []
    thread = threading.Thread(target=lambda: taken.append(mailbox.take()))
    thread.start()
    mailbox.put(frame(0, 7))
    thread.join()
    assert taken == [(frame(0, 7),)]


def test_closing_ends_the_wait_and_leaves_nothing_to_take():
    mailbox, taken = Mailbox(), []
    thread = threading.Thread(target=lambda: taken.append(mailbox.take()))
    thread.start()
    mailbox.close()
    thread.join()
    mailbox.put(frame(0, 1))
    assert [*taken, mailbox.take()] == [(), ()]


def test_what_is_cleared_is_not_taken():
    mailbox = Mailbox()
    mailbox.put(frame(0, 1))
    mailbox.clear()
    assert not mailbox.put(frame(0, 2)), 'nothing was there to drop'
    assert mailbox.take() == (frame(0, 2),)
