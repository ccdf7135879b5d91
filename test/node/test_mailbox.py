# SPDX-License-Identifier: Apache-2.0
"""The newest frame of each camera in turn, or the newest pair; the test controls the clock."""

import threading

import numpy as np
import pytest
from bench import image_cdr
from hypothesis import given
from hypothesis import strategies as st

from surgseg_ros.node.health import Frame
from surgseg_ros.node.mailbox import Mailbox, NewestPair, Pair, Pairing

LEFT, RIGHT = 0, 1
MS = 10**6


def frame(camera: int, number: int) -> Frame:
    return Frame(camera, bytes([number]), number, 0, 1)


def fill(mailbox, *frames):
    for one in frames:
        mailbox.put(one)


def test_the_newest_frame_replaces_the_older():
    dropped = []
    mailbox = Mailbox(dropped=dropped.append)
    fill(mailbox, *(frame(0, number) for number in range(3)))
    assert mailbox.take() == (frame(0, 2),)
    assert dropped == [frame(0, 0), frame(0, 1)]


def test_no_camera_waits_for_a_faster_one():
    mailbox = Mailbox()
    fill(mailbox, frame(0, 1), frame(1, 2), frame(0, 3))
    assert mailbox.take() == (frame(0, 3),), 'the first in the queue, with its newest frame'
    mailbox.put(frame(0, 4))
    assert mailbox.take() == (frame(1, 2),)
    assert mailbox.take() == (frame(0, 4),)


def test_a_batch_has_the_frames_that_are_ready_and_waits_for_no_others():
    mailbox = Mailbox()
    fill(mailbox, frame(2, 1), frame(0, 2), frame(1, 3))
    assert mailbox.take(2) == (frame(2, 1), frame(0, 2))
    assert mailbox.take(2) == (frame(1, 3),)


@pytest.mark.parametrize('pairing', [None, Pairing(0, 0)])
def test_taking_waits_for_a_frame(pairing):
    mailbox, taken = Mailbox(pairing), []
    thread = threading.Thread(target=lambda: taken.append(mailbox.take()))
    thread.start()
    mailbox.put(frame(0, 7))
    thread.join()
    assert taken == [(frame(0, 7),)]


@pytest.mark.parametrize('pairing', [None, Pairing(0, 600_000)])
def test_closing_ends_the_wait_and_empties_the_mailbox(pairing):
    mailbox, taken = Mailbox(pairing, now_ns=lambda: 0), []
    if pairing is not None:
        mailbox.put(stamped(LEFT, 1))  # not due before 600 s
    thread = threading.Thread(target=lambda: taken.append(mailbox.take()))
    thread.start()
    mailbox.close()
    thread.join()
    mailbox.put(frame(0, 1))
    assert [*taken, mailbox.take()] == [(), ()]


def test_cleared_frames_are_not_taken():
    dropped = []
    mailbox = Mailbox(dropped=dropped.append)
    mailbox.put(frame(0, 1))
    mailbox.clear()
    mailbox.put(frame(0, 2))
    assert not dropped, 'there was nothing to drop'
    assert mailbox.take() == (frame(0, 2),)


def stamped(
    camera: int, stamp_ms: float, received_ms: float | None = None, generation: int = 1
) -> Frame:
    """Make a frame that is received at the time of its stamp, or at another time."""
    at_ms = stamp_ms if received_ms is None else received_ms
    cdr = image_cdr(np.zeros((1, 1, 3), np.uint8), round(stamp_ms * MS))
    return Frame(camera, cdr, round(at_ms * MS), 0, generation)


class Queue(NewestPair):
    """Records what it drops; names frames by their camera and stamp in milliseconds."""

    def __init__(self, tolerance_ms: float = 5, wait_ms: float = 30) -> None:
        self.lost: list[Frame] = []
        super().__init__(Pairing(tolerance_ms, wait_ms), self.lost.append)

    def add_all(self, *frames: Frame) -> 'Queue':
        for one in frames:
            self.add(one)
        return self

    def popped(self, now_ms: float, maximum: int = 1) -> tuple[bool, list[tuple[int, float]]]:
        """Return whether it is a pair, and its frames."""
        frames = self.pop(maximum, round(now_ms * MS))
        return isinstance(frames, Pair), names(frames)

    @property
    def dropped(self) -> list[tuple[int, float]]:
        return names(self.lost)


