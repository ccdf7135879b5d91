# SPDX-License-Identifier: Apache-2.0
"""A tiny training run from end to end; the Segmenter loads its result."""

import json
import logging

import cv2
import numpy as np
import pytest
import safetensors.torch
import segmentation_models_pytorch as smp
import torch
from verbs import verb

from surgseg_ros.core.model_folder import ModelSpec, read_model, write_model
from surgseg_ros.core.runtimes.pytorch import SegmentationNetwork
from surgseg_ros.core.segmenter import Segmenter
from surgseg_ros.evaluation.layout import DRAWN_FILE
from surgseg_ros.training import train
from surgseg_ros.training.config import TrainConfig
from surgseg_ros.training.data import Data
from surgseg_ros.training.dataset import find_samples

main = verb('train')


@pytest.fixture
def config(tmp_path, data, recipe):
    path = tmp_path / 'train.yaml'
    head = f'data: {data}\noutput: {tmp_path}/model\nname: tiny\n'
    path.write_text(head + recipe)
    return path


def test_two_epochs_give_a_model_that_segments(tmp_path, config, data, capsys):
    assert main(['--config', str(config)]) == 0

    segmenter = Segmenter.load(tmp_path / 'model', 'cpu', 'torch')
    image = cv2.imread(str(data / 'video_01/rgb/000000000.png'))
    assert segmenter.segment(image).mask.shape == (48, 80)
    spec = segmenter.spec
    assert (spec.name, spec.intended_use, spec.input_size) == ('tiny', 'demo', (64, 96))
    assert spec.training['steps_done'] in (2, 4)
    assert len(spec.training['validation_videos']) == 1
    assert spec.training['training_frames'] == 4
    assert spec.training['recipe']['learning_rate'] == 1e-3
    scores = spec.scores['validation']
    assert scores['frames'] == 2
    assert 0 <= scores['raw']['mIoU'] <= scores['filtered']['mIoU'] <= 1
    assert spec.temperature != 1.0
    assert scores['calibration']['after']['ece'] != scores['calibration']['before']['ece']
    assert f'divided by {spec.temperature:.4f}' in (tmp_path / 'model/README.md').read_text()
    assert (tmp_path / 'model/README.md').read_text().count(spec.weights_sha256) == 1
    assert str(tmp_path) not in (tmp_path / 'model/model.json').read_text()
    assert 'official mIoU' in capsys.readouterr().out


def test_weights_of_every_validation_are_kept_if_requested(tmp_path, config):
    assert main(['--config', str(config), 'keep_weights=true']) == 0
    kept = sorted((tmp_path / 'model/run/weights').iterdir())
    assert [path.stem for path in kept] == ['000002', '000004']
    final = read_model(tmp_path / 'model')[1]
    assert set(safetensors.torch.load_file(kept[0])) == set(final)


def test_the_same_seed_gives_the_same_weights(tmp_path, config):
    digests = []
    for name, seed in (('a', 1), ('b', 1), ('c', 2)):
        output = tmp_path / name
        settings = [f'output={output}', f'seed={seed}', 'steps=2']
        assert main(['--config', str(config), *settings]) == 0
        digests.append(json.loads((output / 'model.json').read_text())['weights_sha256'])
    assert digests[0] == digests[1] != digests[2]


def test_a_run_starts_from_a_model(tmp_path, config):
    assert main(['--config', str(config), 'steps=1']) == 0
    settings = [f'output={tmp_path / "more"}', f'start={tmp_path / "model"}']
    # With so low a learning rate the weights change only if they were not loaded.
    assert main(['--config', str(config), *settings, 'learning_rate=1e-12']) == 0
    before, after = (
        read_model(tmp_path / name)[1]['layers.segmentation_head.0.weight']
        for name in ('model', 'more')
    )
    torch.testing.assert_close(before, after)
    spec = json.loads((tmp_path / 'more/model.json').read_text())
    assert spec['training']['start']['steps_done'] == 1


