# SPDX-License-Identifier: Apache-2.0
"""A small model for the tests of verbs that run one."""

import pytest
import torch

from surgseg_ros.core.model_folder import ModelSpec, write_model
from surgseg_ros.core.runtimes.pytorch import SegmentationNetwork


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    torch.manual_seed(0)
    spec = ModelSpec(
        name='tiny',
        encoder='resnet18',
        options={'encoder_depth': 3, 'decoder_channels': [16, 8, 8]},
        input_size=(32, 64),
        least_region=(0.0, *[0.02] * 9),
    )
    folder = tmp_path_factory.mktemp('models') / 'tiny'
    write_model(folder, spec, SegmentationNetwork(spec).state_dict())
    return folder
