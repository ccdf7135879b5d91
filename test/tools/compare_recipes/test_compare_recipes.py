# SPDX-License-Identifier: Apache-2.0
"""The comparison: recipes differ only in the documented settings, and tables are consistent."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from surgseg_ros.training.config import read_config
from tools.compare_recipes import __main__ as compare_recipes
from tools.compare_recipes.recipes import CONFIGS, SCALES, changes, settings
from tools.compare_recipes.report import report, summarize
from tools.runs import Videos

NINE = [0.1] * 9


def scores(value):
    kind = {
        'mIoU': value,
        'mNSD': value,
        'score': value,
        'class_mIoU': [value] * 9,
        'class_mNSD': [value] * 9,
        'present_class_IoU': [None, *[value / 2] * 8],
    }
    floor = {'mIoU': 0.1, 'mNSD': 0.1, 'score': 0.1}
    filtered = {**kind, 'mIoU': value + 0.01}
    return {'floor': floor, 'class_floor': NINE, 'raw': kind, 'filtered': filtered}


MODELS = [
    {'recipe': recipe, 'seed': seed, 'scores': scores(value)}
    for recipe, seed, value in (
        ('paper', 0, 0.2),
        ('paper', 1, 0.4),
        ('ours', 0, 0.6),
        ('ours', 1, 0.61),
        ('ours', 2, 0.62),
    )
]


def test_the_seeds_of_a_recipe_are_averaged():
    summary = summarize(MODELS)
    assert summary['paper']['raw']['mIoU'] == {'mean': pytest.approx(0.3), 'min': 0.2, 'max': 0.4}
    assert summary['gain']['raw']['mIoU'] == pytest.approx(0.31)
    assert summary['gain']['filtered']['class_mIoU'] == pytest.approx([0.31] * 9)
    # The first class is absent, and ignored.
    assert summary['ours']['raw']['mean_present_class_IoU']['mean'] == pytest.approx(0.305)
    assert summary['gain']['raw']['present_class_IoU'][0] is None


def test_the_report_has_the_means_the_classes_and_what_was_changed():
    count = {'videos': 3, 'frames': 9}
    text = report(
        {
            'scale': 'small',
            'steps': 7,
            'settings': ['batch_size=1'],
            'data': dict.fromkeys(('train', 'tune', 'test'), count),
            'models': MODELS,
            'summary': summarize(MODELS),
        }
    )
    paper, ours = '0.300 (0.200 to 0.400)', '0.610 (0.600 to 0.620)'
    assert '7 optimizer steps' in text
    assert 'seeds: paper 0, 1; ours 0, 1, 2' in text
    assert f'| mIoU | 0.100 | {paper} | {ours} | +0.310 | 0.310' in text
    assert f'| suturing needle | 0.100 | {paper} | {ours} | +0.310 |' in text
    assert '| tool clasper | 0.000 | - | - | - | - | - | - |' in text
    assert 'batch_size=1' in text
    assert changes('small') in text


@pytest.mark.parametrize('scale', SCALES)
def test_the_recipes_differ_only_in_the_compared_settings(scale):
    """All settings are valid for `train`; initial weights, encoder and steps are the same."""
    paper, ours = (
        asdict(read_config(config, settings(scale, recipe, 5, 40)))
        for recipe, config in CONFIGS.items()
    )
    assert (paper['split'], ours['split']) == ('frame', 'video')
    assert (paper['input_size'], paper['fit']) == ((256, 256), 'stretch')
    assert paper['optimizer'] == 'adam'
    same = ('encoder', 'encoder_weights', 'architecture', 'options', 'start', 'seed', 'steps')
    more = ('epochs', 'minutes', 'patience', 'accumulate', 'margins', 'validation_share')
    for key in (*same, *more, 'validate_every', 'precision', 'split_seed'):
        assert paper[key] == ours[key], key
    assert (paper['steps'], paper['seed'], paper['validate_every']) == (40, 5, 8)


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """Return the arguments of a quick comparison."""
    monkeypatch.setattr(
        compare_recipes,
        'VIDEOS',
        {
            part: Videos(seed, 1, 2, 20)
            for part, seed in (('train', 11), ('tune', 12), ('test', 13))
        },
    )
    network = [
        'encoder=tu-resnet18',
        'options={encoder_depth: 3, decoder_channels: [8, 8, 8]}',
        *('input_size=[64, 64]', 'crop_size=[64, 64]', 'batch_size=2'),
    ]
    arguments = ['--work', str(tmp_path), '--seeds', '0', '--steps', '2', '--size', '64x64']
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield [*arguments, '--training-videos', '3', '--device', 'cpu', *network]
    torch.set_num_threads(threads)


@pytest.mark.filterwarnings('ignore:split by frame')
def test_all_steps_from_data_to_tables(tiny, tmp_path, monkeypatch, capsys):
    assert compare_recipes.main(tiny) == 0

    result = json.loads((tmp_path / 'comparison.json').read_text())
    assert result['data']['train'] == {'videos': 3, 'frames': 6}
    assert [(m['recipe'], m['seed']) for m in result['models']] == [('paper', 0), ('ours', 0)]
    assert all(model['scores']['frames'] == 2 for model in result['models'])
    assert 0 <= result['summary']['ours']['raw']['mIoU']['mean'] <= 1
    assert '| mIoU |' in (tmp_path / 'comparison.md').read_text()
    assert '| mIoU |' in capsys.readouterr().out

    def never(*_):
        raise AssertionError('it is done already')

    monkeypatch.setattr('tools.runs.start_training', never)
    monkeypatch.setattr('tools.runs.run_verb', never)
    monkeypatch.setattr(compare_recipes, 'score', never)
    before = (tmp_path / 'comparison.json').read_bytes()
    assert compare_recipes.main(tiny) == 0
    assert (tmp_path / 'comparison.json').read_bytes() == before


def test_a_failed_step_ends_the_run_and_is_resumed_the_next_time(tiny, monkeypatch, capsys):
    def trained(words):
        output = Path(next(w for w in words if w.startswith('output=')).partition('=')[2])
        output.mkdir(parents=True)
        return 2

    monkeypatch.setattr('tools.runs.start_training', trained)
    assert compare_recipes.main(tiny) == 2
    assert 'paper_0' in capsys.readouterr().err
    words = []
    monkeypatch.setattr('tools.runs.start_training', lambda given: words.append(given) or 2)
    assert compare_recipes.main(tiny) == 2
    assert '--resume' in words[0]


def test_a_single_recipe_gives_no_comparison(tiny, tmp_path, monkeypatch, capsys):
    outputs = []

    def trained(words):
        outputs.extend(Path(word).name for word in words if word.startswith('output='))
        return 0

    monkeypatch.setattr('tools.runs.start_training', trained)
    assert compare_recipes.main(['--recipes', 'ours', *tiny]) == 0
    assert outputs == ['ours_0']
    assert 'paper, ours not trained' in capsys.readouterr().out
    assert not (tmp_path / 'comparison.md').exists()
