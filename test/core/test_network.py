# SPDX-License-Identifier: Apache-2.0
import socket
from dataclasses import replace
from typing import Any

import pytest
import torch

from surgseg_ros.core.model_folder import ModelError, ModelSpec
from surgseg_ros.core.runtimes.pytorch import SegmentationNetwork, load_network


def test_logits_have_the_size_of_the_image(tiny_network: SegmentationNetwork) -> None:
    logits = tiny_network(torch.zeros(2, 64, 96, 3, dtype=torch.uint8))
    assert logits.shape == (2, 10, 64, 96)


def test_network_includes_the_normalization(
    tiny_spec: ModelSpec, tiny_network: SegmentationNetwork
) -> None:
    image = torch.randint(0, 256, (1, 64, 96, 3), dtype=torch.uint8)
    mean, std = torch.tensor(tiny_spec.mean), torch.tensor(tiny_spec.std)
    normalised = ((image / 255 - mean) / std).permute(0, 3, 1, 2)
    torch.testing.assert_close(
        tiny_network(image), tiny_network.layers(normalised), rtol=1e-4, atol=1e-4
    )


def test_building_a_network_downloads_nothing(
    tiny_spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[object] = []

    def refuse(*arguments: object, **named: object) -> None:
        tried.append((arguments, named))
        raise OSError('there is no network')

    monkeypatch.setattr(socket.socket, 'connect', refuse)
    monkeypatch.setattr(socket, 'getaddrinfo', refuse)
    SegmentationNetwork(tiny_spec)
    assert not tried
    SegmentationNetwork(replace(tiny_spec, encoder='resnet18'))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'architecture': 'Vnet'}, "Vnet with encoder 'tu-resnet18'.* expected one of .*unet"),
        ({'encoder': 'resnet17'}, "encoder 'resnet17'"),
        ({'encoder': 'tu-resnet17'}, "encoder 'tu-resnet17'"),
        ({'options': {'decoder_chanels': [1]}}, r"options \['decoder_chanels'\] are none of"),
        ({'options': {'classes': 3}}, r"options \['classes'\] are none of"),
        ({'options': {'encoder_weights': 'imagenet'}}, r"options \['encoder_weights'\] are none"),
        ({'options': {'activation': 'softmax'}}, r"options \['activation'\] are none of"),
        ({'options': {'checkpoint_path': 'x.pth'}}, r"options \['checkpoint_path'\] are none of"),
        ({'options': {'decoder_channels': [1, 2]}}, 'decoder_channels'),
        ({'options': {'decoder_channels': 'abc'}}, 'decoder_channels'),
        ({'options': {'decoder_channels': [10**30] * 5}}, 'decoder_channels'),
        ({'options': {'decoder_channels': [4096] * 5}}, 'decoder_channels has a number larger'),
        ({'options': {'encoder_depth': None}}, 'encoder_depth'),
    ],
)
def test_rejects_a_specification_that_cannot_be_built(
    tiny_spec: ModelSpec, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        SegmentationNetwork(replace(tiny_spec, **changes))


def test_saved_weights_are_loaded(tiny_spec: ModelSpec, tiny_network: SegmentationNetwork) -> None:
    image = torch.randint(0, 256, (1, 64, 96, 3), dtype=torch.uint8)
    loaded = load_network(tiny_spec, tiny_network.state_dict())
    assert not loaded.training
    torch.testing.assert_close(loaded(image), tiny_network(image), rtol=1e-4, atol=1e-4)


def test_rejects_weights_of_another_network(
    tiny_spec: ModelSpec, tiny_network: SegmentationNetwork
) -> None:
    weights = tiny_network.state_dict()
    name = next(iter(weights))
    for wrong in (
        {key: value for key, value in weights.items() if key != name},
        {**weights, 'more': torch.zeros(1)},
        {**weights, name: weights[name][:1]},
    ):
        with pytest.raises(ModelError, match='not those of Unet'):
            load_network(tiny_spec, wrong)


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_rejects_weights_that_are_not_finite(
    tiny_spec: ModelSpec, tiny_network: SegmentationNetwork, value: float
) -> None:
    weights = {name: tensor.clone() for name, tensor in tiny_network.state_dict().items()}
    next(iter(weights.values())).view(-1)[0] = value
    with pytest.raises(ModelError, match='NaN or infinity'):
        load_network(tiny_spec, weights)
