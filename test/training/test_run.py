# SPDX-License-Identifier: Apache-2.0
"""Files of a training run, resuming after a kill, and distributed training."""

import csv
import json
import os
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from verbs import verb

from surgseg_ros.core.model_folder import read_model
from surgseg_ros.training.dataset import split_videos
from surgseg_ros.training.module import Training

main = verb('train')

SETTINGS = {
    'intended_use': 'demo',
    'encoder': 'tu-resnet18',
    'options': '{encoder_depth: 3, decoder_channels: [16, 8, 8]}',
    'input_size': '[64, 96]',
    'crop_size': '[64, 64]',
    'validation_share': 0.3,
    'batch_size': 2,
    'steps': 6,
    'validate_every': 2,
    'warm_up_steps': 1,
    'device': 'cpu',
}
TIMEOUT_S = 900

KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from surgseg_ros.__main__ import main
from surgseg_ros.core.processes import importing
with importing():
    from surgseg_ros.training import callbacks, module

torch.set_num_threads(1)
stage, *argv = sys.argv[1:]

def die_in_a_step(self, *batch):
    if self.global_step == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *batch)

def die_in_a_checkpoint(self, checkpoint, path, storage_options=None):
    if checkpoint['epoch'] == 1:
        Path(f'{path}.partial').write_bytes(Path(path).read_bytes()[:5000])
        os.kill(os.getpid(), signal.SIGKILL)
    return save(self, checkpoint, path)

step = module.Training.training_step
save = callbacks.CheckpointFile.save_checkpoint
if stage == 'step':
    module.Training.training_step = die_in_a_step
else:
    callbacks.CheckpointFile.save_checkpoint = die_in_a_checkpoint
