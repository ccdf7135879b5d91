# SPDX-License-Identifier: Apache-2.0
"""The verb `calibrate`: fits a temperature on some videos, reports its effect on others."""

import dataclasses
import json

import cv2
import numpy as np
import pytest
import torch
from tiny_models import tiny_spec
from verbs import verb

from surgseg_ros.core.model_folder import find_model, read_spec, write_model
from surgseg_ros.core.runtimes.pytorch import SegmentationNetwork
from surgseg_ros.training.model_card import model_card

main = verb('calibrate')

SPEC = tiny_spec()


@pytest.fixture
def model(tmp_path):
    """Make a model that is far too confident."""
    torch.manual_seed(0)
    network = SegmentationNetwork(SPEC).eval()
    with torch.no_grad():
        network.layers.segmentation_head[0].weight *= 40
    folder = tmp_path / 'model'
    written = write_model(folder, SPEC, network.state_dict())
    (folder / 'README.md').write_text(model_card(written))
    return folder


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('data')
    for seed in range(4):
        rng = np.random.default_rng(seed)
        image = rng.integers(0, 255, (64, 96, 3), np.uint8)
        mask = rng.integers(0, 4, (64, 96), np.uint8)
        for kind, array in (('rgb', image), ('segmentation', mask)):
            path = root / f'video_{seed}' / kind / '000000000.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), array)
    return root


def calibrate(model, *more):
    return main(['--model', str(model), '--device', 'cpu', *map(str, more)])


def test_the_temperature_is_written_and_nothing_else_changes(model, data, capsys):
    digest = 'ab' * 32
    entry = {'precision': 'f32', 'files': {'model.onnx': digest}, 'agreement': {}}
    before = dataclasses.replace(
        read_spec(model), exports={'onnx': entry}, scores={'validation': {'mIoU': 0.5}}
    )
    (model / 'model.json').write_text(before.to_json())
    (model / 'README.md').write_text(model_card(before))
    weights = (model / 'weights.safetensors').read_bytes()

    assert calibrate(model, '--calibration', data) == 0
    spec = read_spec(model)
    assert spec.temperature > 2
    assert dataclasses.replace(spec, temperature=1.0, scores=before.scores) == before
    assert spec.scores['validation'] == {'mIoU': 0.5}
    found = spec.scores['confidence']
    assert (found['videos'], found['frames']) == (2, 2)
    errors = {key: found['calibration'][key]['ece'] for key in ('before', 'after')}
    assert errors['after'] < errors['before']
    assert (model / 'weights.safetensors').read_bytes() == weights
    assert (model / 'README.md').read_text() == model_card(spec)
    assert f'{errors["after"]:.4f} after, on 2 held-out frames' in capsys.readouterr().out

    assert calibrate(model, '--calibration', data) == 0
    assert read_spec(model) == spec


def test_additional_text_of_a_card_is_kept(model, data, capsys):
    with (model / 'README.md').open('a') as file:
        file.write('\nSeen by me.\n')
    assert calibrate(model, '--calibration', data) == 0
    assert (model / 'README.md').read_text().endswith('Seen by me.\n')
    assert 'and is unchanged' in capsys.readouterr().out
    assert read_spec(model).temperature > 2


def test_a_model_that_is_not_a_demo_needs_a_data_set(model, capsys):
    content = (model / 'model.json').read_bytes()
    assert calibrate(model) == 2
    assert '--calibration' in capsys.readouterr().err
    assert (model / 'model.json').read_bytes() == content


def test_rejects_the_name_of_the_shipped_model_which_is_not_rewritten(capsys):
    assert calibrate('default') == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f'cp -r {find_model("default")} my_model')


def test_a_folder_may_be_named_like_the_shipped_model(model, data, monkeypatch):
    monkeypatch.chdir(model.parent)
    model.rename('default')
    assert calibrate('./default', '--calibration', data) == 0


def test_rejects_an_invalid_number_of_frames(model):
    with pytest.raises(SystemExit):
        calibrate(model, '--frames', 0)


def test_the_temperature_is_a_readable_number_in_the_file(model, data):
    assert calibrate(model, '--calibration', data, '--frames', 1) == 0
    assert json.loads((model / 'model.json').read_text())['temperature'] > 1
