# SPDX-License-Identifier: Apache-2.0
"""Fusing batch norm changes the run time of a network, and nothing else."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from surgseg_ros.core.model_folder import ModelSpec, read_spec
from surgseg_ros.core.runtimes import RuntimeOptions, TorchRuntime
from surgseg_ros.core.runtimes.pytorch import SegmentationNetwork, fuse_batch_norm

SIZE = (64, 96)
FITTED = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, *SIZE, 3), np.uint8))


class InAnotherOrder(nn.Module):
    """Registers its layers in another order than it uses them."""

    def __init__(self) -> None:
        super().__init__()
        self.a_convolution = nn.Conv2d(3, 3, 1)
        self.b_normalisation = nn.BatchNorm2d(3)
        self.c_convolution = nn.Conv2d(3, 10, 1)

    def forward(self, planes: Tensor) -> Tensor:
        found: Tensor = self.c_convolution(self.a_convolution(self.b_normalisation(planes)))
        return found


class OfOneSize(nn.Module):
    """Rejects images of other sizes, as vision transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 10, 1)

    def forward(self, planes: Tensor) -> Tensor:
        assert planes.shape[2:] == (640, 640)
        found: Tensor = self.layer(planes)
        return found


class WithActivation(nn.BatchNorm2d):
    """A subclass of BatchNorm2d with an activation."""

    def forward(self, planes: Tensor) -> Tensor:
        return super().forward(planes).relu()


def normalisations(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def randomize(network: nn.Module) -> None:
    """Set random statistics: the initial ones change nothing."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low, high in (
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2.0),
                (module.weight.data, 0.5, 1.5),
                (module.bias.data, -0.5, 0.5),
            ):
                values.uniform_(low, high, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def network(tiny_spec: ModelSpec) -> SegmentationNetwork:
    torch.manual_seed(0)
    made = SegmentationNetwork(tiny_spec).eval()
    randomize(made)
    return made


@torch.inference_mode()
def test_logits_are_unchanged(network: SegmentationNetwork) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    fused = fuse_batch_norm(network, SIZE)
    assert normalisations(network) > 10
    assert normalisations(fused) == 0
    expected = network(FITTED)
    assert (fused(FITTED) - expected).abs().max() < 1e-5 * expected.abs().max()
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_layers_used_in_another_order_are_not_fused(network: SegmentationNetwork) -> None:
    network.layers = InAnotherOrder().eval()
    randomize(network)
    assert fuse_batch_norm(network, SIZE) is network


def test_a_network_with_a_fixed_input_size_is_not_fused(network: SegmentationNetwork) -> None:
    network.layers = OfOneSize()
    assert fuse_batch_norm(network, (640, 640)) is network


@torch.inference_mode()
def test_a_subclass_of_batch_norm_is_not_fused(network: SegmentationNetwork) -> None:
    network.layers = nn.Sequential(
        *(nn.Conv2d(3, 8, 3), WithActivation(8), nn.Conv2d(8, 10, 3), nn.BatchNorm2d(10))
    ).eval()
    randomize(network)
    fused = fuse_batch_norm(network, SIZE)
    assert normalisations(fused) == 1
    torch.testing.assert_close(fused(FITTED), network(FITTED), rtol=1e-4, atol=1e-4)


def test_the_runtime_fuses_batch_norm(tiny_model: Path) -> None:
    runtime = TorchRuntime.load(tiny_model, read_spec(tiny_model), RuntimeOptions('cpu'))
    assert normalisations(runtime.network) == 0