def names(frames) -> list[tuple[int, float]]:
    return [(one.camera, (one.stamp_ns or 0) / MS) for one in frames]


NOTHING = (False, [])


def test_equal_stamps_are_a_pair_whichever_camera_is_first():
    for first, second in ((LEFT, RIGHT), (RIGHT, LEFT)):
        queue = Queue(tolerance_ms=0)
        queue.add(stamped(first, 100))
        assert queue.popped(100) == NOTHING
        queue.add(stamped(second, 100, received_ms=120))
        assert queue.popped(120) == (True, [(LEFT, 100), (RIGHT, 100)])
        assert queue.popped(1000) == NOTHING


@pytest.mark.parametrize(('stamp_ms', 'is_pair'), [(95, True), (105, True), (94.9, False)])
def test_stamps_may_differ_by_the_tolerance(stamp_ms, is_pair):
    queue = Queue().add_all(stamped(LEFT, 100), stamped(RIGHT, stamp_ms))
    assert queue.popped(100)[0] == is_pair


def test_the_frame_with_the_nearest_stamp_is_the_partner():
    queue = Queue().add_all(stamped(LEFT, 96), stamped(LEFT, 101), stamped(LEFT, 104))
    queue.add(stamped(RIGHT, 100))
    assert queue.popped(104) == (True, [(LEFT, 101), (RIGHT, 100)])
    assert queue.dropped == [(LEFT, 96)]
    assert queue.popped(134) == (False, [(LEFT, 104)])


def test_a_newer_pair_replaces_an_older_one_but_an_incomplete_one_does_not():
    queue = Queue()
    for stamp_ms in (100, 133, 166):
        queue.add_all(stamped(LEFT, stamp_ms), stamped(RIGHT, stamp_ms))
    queue.add(stamped(LEFT, 200))
    assert queue.popped(300) == (True, [(LEFT, 166), (RIGHT, 166)])
    assert sorted(queue.dropped) == [(LEFT, 100), (LEFT, 133), (RIGHT, 100), (RIGHT, 133)]
    queue.add(stamped(RIGHT, 200, received_ms=210))
    assert queue.popped(300) == (True, [(LEFT, 200), (RIGHT, 200)])


def test_a_camera_may_be_late_by_more_than_a_frame():
    queue = Queue(wait_ms=50)
    queue.add_all(*(stamped(LEFT, stamp_ms) for stamp_ms in (100, 116, 133)))
    queue.add(stamped(RIGHT, 116, received_ms=140))
    assert queue.popped(140) == (True, [(LEFT, 116), (RIGHT, 116)])
    queue.add(stamped(RIGHT, 133, received_ms=157))
    assert queue.popped(157) == (True, [(LEFT, 133), (RIGHT, 133)])
    assert queue.dropped == [(LEFT, 100)]


def test_a_frame_is_served_alone_after_its_wait_and_its_due_time_is_known():
    queue = Queue()
    queue.add(stamped(LEFT, 100))
    assert queue.due_ns() == 130 * MS
    assert queue.popped(129.9) == NOTHING
    assert queue.popped(130) == (False, [(LEFT, 100)])
    assert queue.due_ns() is None
    queue.add(stamped(RIGHT, 100, received_ms=140))
    assert queue.popped(140) == NOTHING, 'its partner was already served'
    assert queue.popped(170) == (False, [(RIGHT, 100)])


def test_the_newest_of_several_waiting_frames_is_served():
    queue = Queue().add_all(*(stamped(LEFT, stamp_ms) for stamp_ms in (100, 116, 133)))
    assert queue.popped(146) == (False, [(LEFT, 116)])
    assert queue.dropped == [(LEFT, 100)]
    assert queue.popped(163) == (False, [(LEFT, 133)])


