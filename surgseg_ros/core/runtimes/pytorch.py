# SPDX-License-Identifier: Apache-2.0
"""The runtime `torch`: every model folder has what it needs."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from surgseg_ros.core.model_folder import read_weights
from surgseg_ros.core.model_spec import ModelSpec
from surgseg_ros.core.network import load_network
from surgseg_ros.core.runtimes.device import choose_device


class TorchRuntime:
    """PyTorch in float32, channels last, on the CPU or a CUDA device."""

    def __init__(self, spec: ModelSpec, weights: Mapping[str, Tensor], device: str) -> None:
        """
        Load a network onto a device.

        :param spec: the model folder's specification.
        :param weights: the model folder's tensors.
        :param device: `cpu`, `cuda`, `cuda:1` …
        """
        self.device = torch.device(device)
        self.network = load_network(spec, weights).to(self.device)
        name = torch.cuda.get_device_name(self.device) if self.device.type == 'cuda' else 'CPU'
        self.description = f'torch float32 on {name}'

    @classmethod
    def load(cls, folder: Path, spec: ModelSpec, device: str) -> 'TorchRuntime':
        """
        Load a model folder's network onto a device.

        :param folder: the model folder.
        :param spec: its specification.
        :param device: `auto`, `cpu`, `cuda`, `cuda:1` …
        :return: the runtime.
        :raises ModelError: if the folder can't be used.
        :raises ValueError: if the machine has no such device.
        """
        chosen = choose_device(device)
        return cls(spec, read_weights(folder, spec), chosen)

    def __call__(self, fitted: Tensor) -> Tensor:
        """Find the logits; see Runtime."""
        logits: Tensor = self.network(fitted)
        return logits
