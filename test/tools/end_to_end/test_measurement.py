# SPDX-License-Identifier: Apache-2.0
"""Evaluation of stamps, counts, reports and memory; and one small run over DDS."""

import argparse
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_models import write_tiny_model
from verbs import verb

from surgseg_ros.benchmarking import floors
from surgseg_ros.benchmarking.report import ratios, sum_up
from surgseg_ros.cli import benchmark
from surgseg_ros.core.timing import Percentiles
from surgseg_ros.node.middleware import (
    NEW_VARIABLE,
    NO_PROFILE,
    OLD_VARIABLE,
    local_discovery,
    shipped_profile,
)
from tools.end_to_end import measurement
from tools.end_to_end.measurement import Sample, Watch, memory
from tools.end_to_end.processes import Settings, Variant, environment

benchmark_main = verb('benchmark')

MS = 10**6
SENT = [(1, 100 * MS), (2, 200 * MS), (3, 300 * MS)]
COUNTS = {'rejected': 0, 'lost_on_the_way': 0, 'overwritten_unread': 0}
REPORTED = {'memory_mib': {}, 'heard': {}, 'heard_ms': {'detections': [9.0, 11.0], 'overlay': []}}


def test_masks_are_matched_with_their_frames_and_others_are_ignored() -> None:
    masks = [(3, 310 * MS), (77, 1), (1, 105 * MS)]
    found = measurement.latencies(SENT, masks)
    assert found == {'received': 2, 'latencies_ms': [10.0, 5.0]}


def test_frames_neither_received_nor_dropped_are_lost() -> None:
    before = {'dropped_for_newer': '4', 'lost_on_the_way': '1', 'rejected': '0'}
    after = {'dropped_for_newer': '9', 'lost_on_the_way': '3', 'rejected': '1'}
    found = measurement.counts({'sent': 20, 'received': 12}, before, after)
    assert found == {
        'dropped': 5,
        'rejected': 1,
        'lost': 2,
        'lost_on_the_way': 2,
        'overwritten_unread': 0,
    }
    assert measurement.counts({'sent': 3, 'received': 2}, {}, {})['lost'] == 1


def of_stage(name: str, *times: float) -> dict[str, str]:
    return {f'{name}_{key}_ms': f'{ms:.2f}' for key, ms in zip(('p50', 'p95', 'p99'), times)}


def test_reports_of_the_node_are_read_and_averaged() -> None:
    reports = [
        {**of_stage('model', 1.0, 2.0, 3.0), **of_stage('wait', 0.1, 0.2, 0.3), 'in_hz': '30.0'},
        {**of_stage('model', 3.0, 4.0, 5.0), **of_stage('wait', 0.3, 0.4, 0.5), 'in_hz': '30.0'},
    ]
    found = measurement.node_times(reports)
    assert found['model_ms'] == (2.0, 3.0, 4.0)
    assert found['slot_ms'] == pytest.approx((0.2, 0.3, 0.4))
    assert set(found['stages_ms']) == {'model', 'wait'}
    with pytest.raises(ValueError, match='no mask went out'):
        measurement.node_times([{}])


def test_times_of_other_frames_of_the_plain_node_are_ignored() -> None:
    times = [{'stamp_ns': n, 'model_ms': 10.0 * n, 'slot_ms': 1.0 * n} for n in (1, 3, 9)]
    found = measurement.plain_times(times, SENT)
    assert found == {'model_ms': [10.0, 30.0], 'slot_ms': [1.0, 3.0]}


def test_runs_are_summarized_and_compared() -> None:
    reported = Percentiles(4.0, 5.0, 6.0)
    run = {'sent': 3, 'received': 2, 'dropped': 1, 'lost': 0, **COUNTS, **REPORTED}
    ours = sum_up(
        [{**run, 'latencies_ms': [8.0, 10.0], 'model_ms': reported, 'slot_ms': reported}] * 2
    )
    assert ours['rest_ms'] == {'p50': 1.0}
    assert (ours['sent'], ours['dropped'], ours['runs']) == (6, 2, 2)
    assert ours['heard_ms'] == {
        'detections': pytest.approx({'p50': 10.0, 'p95': 11.0, 'p99': 11.0})
    }
    plain = sum_up([{**run, 'latencies_ms': [18.0], 'model_ms': [9.0, 11.0], 'slot_ms': [5.0]}])
    assert ratios(ours, plain) == {'rest': 3.0, 'latency': 2.0}


def test_only_the_right_variants_get_the_profile_and_all_are_restricted_to_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(OLD_VARIABLE, '/of/the/user.xml')
    monkeypatch.setattr('surgseg_ros.node.middleware.free_bytes', lambda folder: 1 << 40)
    profile = str(shipped_profile())
    assert profile in environment(True, profile).values()
    for bare in (environment(False, profile), environment(True, NO_PROFILE)):
        assert not {OLD_VARIABLE, NEW_VARIABLE} & bare.keys()
        assert local_discovery({}).items() <= bare.items()
        assert bare['ROS_DOMAIN_ID']
    monkeypatch.setattr('surgseg_ros.node.middleware.free_bytes', lambda folder: 0)
    with pytest.raises(RuntimeError, match='--shm-size'):
        environment(True, profile)