def test_while_the_network_is_busy_a_partner_may_arrive_after_the_wait():
    queue = Queue().add_all(stamped(LEFT, 100), stamped(RIGHT, 100, received_ms=180))
    assert queue.popped(200) == (True, [(LEFT, 100), (RIGHT, 100)])


def serve_left(queue, stamps_ms):
    """Add frames of the left camera, and return how long each waited."""
    waits_ms = []
    for stamp_ms in stamps_ms:
        queue.add(stamped(LEFT, stamp_ms))
        due_ms = queue.due_ns() / MS
        assert queue.popped(due_ms) == (False, [(LEFT, stamp_ms)])
        waits_ms.append(due_ms - stamp_ms)
    return waits_ms


def test_a_camera_that_stopped_is_not_waited_for_until_it_returns():
    queue = Queue()
    assert serve_left(queue, range(100, 800, 100)) == [30] * 5 + [0] * 2
    queue.add(stamped(LEFT, 800))
    assert queue.popped(800) == (False, [(LEFT, 800)])
    queue.add(stamped(RIGHT, 800, received_ms=805))
    assert queue.due_ns() == 835 * MS, 'the two could still become a pair'
    queue.add_all(stamped(LEFT, 833), stamped(RIGHT, 833))
    assert queue.popped(833) == (True, [(LEFT, 833), (RIGHT, 833)])


def test_a_camera_that_stopped_is_not_waited_for_even_if_no_frame_reaches_its_due_time():
    """A wait of many frames: the oldest is dropped before it is due."""
    queue = Queue(wait_ms=400)
    served = []
    for stamp in range(100, 2000, 50):
        queue.add(stamped(LEFT, stamp))
        served += queue.popped(stamp)[1]
    assert len(served) > 25
    assert served[-1] == (LEFT, 1950)


def test_cameras_whose_stamps_never_match_take_turns_without_waiting():
    queue, taken = Queue(), []
    for number in range(20):
        left_ms = 100 + 33 * number
        queue.add_all(stamped(LEFT, left_ms), stamped(RIGHT, left_ms + 16))
        is_pair, found = queue.popped(left_ms + 30)
        assert not is_pair
        taken += found
    assert [camera for camera, _ in taken[5:]] == ([RIGHT, LEFT] * 8)[:15]
    assert {stamp_ms for _, stamp_ms in taken[5:]} >= {100 + 33 * n for n in range(6, 20, 2)}


def test_a_device_with_batches_gets_frames_of_both_cameras_even_if_not_a_pair():
    queue = Queue().add_all(stamped(LEFT, 100), stamped(RIGHT, 116))
    assert queue.popped(200, maximum=2) == (False, [(LEFT, 100), (RIGHT, 116)])


def test_cameras_at_30_and_15_hz_give_pairs_and_single_images_between_them():
    queue, taken = Queue(), []
    for number in range(8):
        stamp_ms = 100 + 33 * number
        queue.add(stamped(LEFT, stamp_ms))
        if number % 2 == 0:
            queue.add(stamped(RIGHT, stamp_ms))
        taken.append(queue.popped(stamp_ms + 32))
    assert [is_pair for is_pair, _ in taken] == [True, False] * 4
    assert not queue.dropped


@pytest.mark.parametrize('stamp_ms', [0, None])
def test_a_frame_without_a_usable_stamp_has_no_partner_and_does_not_wait(stamp_ms):
    both = [
        frame(camera, 9) if stamp_ms is None else stamped(camera, 0, received_ms=9)
        for camera in (LEFT, RIGHT)
    ]
    queue = Queue().add_all(*both)
    taken = [queue.pop(1, both[0].received_ns) for _ in both]
    assert taken == [(both[0],), (both[1],)]
    assert not any(isinstance(one, Pair) for one in taken)


