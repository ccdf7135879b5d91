# SPDX-License-Identifier: Apache-2.0
"""The worker of the node is measured without ROS."""

import json
import re
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tiny_models import write_tiny_model
from verbs import verb

from surgseg_ros.benchmarking import floors, stages
from surgseg_ros.benchmarking.stages import STAGES, measure, summary
from surgseg_ros.cli import benchmark
from surgseg_ros.core.segmenter import Segmenter
from surgseg_ros.node import worker

benchmark_main = verb('benchmark')

PERCENTILES = {'p50', 'p95', 'p99'}
KNOWN = dict.fromkeys((*STAGES, 'age', 'detections_age'), 0.0)


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp('model'))


def make_image(height: int = 60, width: int = 101) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_every_stage_is_measured_for_every_camera_in_every_round(model: Path) -> None:
    rounds = measure(
        Segmenter.load(model, 'cpu', 'torch'), [make_image(), make_image()], frames=3, cameras=2
    )
    assert [len(cameras) for cameras in rounds] == [2, 2, 2]
    assert all(set(STAGES) <= times.keys() for cameras in rounds for times in cameras)
    for first, second in rounds:
        own = [stage for stage in STAGES if stage not in ('gates', 'publish_others')]
        to_mask = own[: own.index('publish') + 1]
        assert sum(first[stage] for stage in to_mask) <= first['age'] <= second['age']
        assert sum(first[stage] for stage in own) <= first['detections_age']
        assert second['wait'] > first['wait'], 'the other camera is processed first'


@pytest.mark.parametrize(('rounds', 'counted'), [(2, 1), (7, 4), (12, 7)])
def test_a_measurement_may_be_shortened_but_is_never_empty(
    model: Path, monkeypatch: pytest.MonkeyPatch, rounds: int, counted: int
) -> None:
    """Of few rounds the last half is used, of more all but the first five."""
    reported: list[int] = []
    monkeypatch.setattr(stages, 'time', SimpleNamespace(
        monotonic=lambda: float(reported[-1]), monotonic_ns=time.monotonic_ns, time_ns=time.time_ns
    ))  # fmt: skip
    segmenter = Segmenter.load(model, 'cpu', 'torch')
    found = measure(segmenter, [make_image()], frames=100, end_s=rounds, report=reported.append)
    assert reported == list(range(1, rounds + 1))
    assert len(found) == counted


def test_known_times_are_summarized() -> None:
    rounds = [
        [
            {**KNOWN, 'network': float(n), 'age': 5.0, 'detections_age': 10.0},
            {**KNOWN, 'age': 9.0, 'detections_age': 20.0},
        ]
        for n in (1, 3)
    ]
    found = summary(rounds)
    assert found['stages']['network'] == pytest.approx({'p50': 0.5, 'p95': 2.7, 'p99': 2.94})
    assert (found['mask']['p50'], found['total']['p50']) == (7.0, 15.0)
    assert (found['frames'], found['frames_per_s']) == (4, 100.0)


def test_a_frame_that_the_node_rejects_ends_the_measurement(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise worker.ImageError('broken', 'a test')

    monkeypatch.setattr(worker, 'image_from_msg', fail)
    with pytest.raises(RuntimeError, match='broken'):
        measure(Segmenter.load(model, 'cpu', 'torch'), [make_image()], frames=1)


def test_the_command_writes_table_and_image(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(floors, '_SIDES', (64,))
    report, drawn = tmp_path / 'b.json', tmp_path / 'b.svg'
    arguments = [
        '--model',
        f'{model}',
        '--device',
        'cpu',
        '--json',
        f'{report}',
        '--plot',
        f'{drawn}',
    ]
    arguments += ['--runtime', 'torch']
    sizes = ['--sizes', '128x96', '160x96', '--cameras', '1', '2', '--frames', '2']
    assert benchmark_main([*arguments, *sizes]) == 0
    printed = capsys.readouterr()
    assert 'benchmark: measuring 160x96 with 2 cameras' in printed.err
    assert 'Instruction set: torch' in printed.out
    assert 'two minutes' not in printed.out, 'the number of frames was given'
    found = json.loads(report.read_text())
    assert set(found['stages']) == set(STAGES)
    assert all(set(times) == PERCENTILES for times in (*found['stages'].values(), found['total']))
    assert {'processor', 'instruction_set', 'cores', 'versions'} <= found['hardware'].keys()
    assert found['model']['name'] == 'tiny'
    assert 'torch float32 on CPU' in found['model']['runtime']
    rows = [(row['size'], row['pixels'], row['cameras']) for row in found['table']]
    assert rows == [
        *(('128x96', 12288, 1), ('128x96', 12288, 2)),
        *(('160x96', 15360, 1), ('160x96', 15360, 2)),
    ]
    bars = re.findall(r'clip-path="[^"]*" style="fill: #', drawn.read_text())
    assert len(bars) == 4 * (len(STAGES) - 1), 'gates run in parallel with the network'


def test_two_minutes_are_shared_among_all_rows_and_without_json_only_tables_are_printed(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(benchmark, 'OVERHEAD_S', 0.0)
    monkeypatch.setattr(floors, '_SIDES', (64,))
    monkeypatch.chdir(tmp_path)
    arguments = ['--model', f'{model}', '--device', 'cpu']
    assert benchmark_main([*arguments, '--sizes', '128x96', '160x96']) == 0
    text = '1 of 100 at 128x96 with 1, 1 of 100 at 160x96 with 1; two minutes allow no more'
    assert text in capsys.readouterr().out
    assert not any(tmp_path.iterdir())


def test_synthetic_images_of_any_size_are_drawn() -> None:
    assert {image.shape for image in benchmark.draw((96, 128))} == {(96, 128, 3)}


@pytest.mark.parametrize(
    ('arguments', 'expected'),
    [
        (['--size', '1920'], 'write it like 1920x1080'),
        (['--frames', '0'], "'0' must be at least 1"),
        (['--plot', 'way.png'], 'does not end in .svg'),
        (['--against', 'plain'], 'needs --end-to-end'),
        (['--end-to-end', '--cameras', '3'], 'one or two --cameras'),
        (['--end-to-end', '--cameras', '2', '--against', 'plain'], 'one camera'),
        (['--end-to-end', '--rate', '0'], 'must be above 0'),
    ],
)
def test_rejects_invalid_settings(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        benchmark_main(['--model', 'm', '--json', 'f', *arguments])
    assert expected in capsys.readouterr().err


def test_a_folder_that_is_not_a_model_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert benchmark_main(['--model', f'{tmp_path}', '--json', f'{tmp_path / "f"}']) == 2
    assert 'model.json' in capsys.readouterr().err