@pytest.mark.parametrize(
    ('round_s', 'end_s', 'rounds'), [(10.0, 100.0, 3), (40.0, 100.0, 2), (90.0, 60.0, 1)]
)
def test_no_round_starts_that_would_end_too_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, round_s: float, end_s: float, rounds: int
) -> None:
    now_s, patience_s = [0.0], []

    def run(variant: Variant, settings: Settings) -> dict[str, Any]:
        patience_s.append(settings.patience_s)
        now_s[0] += round_s / 2
        return {}

    monkeypatch.setattr(measurement, 'run', run)
    monkeypatch.setattr(measurement, 'time', SimpleNamespace(monotonic=lambda: now_s[0]))
    options = argparse.Namespace(rounds=3, logs=None)
    settings = Settings('model', tmp_path / 'pictures', 30.0, 300, tmp_path)
    names = ['end_to_end', 'plain']
    lines: list[str] = []
    runs = measurement.alternate(options, names, settings, end_s, lines.append)
    assert lines[:2] == ['round 1 of 3, end_to_end', 'round 1 of 3, plain']
    assert [len(runs[name]) for name in names] == [rounds, rounds]
    assert patience_s[0] == end_s, 'the wait for a node that does not start is limited'


def test_growth_is_measured_from_the_first_sample_with_500_frames() -> None:
    samples = [Sample(0, 50.0), Sample(499, 90.0), Sample(510, 100.0), Sample(10_510, 101.0)]
    found = memory(samples)
    assert found['after_500_frames'] == 100.0
    assert (found['last'], found['frames']) == (101.0, 10_510)
    assert found['growth'] == pytest.approx(0.01)
    assert found['bytes_per_frame'] == pytest.approx(2**20 / 10_000)


def test_a_short_run_has_no_growth() -> None:
    found = memory([Sample(3, 50.0), Sample(9, 51.0)])
    assert found['last'] == 51.0
    assert found['after_500_frames'] is found['growth'] is found['bytes_per_frame'] is None
    assert memory([])['last'] is None


def test_frames_before_the_measurement_are_ignored_and_reports_do_not_overlap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([0.0, 4.0, 9.0, 11.0, 21.0])
    monkeypatch.setattr(measurement.time, 'monotonic', lambda: next(clock))
    published = iter([7, 17, 27, 37])
    watch = Watch(lambda: {'published': f'{next(published)}'}, lambda: 1.0, rate_hz=30.0)
    for _ in range(4):
        watch()
    assert [sample.frames for sample in watch.samples] == [0, 10, 20, 30]
    assert [report['published'] for report in watch.reports] == ['27', '37']


def test_a_node_without_reports_is_measured() -> None:
    watch = Watch(dict, lambda: 3.0, rate_hz=30.0)
    watch()
    assert watch.samples == [Sample(0, 3.0)]
    assert not watch.reports


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait longer if the machine is busy, but shorter for masks that do not come."""
    monkeypatch.setattr(benchmark, 'OVERHEAD_S', 1800.0)
    monkeypatch.setattr(floors, '_SIDES', (64,))
    monkeypatch.setattr(measurement, '_QUIET_S', 1.0)


@pytest.mark.timeout(2000)
@pytest.mark.usefixtures('small')
def test_three_variants_over_dds(tmp_path: Path) -> None:
    """Small images, few frames, no profile; some may be lost on a slow machine."""
    model = write_tiny_model(tmp_path / 'model')
    report, drawn = tmp_path / 'latency.json', tmp_path / 'latency.svg'
    status = benchmark_main(
        [
            *('--model', f'{model}', '--device', 'cpu', '--size', '128x96', '--threads', '1'),
            *('--end-to-end', '--against', 'plain', '--rounds', '1', '--profile', 'none'),
            *('--rate', '10', '--seconds', '1', '--json', f'{report}', '--plot', f'{drawn}'),
        ]
    )
    assert status == 0
    found = json.loads(report.read_text())
    for name in ('end_to_end', 'plain', 'no_profile'):
        one = found[name]
        for times in ('latency_ms', 'model_ms', 'slot_ms'):
            assert set(one[times]) == {'p50', 'p95', 'p99'}
        assert one['sent'] == 10
        assert one['received'] > 0
        assert one['received'] + one['dropped'] + one['rejected'] + one['lost'] == 10
        assert 0 < one['model_ms']['p50'] < one['latency_ms']['p50']
        assert name in drawn.read_text()
    assert (found['rounds'], found['rounds_wanted']) == (1, 1)
    assert set(found['ratio']) == set(found['ratio_no_profile']) == {'rest', 'latency'}


@pytest.mark.timeout(2000)
@pytest.mark.usefixtures('small')
def test_two_cameras_over_dds(tmp_path: Path) -> None:
    model, report = write_tiny_model(tmp_path / 'model'), tmp_path / 'latency.json'
    status = benchmark_main(
        [
            *('--model', f'{model}', '--device', 'cpu', '--size', '128x96', '--threads', '1'),
            *('--end-to-end', '--cameras', '2', '--rounds', '1', '--profile', 'none'),
            *('--rate', '5', '--seconds', '1', '--json', f'{report}'),
        ]
    )
    assert status == 0
    found = json.loads(report.read_text())
    assert found['cameras'] == 2
    assert found['end_to_end']['received'] > 0
    assert found['end_to_end']['heard']['detections'] > 0
