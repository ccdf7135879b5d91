# SPDX-License-Identifier: Apache-2.0
"""Models of the benchmark: recipes that can be trained, and steps in order, none repeated."""

import pytest

from surgseg_ros.core.runtimes.pytorch import SegmentationNetwork
from surgseg_ros.training.config import read_config
from tools.benchmarks import model
from tools.runs import StepError


@pytest.mark.parametrize('recipe', model.RECIPES)
def test_a_recipe_makes_a_network_without_any_download(recipe):
    config = read_config(model.RECIPES[recipe], [])
    assert config.encoder_weights == 'none'
    assert config.intended_use == 'demo', 'it was trained only on synthetic scenes'
    assert SegmentationNetwork(config.spec())


def test_scenes_are_drawn_then_the_recipe_is_trained_then_exported(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(model, 'draw', lambda folder, videos: done.append(videos) or folder)
    monkeypatch.setattr(model, 'train_once', lambda *words: done.append(words) or words[1])
    monkeypatch.setattr(model, 'run_verb', lambda words: done.append(words) or 0)
    words = ['--recipe', 'resnet34', '--output', 'made', '--work', f'{tmp_path}', '--videos', '7']
    assert model.main([*words, 'steps=3']) == 0
    videos, trained, exported = done
    assert videos.videos == 7
    assert trained == (
        model.RECIPES['resnet34'],
        tmp_path / 'resnet34',
        [f'data={tmp_path / "scenes"}', 'steps=3'],
    )
    assert exported[:5] == ['export', '--model', f'{tmp_path / "resnet34"}', '--output', 'made']


def test_a_failed_step_ends_the_run(tmp_path, monkeypatch, capsys):
    def fail(*arguments):
        raise StepError('drawing')

    monkeypatch.setattr(model, 'draw', fail)
    assert model.main(['--output', f'{tmp_path / "made"}', '--work', f'{tmp_path}']) == 2
    assert 'ended at drawing' in capsys.readouterr().err