sys.exit(main(['train', *argv]))
"""


@pytest.fixture
def arguments(tmp_path, data):
    path = tmp_path / 'train.yaml'
    path.write_text('\n'.join(f'{key}: {value}' for key, value in SETTINGS.items()))

    def build(output, *settings):
        return [
            *('--config', str(path), f'data={data}', f'output={tmp_path / output}'),
            *settings,
        ]

    return build


def _digest(folder):
    return json.loads((folder / 'model.json').read_text())['weights_sha256']


def _logged(folder, key):
    with (folder / 'run/logs/version_0/metrics.csv').open() as file:
        return [float(row[key]) for row in csv.DictReader(file) if row[key]]


@pytest.mark.timeout(TIMEOUT_S + 60)
@pytest.mark.parametrize('stage', ['step', 'checkpoint'])
def test_a_killed_run_resumes_to_the_same_result(tmp_path, arguments, stage, capsys):
    assert main(arguments('whole')) == 0

    killed = subprocess.run(
        [sys.executable, '-c', KILLED, stage, *arguments('killed')],
        capture_output=True,
        timeout=TIMEOUT_S,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / 'killed/model.json').exists()
    before = torch.load(tmp_path / 'killed/run/last.ckpt', weights_only=True)
    assert before['global_step'] == 2
    averaged, current = before['state_dict'], before['current_model_state']
    for key, best in before['run']['best_weights'].items():
        assert torch.equal(best, averaged[f'network.{key}'])
    assert any(not torch.equal(averaged[key], current[key]) for key in current)

    assert main(arguments('killed')) == 2
    assert 'with --resume' in capsys.readouterr().err
    assert main([*arguments('killed'), '--resume']) == 0
    assert _digest(tmp_path / 'killed') == _digest(tmp_path / 'whole')
    leftovers = [path.name for path in (tmp_path / 'killed').rglob('*partial*')]
    assert leftovers == []


def test_rejects_a_checkpoint_of_another_run(tmp_path, arguments, capsys):
    assert main(arguments('model', 'steps=2')) == 0
    again = [*arguments('model', 'steps=2', 'learning_rate=0.5'), '--resume']
    assert main(again) == 2
    assert 'learning_rate (was 0.001, is 0.5)' in capsys.readouterr().err
    (tmp_path / 'model/run/last.ckpt').write_bytes(b'none')
    assert main([*arguments('model', 'steps=2'), '--resume']) == 2
    assert 'remove it to start from the beginning' in capsys.readouterr().err


def test_resuming_interpolates_with_the_same_start_only(tmp_path, arguments):
    for name, seed in (('first', 0), ('other', 1)):
        assert main(arguments(name, 'steps=2', f'seed={seed}')) == 0
    settings = arguments('model', 'steps=2', 'start_share=0.5', f'start={tmp_path / "first"}')
    assert main(settings) == 0
    before = _digest(tmp_path / 'model')
    (tmp_path / 'first').rename(tmp_path / 'moved')
    moved, other = (f'start={tmp_path / name}' for name in ('moved', 'other'))
    assert main([*settings, moved, '--resume']) == 0
    assert _digest(tmp_path / 'model') == before
    assert main([*settings, other, '--resume']) == 2
    assert main([*settings, moved, 'start_share=0.25', '--resume']) == 2


def test_resuming_a_finished_run_changes_nothing(tmp_path, arguments):
    assert main(arguments('model', 'steps=2')) == 0
    before = _digest(tmp_path / 'model')
    assert main([*arguments('model', 'steps=2'), '--resume']) == 0
    assert _digest(tmp_path / 'model') == before


def test_logs_and_images_are_written(tmp_path, arguments):
    assert main(arguments('model', 'picture_every=2')) == 0
    run = tmp_path / 'model/run'
    for key in ('validation_score', 'validation_mIoU', 'validation_mNSD'):
        assert len(values := _logged(tmp_path / 'model', key)) == 3
        assert all(0 <= value <= 1 for value in values)
    assert _logged(tmp_path / 'model', 'loss')
    assert [*run.glob('logs/version_0/events*')]
    images = sorted(run.glob('pictures/*.png'))
    assert [path.name for path in images] == ['00000002.png', '00000006.png']
    assert cv2.imread(str(images[0])).shape == (32 + 2 * 288, 3 * 480, 3)
    assert not (run / 'frames').exists()


def test_accumulated_small_batches_equal_a_large_one(tmp_path, arguments):
    """Without batch normalization, the mean of the gradients is that of the large batch."""
    same = ['steps=4', 'dice_weight=0', 'ema_decay=0', 'optimizer=adam', 'select=loss']
    plain = 'options={encoder_depth: 3, decoder_channels: [16, 8, 8], decoder_use_norm: identity}'
    sizes = {'large': [4, 1], 'added': [2, 2], 'small': [2, 1]}
    weights = {}
    for name, (batch, accumulate) in sizes.items():
        count = [f'batch_size={batch}', f'accumulate={accumulate}']
        assert main(arguments(name, *same, plain, 'encoder=tu-convnext_atto', *count)) == 0
        tensors = read_model(tmp_path / name)[1]
        weights[name] = torch.cat([tensors[key].flatten() for key in sorted(tensors)])
    # Adam divides by the size of the gradient, so where that is almost 0, rounding errors matter.
    off = {name: float((w - weights['large']).abs().mean()) for name, w in weights.items()}
    assert off['added'] < 0.2 * off['small']


def test_the_recipe_of_the_paper_runs_at_a_small_size(tmp_path, longer):
    """Its file with smaller sizes: epochs over the frames, random frames for validation."""
    settings = [
        *(f'data={longer}', f'output={tmp_path / "model"}', 'encoder=tu-resnet18', 'epochs=2'),
        *('encoder_weights=none', 'input_size=[64, 64]', 'crop_size=[64, 64]', 'batch_size=4'),
    ]
    with pytest.warns(UserWarning, match='split by frame'):
        assert main(['--config', 'config/train_paper.yaml', *settings, 'device=cpu']) == 0
    spec, _ = read_model(tmp_path / 'model')
    assert (spec.training['split'], spec.training['training_frames']) == ('frame', 8)
    assert spec.training['steps_done'] in (2, 4)
    assert spec.fit == 'stretch'
    assert len(_logged(tmp_path / 'model', 'validation_loss')) == 2


def test_early_stopping_ends_a_run(tmp_path, data, arguments):
    """The truth of the validation video contradicts that of the others, so training hurts."""
    videos = sorted(path.name for path in data.iterdir())
    (odd,) = split_videos(videos, 0.3, 0)[1]
    for path in (data / odd / 'segmentation').iterdir():
        assert cv2.imwrite(str(path), np.full((48, 80), 9, np.uint8))
    settings = ['select=loss', 'patience=2', 'steps=60', 'ema_decay=0', 'learning_rate=0.01']
    assert main(arguments('model', *settings)) == 0
    losses = _logged(tmp_path / 'model', 'validation_loss')
    assert len(losses) < 30
    assert np.argmin(losses) == len(losses) - 3
    assert read_model(tmp_path / 'model')[0].training['steps_done'] == 2 * (len(losses) - 2)

    assert main([*arguments('model', *settings), '--resume']) == 0
    after = torch.load(tmp_path / 'model/run/last.ckpt', weights_only=True)
    assert after['global_step'] == 2 * len(losses), 'its patience is used up when it resumes'


@pytest.mark.timeout(TIMEOUT_S + 60)
def test_two_processes_share_a_run(tmp_path, arguments):
    """Each process takes every other view and frame; the result is one model."""
    settings = ('devices=2', 'strategy=ddp', 'batch_size=1', 'steps=4')
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    run = subprocess.run(
        [sys.executable, '-m', 'surgseg_ros', 'train', *arguments('model', *settings)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env=environment,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.count('official mIoU') == 1
    spec, _ = read_model(tmp_path / 'model')
    assert spec.scores['validation']['frames'] == 2
    checkpoint = torch.load(tmp_path / 'model/run/last.ckpt', weights_only=True)
    assert checkpoint['global_step'] == 4
    with (tmp_path / 'model/run/logs/version_0/metrics.csv').open() as file:
        scores = [
            float(r['validation_mIoU']) for r in csv.DictReader(file) if r['validation_mIoU']
        ]
    assert len(scores) == 2
    if spec.training['steps_done'] == 4:
        assert scores[-1] == pytest.approx(spec.scores['validation']['raw']['mIoU'])


def test_a_start_that_changes_during_the_run_is_refused(tmp_path, arguments, monkeypatch, capsys):
    assert main(arguments('first', 'steps=2')) == 0
    before = property(lambda _: {'weights of start': 'others'}, lambda *_: None)
    monkeypatch.setattr(Training, 'settings', before, raising=False)
    started = arguments('model', 'steps=2', 'start_share=0.5', f'start={tmp_path / "first"}')
    assert main(started) == 2
    assert 'are not those that the run started from' in capsys.readouterr().err
    assert not (tmp_path / 'model/model.json').exists()
