# SPDX-License-Identifier: Apache-2.0
"""Memory is told from where it should be settled, by the frames that the node counts itself."""

import pytest

from surgseg_ros.benchmarking import watch
from surgseg_ros.benchmarking.watch import Sample, Watch, memory


def test_growth_counts_from_the_first_sample_with_500_frames() -> None:
    samples = [Sample(0, 50.0), Sample(499, 90.0), Sample(510, 100.0), Sample(10_510, 101.0)]
    found = memory(samples)
    assert found['after_500_frames'] == 100.0
    assert (found['last'], found['frames']) == (101.0, 10_510)
    assert found['growth'] == pytest.approx(0.01)
    assert found['bytes_per_frame'] == pytest.approx(2**20 / 10_000)


def test_a_short_run_does_not_tell_growth() -> None:
    found = memory([Sample(3, 50.0), Sample(9, 51.0)])
    assert found['last'] == 51.0
    assert found['after_500_frames'] is found['growth'] is found['bytes_per_frame'] is None
    assert memory([])['last'] is None


def test_frames_before_the_watch_do_not_count_and_reports_do_not_overlap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([0.0, 4.0, 9.0, 11.0, 21.0])
    monkeypatch.setattr(watch.time, 'monotonic', lambda: next(clock))
    published = iter([7, 17, 27, 37])
    look = Watch(lambda: {'published': f'{next(published)}'}, lambda: 1.0, rate_hz=30.0)
    for _ in range(4):
        look()
    assert [sample.frames for sample in look.samples] == [0, 10, 20, 30]
    assert [report['published'] for report in look.reports] == ['27', '37']


def test_a_node_that_tells_nothing_is_measured_all_the_same() -> None:
    look = Watch(dict, lambda: 3.0, rate_hz=30.0)
    look()
    assert look.samples == [Sample(0, 3.0)]
    assert not look.reports