def test_stamps_that_go_backward_are_paired_as_well():
    """A restarted bag must not wait, or be paired with older frames."""
    queue = Queue(tolerance_ms=0)
    queue.add_all(stamped(LEFT, 900), stamped(LEFT, 100, received_ms=933))
    queue.add(stamped(RIGHT, 100, received_ms=934))
    assert queue.popped(934) == (True, [(LEFT, 100), (RIGHT, 100)])
    assert queue.dropped == [(LEFT, 900)]


def test_frames_of_two_activations_are_not_a_pair():
    queue = Queue().add_all(stamped(LEFT, 100), stamped(RIGHT, 100, generation=2))
    assert queue.popped(100) == NOTHING


def test_the_number_of_waiting_frames_is_limited():
    queue = Queue(wait_ms=10_000)
    queue.add_all(*(stamped(LEFT, number) for number in range(100, 200)))
    assert queue.dropped == [(LEFT, number) for number in range(100, 195)]


def test_clearing_resets_pairs_waiting_frames_and_stopped_cameras():
    queue = Queue()
    serve_left(queue, range(100, 700, 100))
    queue.add_all(stamped(LEFT, 700), stamped(RIGHT, 700), stamped(LEFT, 733))
    queue.clear()
    assert queue.due_ns() is None
    queue.add(stamped(LEFT, 800))
    assert queue.due_ns() == 830 * MS


@pytest.mark.parametrize('period_ms', [1000, 125, 67])
@pytest.mark.parametrize('busy_ms', [5, 110, 350])
def test_with_a_slow_network_every_stamp_is_taken_from_both_cameras(period_ms, busy_ms):
    """The network runs at 1, 8 and 15 Hz, and the right camera is 7 ms late."""
    arrivals = sorted(
        (period_ms * number + 7 * camera, camera, period_ms * number)
        for number in range(1, 41)
        for camera in (LEFT, RIGHT)
    )
    queue, taken, free_ms, clock_ms = Queue(), [], 0.0, 0.0
    for at_ms, camera, stamp_ms in [*arrivals, (float('inf'), LEFT, 0)]:
        while (due_ns := queue.due_ns()) is not None:
            now_ms = max(free_ms, clock_ms, due_ns / MS)
            if now_ms >= at_ms:
                break
            taken.append(queue.popped(now_ms)[1])
            free_ms = now_ms + busy_ms * len(taken[-1])
        if stamp_ms:
            queue.add(stamped(camera, stamp_ms, received_ms=at_ms))
        clock_ms = at_ms
    assert len(taken) > 2
    assert all(found == [(LEFT, found[0][1]), (RIGHT, found[0][1])] for found in taken), taken
    assert taken == sorted(taken, key=lambda found: found[0][1])


EVENTS = st.lists(
    st.tuples(st.sampled_from([LEFT, RIGHT, 'take']), st.integers(0, 40), st.integers(-20, 20))
)


@given(EVENTS, st.sampled_from([0, 5]), st.sampled_from([0, 30]))
def test_no_frame_is_lost_taken_twice_or_mixed_up_in_any_order_of_arrival(
    events, tolerance_ms, wait_ms
):
    queue, added, taken = Queue(tolerance_ms, wait_ms), [], []
    now_ms = 1000
    for what, later_ms, off_ms in [*events, *[('take', 1000, 0)] * 20]:
        now_ms += later_ms
        if what == 'take':
            frames = queue.pop(1, now_ms * MS)
            taken += frames
            if isinstance(frames, Pair):
                assert [one.camera for one in frames] == [LEFT, RIGHT]
                first, second = (one.stamp_ns for one in frames)
                assert abs(first - second) <= tolerance_ms * MS
            else:
                waited_ms = [now_ms - one.received_ns / MS for one in frames]
                assert queue._misses > 5 or all(wait >= wait_ms for wait in waited_ms)
        else:
            added.append(stamped(what, now_ms + off_ms, received_ms=now_ms))
            queue.add(added[-1])
    assert queue.due_ns() is None, 'nothing waits forever'
    assert sorted(map(id, added)) == sorted(map(id, [*taken, *queue.lost]))
