# SPDX-License-Identifier: Apache-2.0
"""What runs a network: one Protocol, one dict."""

from collections.abc import Callable, Mapping
from typing import Final, Protocol

import torch
from torch import Tensor

from surgseg_ros.core.model_spec import ModelSpec
from surgseg_ros.core.network import load_network


class Runtime(Protocol):
    """A loaded network on a device."""

    device: torch.device
    description: str
    """Runtime, precision and device, for people."""

    def __call__(self, fitted: Tensor) -> Tensor:
        """
        Find the logits of fitted pictures.

        :param fitted: (N, h, w, 3) uint8 RGB on `device`.
        :return: (N, CLASS_COUNT, h, w) float logits on `device`.
        """
        ...


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

    def __call__(self, fitted: Tensor) -> Tensor:
        """Find the logits; see Runtime."""
        logits: Tensor = self.network(fitted)
        return logits


RUNTIMES: Final[Mapping[str, Callable[[ModelSpec, Mapping[str, Tensor], str], Runtime]]] = {
    'torch': TorchRuntime,
}


def choose_device(device: str) -> str:
    """
    Turn a device as a person names it into one that this machine has.

    :param device: `auto` (CUDA where there is one), `cpu`, `cuda`, `cuda:1` …
    :return: a name that torch.device takes.
    :raises ValueError: if the name is unknown, or the machine has no such device.
    """
    if device == 'auto':
        return 'cuda' if torch.cuda.is_available() else 'cpu'
    try:
        parsed = torch.device(device)
    except RuntimeError:
        parsed = None
    if parsed is None or parsed.type not in ('cpu', 'cuda'):
        raise ValueError(f'device is {device!r}, expected auto, cpu, cuda or cuda:N')
    if parsed.type == 'cuda' and (parsed.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f'device is {device!r}, but torch sees {torch.cuda.device_count()} CUDA devices here: '
            "check the driver with nvidia-smi, or set device to 'cpu'"
        )
    return device
