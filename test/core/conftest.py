# SPDX-License-Identifier: Apache-2.0
"""A model small enough to build and run quickly."""

from pathlib import Path

import pytest
import tiny_models
import torch

from surgseg_ros.core.model_folder import ModelSpec, write_model
from surgseg_ros.core.runtimes.pytorch import SegmentationNetwork


@pytest.fixture(scope='session')
def tiny_spec() -> ModelSpec:
    return tiny_models.tiny_spec(intended_use='demo')


@pytest.fixture(scope='session')
def tiny_network(tiny_spec: ModelSpec) -> SegmentationNetwork:
    torch.manual_seed(0)
    return SegmentationNetwork(tiny_spec).eval()


@pytest.fixture
def tiny_model(tmp_path: Path, tiny_spec: ModelSpec, tiny_network: SegmentationNetwork) -> Path:
    folder = tmp_path / 'model'
    write_model(folder, tiny_spec, tiny_network.state_dict())
    return folder
