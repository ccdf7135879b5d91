# SPDX-License-Identifier: Apache-2.0
"""Convolutions before upsampling change the run time of a U-Net, and nothing else."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from surgseg_ros.core.model_folder import ModelSpec, read_spec
from surgseg_ros.core.runtimes import RuntimeOptions, TorchRuntime, pytorch
from surgseg_ros.core.runtimes.pytorch import EarlyConvolution, SegmentationNetwork, speed_up

SIZE = (64, 96)
FITTED = torch.randint(256, (2, *SIZE, 3), generator=torch.Generator().manual_seed(0)).byte()


def early(network: nn.Module) -> int:
    return sum(isinstance(module, EarlyConvolution) for module in network.modules())


def network_with(spec: ModelSpec, **options: object) -> SegmentationNetwork:
    torch.manual_seed(0)
    changed = dataclasses.replace(spec, options={**spec.options, **options})
    return SegmentationNetwork(changed).eval()


@torch.inference_mode()
@pytest.mark.parametrize('options', [{}, {'decoder_use_norm': False}])
def test_logits_are_unchanged(tiny_spec: ModelSpec, options: dict[str, object]) -> None:
    network = network_with(tiny_spec, **options)
    changed = speed_up(network, SIZE)
    assert (early(network), early(changed)) == (0, 3)
    expected = network(FITTED)
    assert (changed(FITTED) - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize(
    'options',
    [
        {'decoder_interpolation': 'bilinear'},
        {'decoder_attention_type': 'scse', 'decoder_channels': [16, 16, 16]},
        {'decoder_use_norm': 'layernorm'},
    ],
)
def test_other_blocks_stay(tiny_spec: ModelSpec, options: dict[str, object]) -> None:
    assert early(speed_up(network_with(tiny_spec, **options), SIZE)) == 0


@pytest.mark.parametrize('size', [(60, 96), (268, 480), (255, 256)])
def test_blocks_stay_if_they_do_not_double_the_size(
    tiny_spec: ModelSpec, size: tuple[int, int]
) -> None:
    assert early(speed_up(network_with(tiny_spec), size)) == 0


def test_a_network_with_other_logits_is_not_used(
    tiny_spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(network: SegmentationNetwork) -> None:
        network.mean.add_(50)

    monkeypatch.setattr(pytorch, '_convolve_early', spoil)
    network = network_with(tiny_spec)
    assert torch.equal(speed_up(network, SIZE).mean, network.mean)


def test_the_runtime_of_a_cpu_uses_them(tiny_model: Path) -> None:
    runtime = TorchRuntime.load(tiny_model, read_spec(tiny_model), RuntimeOptions('cpu'))
    assert early(runtime.network) == 3
