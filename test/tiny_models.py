# SPDX-License-Identifier: Apache-2.0
"""A model that is quick to build, write, convert and run."""

from pathlib import Path
from typing import Any

import torch

from surgseg_ros.core.model_folder import ModelSpec, write_model
from surgseg_ros.core.runtimes.pytorch import SegmentationNetwork


def tiny_spec(**changes: Any) -> ModelSpec:
    """
    Describe the model, with other values of some fields.

    Unlike `resnet18`, `tu-resnet18` has only the layers that its depth of 3 uses: 3 MB, not 45.
    """
    fields = {
        'name': 'tiny',
        'encoder': 'tu-resnet18',
        'options': {'encoder_depth': 3, 'decoder_channels': [16, 8, 8]},
        'input_size': (64, 96),
    }
    return ModelSpec(**{**fields, **changes})


def write_tiny_model(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """Write the model with random weights, and return its folder."""
    spec = tiny_spec(**changes)
    torch.manual_seed(seed)
    write_model(folder, spec, SegmentationNetwork(spec).state_dict())
    return folder
