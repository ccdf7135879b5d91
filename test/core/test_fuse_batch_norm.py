# SPDX-License-Identifier: Apache-2.0
"""Folding changes the time that a network takes, and nothing else."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from surgseg_ros.core.model_folder import ModelSpec, read_spec
from surgseg_ros.core.runtimes import Options, TorchRuntime
from surgseg_ros.core.runtimes.pytorch import SegmentationNetwork, fuse_batch_norm

SIZE = (64, 96)
FITTED = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, *SIZE, 3), np.uint8))


class InAnotherOrder(nn.Module):
    """Holds its layers in the order of the alphabet."""

    def __init__(self) -> None:
        super().__init__()
        self.a_convolution = nn.Conv2d(3, 3, 1)
        self.b_normalisation = nn.BatchNorm2d(3)
        self.c_convolution = nn.Conv2d(3, 10, 1)

    def forward(self, planes: Tensor) -> Tensor:
        found: Tensor = self.c_convolution(self.a_convolution(self.b_normalisation(planes)))
        return found


class OfOneSize(nn.Module):
    """Refuses images of other sizes, as vision transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 10, 1)

    def forward(self, planes: Tensor) -> Tensor:
        assert planes.shape[2:] == (640, 640)
        found: Tensor = self.layer(planes)
        return found


class WithActivation(nn.BatchNorm2d):
    """Does more than its name says."""

    def forward(self, planes: Tensor) -> Tensor:
        return super().forward(planes).relu()


def normalisations(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def stir(network: nn.Module) -> None:
    """Give normalisations something to do: new ones leave all as it is."""
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
    stir(made)
    return made


@torch.inference_mode()
def test_logits_stay(network: SegmentationNetwork) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    fused = fuse_batch_norm(network, SIZE)
    assert normalisations(network) > 20
    assert normalisations(fused) == 0
    expected = network(FITTED)
    assert (fused(FITTED) - expected).abs().max() < 1e-5 * expected.abs().max()
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_layers_that_are_used_in_another_order_stay(network: SegmentationNetwork) -> None:
    network.layers = InAnotherOrder().eval()
    stir(network)
    assert fuse_batch_norm(network, SIZE) is network


def test_a_network_that_takes_no_other_size_stays(network: SegmentationNetwork) -> None:
    network.layers = OfOneSize()
    assert fuse_batch_norm(network, (640, 640)) is network


@torch.inference_mode()
def test_a_normalisation_that_does_more_stays(network: SegmentationNetwork) -> None:
    network.layers = nn.Sequential(
        *(nn.Conv2d(3, 8, 3), WithActivation(8), nn.Conv2d(8, 10, 3), nn.BatchNorm2d(10))
    ).eval()
    stir(network)
    fused = fuse_batch_norm(network, SIZE)
    assert normalisations(fused) == 1
    torch.testing.assert_close(fused(FITTED), network(FITTED), rtol=1e-4, atol=1e-4)


def test_the_runtime_folds(tiny_model: Path) -> None:
    runtime = TorchRuntime.load(tiny_model, read_spec(tiny_model), Options('cpu'))
    assert normalisations(runtime.network) == 0
