# SPDX-License-Identifier: Apache-2.0
"""Settings: only known keys, checked types, and defaults from the file."""

from pathlib import Path

import pytest

from surgseg_ros.core.model_folder import ModelError, read_spec
from surgseg_ros.training.config import ConfigError, read_config

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def path(tmp_path):
    file = tmp_path / 'train.yaml'
    file.write_text('data: d\noutput: o\nsteps: 7\naugmentation: {flip: 0}\n')
    return file


def test_file_and_command_line_are_merged(path):
    config = read_config(
        path, ['seed=3', 'learning_rate=1e-3', 'augmentation.blur=0.5', 'input_size=[64, 96]']
    )
    assert (config.steps, config.seed, config.input_size) == (7, 3, (64, 96))
    assert config.learning_rate == 1e-3
    assert (config.augmentation.flip, config.augmentation.blur) == (0.0, 0.5)


@pytest.mark.parametrize(
    ('setting', 'expected'),
    [
        ('batchsize=2', "unknown key 'batchsize': did you mean 'batch_size'"),
        ('augmentation.flipp=1', "'augmentation.flipp': did you mean 'augmentation.flip'"),
        ('steps=many', "steps is 'many', expected an integer"),
        ('steps=true', 'steps is True'),
        ('learning_rate=true', 'learning_rate is True, expected a number'),
        ('learning_rate=fast', "learning_rate is 'fast', expected a number"),
        ('steps=0', 'steps is 0 and epochs is 0: set one'),
        ('epochs=3', 'set one of them'),
        ('steps=-1', 'steps is -1, expected 0 or more'),
        ('leave_out=video_01', 'expected a list of texts'),
        ('devices=none', 'expected a count, or auto'),
        ('margins=1', 'expected true or false'),
        ('select=accuracy', 'expected one of score, mIoU, loss'),
        ('crop_size=[60, 64]', 'two multiples of 32'),
        ('crop_size=64', 'two whole numbers'),
        ('precision=int8', 'expected one of float32, bfloat16'),
        ('validation_share=1', 'between 0 and 1'),
        ('start_share=1', 'start_share is 1.0, expected at least 0 and below 1'),
        ('start_share=-0.1', 'start_share is -0.1, expected at least 0'),
        ('start_share=.nan', 'start_share is nan, expected at least 0'),
        ('start_share=0.5', 'start_share is 0.5 without a start: set start'),
        ('normalize_training_colours=true', 'True without a colour_normalization: set both'),
        ('steps', 'write key=value'),
        ('steps.more=1', "'steps' has no keys"),
        ('seed=[', 'seed='),
    ],
)
def test_error_names_an_invalid_setting(path, setting, expected):
    with pytest.raises(ConfigError) as caught:
        read_config(path, [setting])
    assert expected in str(caught.value)


def test_rejects_settings_that_a_model_cannot_have(path):
    with pytest.raises(ModelError, match='input_size'):
        read_config(path, ['input_size=[60, 64]'])


def test_rejects_invalid_color_targets(path):
    with pytest.raises(ModelError, match='colour_normalization'):
        read_config(path, ['colour_normalization={target: [1], power: 1}'])


def test_error_names_a_missing_value(tmp_path):
    (tmp_path / 'train.yaml').write_text('output: o\n')
    with pytest.raises(ConfigError, match='no value for data'):
        read_config(tmp_path / 'train.yaml')


@pytest.mark.parametrize('content', [None, '- a\n', '{', '\xff'])
def test_rejects_a_file_that_is_not_a_configuration(tmp_path, content):
    path = tmp_path / 'train.yaml'
    if content is not None:
        path.write_bytes(content.encode('latin-1'))
    with pytest.raises(ConfigError, match=r'train\.yaml'):
        read_config(path)


@pytest.mark.parametrize('path', sorted(ROOT.glob('config/train*.yaml')), ids=lambda p: p.name)
def test_the_shipped_files_are_valid(path):
    assert read_config(path, ['data=d', 'output=o']).name


def test_the_recipe_for_few_frames_starts_from_the_default_model():
    config = read_config(ROOT / 'config/train_few_frames.yaml', [])
    assert config.start == 'models/default'
    spec, start = config.spec(), read_spec(ROOT / config.start)
    for key in ('architecture', 'encoder', 'options', 'input_size', 'fit'):
        assert getattr(spec, key) == getattr(start, key), key


def test_checkpoints_of_runs_without_a_start_share_are_those_of_earlier_versions(path):
    assert 'start_share' not in read_config(path, []).of_result()