def test_the_result_is_interpolated_with_the_weights_of_start(tmp_path, config, data):
    assert main(['--config', str(config), 'steps=1']) == 0
    again = ['--config', str(config), f'start={tmp_path / "model"}', 'learning_rate=0.01']
    for name, share in (('own', 0), ('shared', 0.75)):
        assert main([*again, f'output={tmp_path / name}', f'start_share={share}']) == 0
    start, own, shared = (read_model(tmp_path / name) for name in ('model', 'own', 'shared'))
    moved = 0.0
    for key, value in own[1].items():
        if value.is_floating_point():
            torch.testing.assert_close(shared[1][key], 0.25 * value + 0.75 * start[1][key])
            moved += float((value - start[1][key]).abs().sum())
    assert moved > 0
    assert shared[0].training['recipe']['start_share'] == 0.75
    assert shared[0].scores != own[0].scores, 'the scores are those of the interpolated weights'
    text = (tmp_path / 'shared/README.md').read_text()
    assert 'interpolated with the weights before it, whose share is 0.75' in text
    assert 'interpolated' not in (tmp_path / 'own/README.md').read_text()


def test_color_preprocessing_is_part_of_the_model_and_inherited(tmp_path, config):
    colours = {'target': [130, 70, 70], 'power': 0.5}
    settings = [f'colour_normalization={json.dumps(colours)}', 'normalize_training_colours=true']
    assert main(['--config', str(config), 'steps=1', *settings]) == 0
    settings = [f'output={tmp_path / "more"}', f'start={tmp_path / "model"}', 'steps=1']
    assert main(['--config', str(config), *settings]) == 0
    specs = [read_model(tmp_path / name)[0] for name in ('model', 'more')]
    assert [spec.colour_normalization for spec in specs] == [colours, colours]
    readme = (tmp_path / 'more/README.md').read_text()
    assert 'moved towards [130, 70, 70] with a power of 0.5' in readme


def test_normalization_is_that_of_the_file_of_the_encoder(tmp_path, config):
    encoder = smp.encoders.get_encoder('resnet18', depth=3, weights=None)
    path = tmp_path / 'resnet18.safetensors'
    metadata = {'source': 'a package', 'license': 'Apache-2.0', 'mean': '[0.5, 0.5, 0.25]'}
    tensors = encoder.state_dict()
    safetensors.torch.save_file(tensors, path, metadata)
    settings = ['encoder=resnet18', f'encoder_weights={path}', 'steps=1']
    assert main(['--config', str(config), *settings]) == 0
    spec = read_model(tmp_path / 'model')[0]
    assert spec.mean == (0.5, 0.5, 0.25)
    assert spec.training['encoder_weights'] == {'source': 'a package', 'license': 'Apache-2.0'}
    written = (tmp_path / 'model/README.md').read_text()
    assert 'resnet18.safetensors (weights of a package, license Apache-2.0)' in written
    more = ['encoder=resnet18', f'output={tmp_path / "more"}', f'start={tmp_path / "model"}']
    assert main(['--config', str(config), *more, 'steps=1']) == 0
    assert read_model(tmp_path / 'more')[0].mean == (0.5, 0.5, 0.25)
    assert 'license Apache-2.0' in (tmp_path / 'more/README.md').read_text()


def test_training_learns_to_segment_a_bright_bar(tmp_path, config):
    """A few steps suffice to segment a bright bar on a dark background."""
    settings = ['steps=40', 'validate_every=40', 'ema_decay=0.8', 'learning_rate=0.005']
    assert main(['--config', str(config), *settings, 'precision=bfloat16', 'schedule=poly']) == 0
    scores = json.loads((tmp_path / 'model/model.json').read_text())['scores']['validation']
    assert scores['raw']['present_class_IoU'][2] > 0.5


def test_a_cpu_without_bfloat16_trains_in_float32_and_reports_it(
    tmp_path, config, monkeypatch, caplog
):
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(train, 'has_instructions', lambda precision: precision == 'f32')
    run = ['--config', str(config), 'precision=bfloat16']
    assert main([*run, 'steps=1']) == 0
    (message,) = [text for text in caplog.messages if 'instructions' in text]
    assert message == 'this CPU has no instructions for bfloat16: training in float32 instead'
    spec = json.loads((tmp_path / 'model/model.json').read_text())
    assert spec['training']['recipe']['precision'] == 'float32'


@pytest.mark.parametrize(
    ('requested', 'device', 'has_bf16', 'expected'),
    [
        ('bfloat16', 'cpu', False, 'float32'),
        ('bfloat16', 'cpu', True, 'bfloat16'),
        ('bfloat16', 'cuda', False, 'bfloat16'),
        ('float16', 'cuda', False, 'float16'),
        ('float32', 'cpu', False, 'float32'),
    ],
)
def test_trains_in_no_precision_that_a_cpu_emulates(
    monkeypatch, requested, device, has_bf16, expected
):
    monkeypatch.setattr(train, 'has_instructions', lambda precision: has_bf16)
    assert train.trained_precision(requested, device) == expected


