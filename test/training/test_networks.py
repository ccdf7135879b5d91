# SPDX-License-Identifier: Apache-2.0
"""Initial weights of a network, and errors if they are not available."""

import huggingface_hub.errors
import pytest
import safetensors.torch
import segmentation_models_pytorch as smp
import torch

from surgseg_ros.core.model_folder import ModelError
from surgseg_ros.training.config import TrainConfig
from surgseg_ros.training.networks import build_network, interpolate, starting_spec


def _build(**settings):
    config = TrainConfig(data='d', output='o', steps=1, **settings)
    return build_network(config, config.spec())


def _classifier_tensors(encoder):
    state = encoder.state_dict()
    return {**state, 'fc.weight': torch.zeros(1000, 512), 'fc.bias': torch.zeros(1000)}


@pytest.mark.parametrize('suffix', ['.safetensors', '.pth'])
def test_an_encoder_is_read_from_a_file(tmp_path, suffix):
    source = smp.Unet('resnet18', encoder_weights=None).encoder
    tensors = _classifier_tensors(source)
    path = tmp_path / f'resnet18{suffix}'
    if suffix == '.pth':
        torch.save(tensors, path)
    else:
        safetensors.torch.save_file(tensors, path)
    encoder = _build(encoder='resnet18', encoder_weights=str(path)).layers.encoder
    for key, value in source.state_dict().items():
        torch.testing.assert_close(encoder.state_dict()[key], value)


def test_an_encoder_of_timm_is_read_from_a_file(tmp_path):
    source = smp.Unet('tu-resnet18', encoder_weights=None).encoder.model
    torch.save(_classifier_tensors(source), tmp_path / 'timm.pth')
    network = _build(encoder='tu-resnet18', encoder_weights=str(tmp_path / 'timm.pth'))
    torch.testing.assert_close(
        network.layers.encoder.model.state_dict()['conv1.weight'], source.conv1.weight.data
    )


@pytest.mark.parametrize('text', ['half', '[0.5]', '[2, 2, 2]', '{}', '3'])
def test_rejects_a_file_with_an_invalid_normalization(tmp_path, text):
    path = str(tmp_path / 'encoder.safetensors')
    safetensors.torch.save_file({'a': torch.zeros(1)}, path, {'mean': text})
    config = TrainConfig(data='d', output='o', steps=1, encoder_weights=path)
    with pytest.raises(ModelError, match='invalid normalization'):
        starting_spec(config)


def test_rejects_the_file_of_another_encoder(tmp_path):
    source = smp.Unet('resnet18', encoder_weights=None).encoder
    torch.save(source.state_dict(), tmp_path / 'resnet18.pth')
    with pytest.raises(ModelError, match=r"not those of 'resnet34': missing layer1\.2"):
        _build(encoder='resnet34', encoder_weights=str(tmp_path / 'resnet18.pth'))


def test_rejects_a_file_that_requires_unpickling(tmp_path):
    torch.save({'a': print}, tmp_path / 'code.pth')
    with pytest.raises(ModelError, match='is never unpickled'):
        _build(encoder='resnet18', encoder_weights=str(tmp_path / 'code.pth'))


def test_error_without_the_hub_names_the_remedy(monkeypatch):
    def unreachable(*_, **__):
        raise huggingface_hub.errors.LocalEntryNotFoundError('no connection')

    monkeypatch.setattr(smp.encoders, 'hf_hub_download', unreachable)
    with pytest.raises(ModelError, match=r'no connection.*local file.*none'):
        _build(encoder='resnet18', encoder_weights='imagenet')


def test_rejects_an_unknown_name_of_weights():
    with pytest.raises(ModelError, match='Wrong pretrained weights'):
        _build(encoder='resnet18', encoder_weights='imagenett')


@pytest.mark.parametrize(
    ('architecture', 'encoder'),
    [('FPN', 'resnet18'), ('DeepLabV3Plus', 'mobilenet_v2'), ('UnetPlusPlus', 'tu-resnet18')],
)
def test_other_architectures_can_be_trained(architecture, encoder):
    network = _build(architecture=architecture, encoder=encoder)
    logits = network(torch.zeros(2, 64, 64, 3, dtype=torch.uint8))
    assert logits.shape == (2, 10, 64, 64)
    logits.sum().backward()
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.parametrize(('share', 'expected'), [(0, 1.0), (0.25, 1.5), (1, 3.0)])
def test_weights_and_statistics_are_interpolated_but_counters_are_not(share, expected):
    tuned, start = torch.nn.BatchNorm2d(2), torch.nn.BatchNorm2d(2)
    for norm, value in ((tuned, 1.0), (start, 3.0)):
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            torch.nn.init.constant_(tensor, value)
        norm.num_batches_tracked.fill_(int(value))
    mixed = interpolate(tuned.state_dict(), start.state_dict(), share)
    assert mixed.keys() == tuned.state_dict().keys()
    assert mixed.pop('num_batches_tracked') == 1
    for key, value in mixed.items():
        torch.testing.assert_close(value, torch.full((2,), expected), msg=key)
    assert torch.equal(tuned.running_mean, torch.ones(2)), 'the input is unchanged'
