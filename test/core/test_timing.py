# SPDX-License-Identifier: Apache-2.0
"""Percentiles of times, and stages that are timed in order, with a fake device."""

from types import SimpleNamespace

import pytest
import torch

from surgseg_ros.core import timing as module
from surgseg_ros.core.timing import CudaStopwatch, Stopwatch, percentiles, stopwatch


def test_stages_on_the_host_add_up_to_the_total(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks_ns = iter([5_000_000, 7_000_000, 7_500_000])
    monkeypatch.setattr(module.time, 'monotonic_ns', lambda: next(ticks_ns))
    watch = stopwatch(torch.device('cpu'))
    watch.lap('first')
    watch.lap('second')
    assert isinstance(watch, Stopwatch)
    assert watch.times_ms() == {'first': 2.0, 'second': 0.5}
    assert (watch.started_ns, watch.last_ns) == (5_000_000, 7_500_000)


class FakeEvent:
    """Completes at once; each event advances the clock of the device by one millisecond."""

    made: list['FakeEvent'] = []  # noqa: RUF012
    waited_for: list['FakeEvent'] = []  # noqa: RUF012

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing
        self.made.append(self)

    def record(self, stream: str) -> None:
        assert stream == 'the stream'

    def synchronize(self) -> None:
        self.waited_for.append(self)

    def elapsed_time(self, later: 'FakeEvent') -> float:
        return float(self.made.index(later) - self.made.index(self))


def test_on_a_device_only_the_last_mark_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = SimpleNamespace(Event=FakeEvent, current_stream=lambda device: 'the stream')
    monkeypatch.setattr(torch, 'cuda', cuda)
    watch = stopwatch(torch.device('cuda'))
    watch.lap('fit')
    watch.lap('network')
    assert isinstance(watch, CudaStopwatch)
    assert not FakeEvent.waited_for
    assert watch.times_ms() == {'fit': 1.0, 'network': 1.0}
    assert FakeEvent.waited_for == FakeEvent.made[-1:]


def test_percentiles_of_known_values() -> None:
    assert percentiles(range(101)) == (50.0, 95.0, 99.0)
    assert percentiles([3.0]) == (3.0, 3.0, 3.0)


def test_rejects_an_empty_list() -> None:
    with pytest.raises(ValueError, match='no frame was measured'):
        percentiles([])
