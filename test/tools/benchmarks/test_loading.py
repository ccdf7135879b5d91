# SPDX-License-Identifier: Apache-2.0
"""The benchmark of the loader: both variants run the same steps, and results are written."""

import json
from itertools import count

import pytest
import torch

from tools.benchmarks import steps
from tools.benchmarks.loading import draw, main, summarize
from tools.benchmarks.steps import Pair, frames_per_s

TINY = [
    'encoder=tu-resnet18',
    'options={encoder_depth: 3, decoder_channels: [16, 8, 8]}',
    'input_size=[64, 96]',
    'crop_size=[32, 64]',
    'batch_size=2',
    'validation_share=0.3',
    'device=cpu',
]


class CountedSteps:
    def __init__(self):
        self.fed = []
        self.waits = 0

    def __call__(self, batch):
        self.fed.append(batch)

    def wait(self):
        self.waits += 1


def test_warm_up_steps_are_not_measured(monkeypatch):
    clock = count(start=0, step=2)
    monkeypatch.setattr(steps.time, 'perf_counter', lambda: next(clock))
    step = CountedSteps()
    batches = iter([([0] * 4, n) for n in range(10)])
    assert frames_per_s(step, batches, before=3, steps=5) == 5 * 4 / 2
    assert [number for _, number in step.fed] == list(range(8))
    assert step.waits == 2


def test_the_ratio_is_the_median_of_pairs_and_the_best_is_named():
    timings = {
        0: [Pair(8, 10), Pair(1, 10), Pair(9, 10)],
        2: [Pair(95, 100), Pair(9, 10), Pair(10, 10)],
    }
    result = summarize(timings)
    assert result['best'] == {'workers': 2, 'ratio': 0.95}
    assert result['workers']['0']['ratio'] == 0.8
    assert result['workers']['0']['pairs'][1] == {'loader': 1, 'memory': 10}


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('loading') / 'data'
    draw(folder, '160x120')
    return folder


def test_a_run_writes_its_numbers(data, tmp_path, capsys):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    path = tmp_path / 'loading.json'
    words = ['--data', str(data), '--workers', '0', '1', '--pairs', '2', '--steps', '1']
    # The value of the ratio does not matter here.
    assert main([*words, '--json', str(path), *TINY]) in (0, 1)
    torch.set_num_threads(threads)
    result = json.loads(path.read_text())
    assert set(result['workers']) == {'0', '1'}
    assert all(len(entry['pairs']) == 2 for entry in result['workers'].values())
    assert result['recipe']['batch_size'] == 2
    assert 'best ratio' in capsys.readouterr().out


def test_error_names_an_invalid_setting(capsys):
    assert main(['batch_sizes=3']) == 2
    assert "did you mean 'batch_size'" in capsys.readouterr().err
