# SPDX-License-Identifier: Apache-2.0
"""How long the demo waits and plays, with a recorder and clock that the test controls."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest

from surgseg_ros.core.timing import Progress
from tools.demo import __main__ as demo
from tools.demo.session import wait_for_quiet
from tools.demo.source import Source


class FakeRecorder:
    """Masks arrive at given times; `listen` advances to the next one, or to the timeout."""

    def __init__(self, masks_s: Sequence[float]) -> None:
        self.now_s = 0.0
        self.counts: dict[str, str] = {}
        self._masks_s = masks_s

    def count(self, topic: str) -> int:
        assert topic == 'mask'
        return sum(mask_s <= self.now_s for mask_s in self._masks_s)

    def listen(self, until: Callable[[], bool], timeout_s: float) -> bool:
        end_s = self.now_s + timeout_s
        for mask_s in (x for x in self._masks_s if self.now_s < x <= end_s):
            self.now_s = mask_s
            if until():
                return True
        self.now_s = end_s
        return until()


@pytest.mark.parametrize(
    ('masks_s', 'end_s'), [([], 2.0), ([1.0], 3.0), ([1.0, 2.5], 4.5), ([1.0, 9.0], 3.0)]
)
def test_waits_only_for_masks_in_flight(masks_s: list[float], end_s: float) -> None:
    recorder = FakeRecorder(masks_s)
    wait_for_quiet(recorder, 2.0)  # type: ignore[arg-type]
    assert recorder.now_s == end_s


@pytest.mark.parametrize(
    ('node_hz', 'drops', 'rates'),
    [
        (100.0, [0], [1.0]),
        (10.0, [0], [0.5]),
        (10.0, [3, 0], [0.5, 0.25]),
        (2.0, [9], [0.15]),  # at most forty seconds
        (10.0, [3, 3], [0.5, 0.25]),
    ],
)
def test_the_scene_is_played_at_the_speed_of_the_node_up_to_a_time_limit(
    tmp_path, monkeypatch, node_hz, drops, rates
) -> None:
    recorder, played = FakeRecorder([]), []
    source = Source(tmp_path, 10.0, 60, 'a scene')
    left = iter(drops)

    def play(recorder, source, rate):
        played.append(rate)
        recorder.now_s += source.frames / source.rate_hz / rate
        dropped = demo.count(recorder.counts) + next(left)
        recorder.counts = {'dropped_for_newer': str(dropped)}
        return []

    monkeypatch.setattr(demo, 'play', play)
    monkeypatch.setattr(demo, 'time', SimpleNamespace(monotonic=lambda: recorder.now_s))
    with Progress('demo') as progress:
        _, rate, dropped = demo.play_in_step(recorder, source, node_hz, 40.0, progress)
    assert played == rates
    assert (rate, dropped) == (rates[-1], drops[-1])
    assert recorder.now_s < 50