def test_a_time_limit_ends_a_run(tmp_path, config):
    assert main(['--config', str(config), 'minutes=1e-9', 'steps=100000']) == 0
    spec = json.loads((tmp_path / 'model/model.json').read_text())
    assert spec['training']['steps_done'] == 1


def test_rejects_an_output_folder_that_is_not_empty(tmp_path, config, capsys):
    (tmp_path / 'model').mkdir()
    kept = tmp_path / 'model/mine.txt'
    kept.write_text('mine')
    assert main(['--config', str(config)]) == 2
    assert 'is not an empty folder' in capsys.readouterr().err
    assert [*kept.parent.iterdir()] == [kept]


@pytest.mark.parametrize(
    ('setting', 'message'),
    [
        ('encoder=resnet17', "encoder 'resnet17'"),
        ('stepz=1', "did you mean 'steps'"),
        ('data=nowhere', 'holds no video_'),
        ('device=tpu', "device is 'tpu'"),
        ('strategy=dpp', "strategy='dpp'"),
        ('precision=float16', 'use bfloat16'),
        ('encoder_weights=none.pth', "'none.pth' cannot be read"),
    ],
)
def test_error_names_unusable_input(config, capsys, setting, message):
    assert main(['--config', str(config), setting]) == 2
    assert message in capsys.readouterr().err


def test_error_names_a_damaged_image(config, data, capsys):
    (data / 'video_01/rgb/000000060.png').write_bytes(b'no image')
    assert main(['--config', str(config)]) == 2
    assert 'video_01/rgb/000000060.png' in capsys.readouterr().err


def test_a_data_error_is_raised_or_left_out_by_name(tmp_path, config, data, capsys):
    mask = data / 'video_01/segmentation/000000060.png'
    assert cv2.imwrite(str(mask), np.full((48, 80), 12, np.uint8))
    assert main(['--config', str(config)]) == 2
    text = capsys.readouterr().err
    assert '12, expected 0 to 9' in text
    assert '[video_01/000000060]' in text

    with pytest.warns(UserWarning, match=r'left out .video_01/000000060.'):
        assert main(['--config', str(config), 'on_fault=leave_out', f'output={tmp_path}/a']) == 0
    named = ['leave_out=[video_01/000000060]', f'output={tmp_path}/b']
    assert main(['--config', str(config), *named]) == 0
    for name in 'ab':
        spec = json.loads((tmp_path / name / 'model.json').read_text())
        assert spec['training']['left_out'] == ['video_01/000000060']
        assert spec['training']['training_frames'] + spec['training']['validation_frames'] == 5


def test_the_split_is_written(tmp_path, config):
    assert main(['--config', str(config), 'steps=1']) == 0
    split = json.loads((tmp_path / 'model/split.json').read_text())
    assert (split['by'], split['seed']) == ('video', 0)
    assert (len(split['training']), len(split['validation'])) == (2, 1)
    assert sorted(split['training'] + split['validation']) == ['video_01', 'video_02', 'video_03']


@pytest.mark.parametrize(
    ('drawn', 'start', 'chosen', 'expected'),
    [
        (3, '', 'auto', 'synthetic'),
        (2, '', 'auto', 'research'),
        (0, '', 'auto', 'research'),
        (3, 'synthetic', 'auto', 'synthetic'),
        (0, 'synthetic', 'auto', 'research'),
        (3, 'research', 'auto', 'research'),
        (3, '', 'demo', 'demo'),
    ],
)
def test_the_intended_use_depends_on_the_training_data(
    tmp_path, data, drawn, start, chosen, expected
):
    for video in sorted(data.iterdir())[:drawn]:
        (video / DRAWN_FILE).write_text('{}')
    if start:
        options = {'encoder_depth': 3, 'decoder_channels': [16, 8, 8]}
        spec = ModelSpec(name='first', encoder='tu-resnet18', options=options, intended_use=start)
        write_model(tmp_path / 'start', spec, SegmentationNetwork(spec).state_dict())
        start = str(tmp_path / 'start')
    config = TrainConfig(data=str(data), output='o', steps=1, start=start, intended_use=chosen)
    module = Data(config, tmp_path / 'run')
    *module.training, last = find_samples(data)
    module.validation = (last,)
    assert module.intended_use() == expected
