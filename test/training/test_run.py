# SPDX-License-Identifier: Apache-2.0
"""What a run leaves on its way, how it goes on after a kill, and how processes share it."""

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

from surgseg_ros.core.model_spec import read_model
from surgseg_ros.training.train import main

SETTINGS = {
    'intended_use': 'demo',
    'encoder': 'resnet18',
    'options': '{decoder_channels: [16, 8, 8, 8, 8]}',
    'input_size': '[64, 96]',
    'crop_size': '[64, 64]',
    'validation_share': 0.3,
    'batch_size': 2,
    'steps': 6,
    'validate_every': 2,
    'warm_up_steps': 1,
    'device': 'cpu',
}
TIMEOUT_S = 240

KILLED = """
import os, signal, sys
import torch
from surgseg_ros.training import checkpoints, module, train

torch.set_num_threads(1)
place, *argv = sys.argv[1:]

def die_in_a_step(self, *batch):
    if self.global_step == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *batch)

def die_in_a_checkpoint(self, trainer, *rest):
    if trainer.current_epoch == 1:
        half = self._path.with_name(self._path.name + '.partial')
        half.write_bytes(self._path.read_bytes()[:5000])
        os.kill(os.getpid(), signal.SIGKILL)
    return save(self, trainer, *rest)

step = module.Training.training_step
save = checkpoints.Checkpoint.on_train_epoch_end
if place == 'step':
    module.Training.training_step = die_in_a_step
else:
    checkpoints.Checkpoint.on_train_epoch_end = die_in_a_checkpoint
sys.exit(train.main(argv))
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


@pytest.mark.parametrize('place', ['step', 'checkpoint'])
def test_a_killed_run_goes_on_to_the_same_result(tmp_path, arguments, place, capsys):
    assert main(arguments('whole')) == 0

    killed = subprocess.run(
        [sys.executable, '-c', KILLED, place, *arguments('killed')],
        capture_output=True,
        timeout=TIMEOUT_S,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / 'killed/model.json').exists()
    before = torch.load(tmp_path / 'killed/run/last.ckpt', weights_only=True)
    assert before['global_step'] == 2

    assert main(arguments('killed')) == 2
    assert 'by --resume' in capsys.readouterr().err
    assert main([*arguments('killed'), '--resume']) == 0
    assert _digest(tmp_path / 'killed') == _digest(tmp_path / 'whole')
    leftovers = [path.name for path in (tmp_path / 'killed').rglob('*partial*')]
    assert leftovers == []


def test_a_checkpoint_of_another_run_is_refused(tmp_path, arguments, capsys):
    assert main(arguments('model', 'steps=2')) == 0
    again = [*arguments('model', 'steps=2', 'learning_rate=0.5'), '--resume']
    assert main(again) == 2
    assert 'learning_rate (was 0.001, is 0.5)' in capsys.readouterr().err
    (tmp_path / 'model/run/last.ckpt').write_bytes(b'none')
    assert main([*arguments('model', 'steps=2'), '--resume']) == 2
    assert 'remove it to begin anew' in capsys.readouterr().err


def test_resuming_a_finished_run_changes_nothing(tmp_path, arguments):
    assert main(arguments('model', 'steps=2')) == 0
    before = _digest(tmp_path / 'model')
    assert main([*arguments('model', 'steps=2'), '--resume']) == 0
    assert _digest(tmp_path / 'model') == before


def test_logs_and_pictures_are_left(tmp_path, arguments):
    assert main(arguments('model', 'picture_every=2')) == 0
    run = tmp_path / 'model/run'
    with (run / 'logs/version_0/metrics.csv').open() as file:
        rows = [row for row in csv.DictReader(file) if row['validation_score']]
    assert len(rows) == 3
    assert all(0 <= float(row['validation_mIoU']) <= 1 for row in rows)
    assert [*run.glob('logs/version_0/events*')]
    pictures = sorted(run.glob('pictures/*.png'))
    assert [path.name for path in pictures] == ['00000002.png', '00000006.png']
    assert cv2.imread(str(pictures[0])).shape == (32 + 2 * 288, 3 * 480, 3)
    assert not (run / 'frames').exists()


def test_small_batches_add_up_to_a_large_one(tmp_path, arguments):
    """Without normalization over the batch, the gradients' mean is that of all views."""
    same = ['steps=2', 'dice_weight=0', 'ema_decay=0', 'optimizer=adam', 'select=loss']
    plain = 'options={decoder_channels: [16, 8, 8, 8, 8], decoder_use_norm: identity}'
    encoder = 'encoder=vgg11'
    for name, sizes in (('large', ['batch_size=4']), ('small', ['batch_size=2', 'accumulate=2'])):
        assert main(arguments(name, *same, plain, encoder, *sizes)) == 0
    large, small = (read_model(tmp_path / name)[1] for name in ('large', 'small'))
    for key, value in large.items():
        torch.testing.assert_close(small[key], value, atol=1e-4, rtol=1e-3)


def test_the_papers_recipe_runs_small(tmp_path, longer):
    """Its own file, but for the sizes: passes over the frames, early stopping, best loss."""
    settings = [
        *(f'data={longer}', f'output={tmp_path / "model"}', 'encoder=resnet18'),
        *('encoder_weights=none', 'input_size=[64, 64]', 'crop_size=[64, 64]', 'batch_size=4'),
        *('epochs=20', 'patience=1', 'learning_rate=0.05', 'device=cpu'),
    ]
    with pytest.warns(UserWarning, match='split by frame'):
        assert main(['--config', 'config/train_paper.yaml', *settings]) == 0
    with (tmp_path / 'model/run/logs/version_0/metrics.csv').open() as file:
        losses = [
            float(r['validation_loss']) for r in csv.DictReader(file) if r['validation_loss']
        ]
    assert len(losses) < 20
    assert int(np.argmin(losses)) == len(losses) - 1 - 1
    spec, _ = read_model(tmp_path / 'model')
    assert spec.training['split'] == 'frame'
    assert spec.training['steps_done'] == 2 * (int(np.argmin(losses)) + 1)
    assert spec.fit == 'stretch'


def test_two_processes_share_a_run(tmp_path, arguments):
    """Each takes every other view and frame; the result is one model."""
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
