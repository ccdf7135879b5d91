# SPDX-License-Identifier: Apache-2.0
"""The runtime `torch`: every model folder has what it needs."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from surgseg_ros.core.fuse_batch_norm import fuse_batch_norm
from surgseg_ros.core.model_folder import read_weights
from surgseg_ros.core.model_spec import ModelSpec
from surgseg_ros.core.network import load_network
from surgseg_ros.core.runtimes.cuda_graph import GraphedNetwork
from surgseg_ros.core.runtimes.device import choose_device
from surgseg_ros.core.runtimes.options import AUTO, TORCH_PRECISIONS, Options

_WORDS: Final = {'f32': 'float32', 'bf16': 'bfloat16', 'f16': 'float16'}


class TorchRuntime:
    """PyTorch, channels last: eager and folded on the CPU, as a CUDA graph where that works."""

    def __init__(
        self,
        spec: ModelSpec,
        weights: Mapping[str, Tensor],
        device: str,
        precision: str = 'f32',
        pictures: int = 1,
    ) -> None:
        """
        Load a network onto a device.

        :param spec: the model folder's specification.
        :param weights: the model folder's tensors.
        :param device: `cpu`, `cuda`, `cuda:1` …
        :param precision: a key of TORCH_PRECISIONS.
        :param pictures: as many as may come in one pass.
        """
        self.device = torch.device(device)
        network = load_network(spec, weights)
        if self.device.type == 'cpu':
            network = fuse_batch_norm(network, spec.input_size)
        self.network = network.to(self.device)
        self.network.layers.to(TORCH_PRECISIONS[precision])
        self._allow_tf32 = precision != 'f32'
        self._pass: Callable[[Tensor], Tensor] = self.network
        # A CPU takes twice as long for two images; a GPU is seldom filled by one.
        self.max_batch_size = pictures if self.device.type == 'cuda' else 1
        where = 'CPU'
        if self.device.type == 'cuda':
            self._pass, how = self._on_cuda(spec.input_size)
            where = f'{torch.cuda.get_device_name(self.device)}, {how}'
        self.description = f'torch {_WORDS[precision]} on {where}'

    @classmethod
    def load(cls, folder: Path, spec: ModelSpec, options: Options) -> 'TorchRuntime':
        """
        Load a model folder's network onto a device.

        :param folder: the model folder.
        :param spec: its specification.
        :param options: device, precision and images.
        :return: the runtime.
        :raises ModelError: if the folder cannot be used.
        :raises ValueError: if the machine has no such device, or torch no such precision.
        """
        device = choose_device(options.device)
        precision = _choose_precision(options.precision, device)
        return cls(spec, read_weights(folder, spec), device, precision, options.pictures)

    def __call__(self, fitted: Tensor) -> Tensor:
        """Find the logits; see Runtime."""
        return self._pass(fitted)

    def _on_cuda(self, input_size: tuple[int, int]) -> tuple[Callable[[Tensor], Tensor], str]:
        """Take a CUDA graph where one can be recorded; say which way it is."""
        try:
            graphed = GraphedNetwork(self._eager, input_size, self.device, self.max_batch_size)
        except RuntimeError as error:
            reason = str(error).partition('\n')[0]
            return self._eager, f'without a CUDA graph ({reason})'
        return graphed, 'as a CUDA graph'

    def _eager(self, fitted: Tensor) -> Tensor:
        # TensorFloat-32, torch's default for convolutions, has the mantissa of float16.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=self._allow_tf32):
            logits: Tensor = self.network(fitted)
        return logits


def _choose_precision(asked: str, device: str) -> str:
    if asked == AUTO:
        if not device.startswith('cuda'):
            return 'f32'
        # From compute capability 8.0 on; before, torch only emulates it.
        return 'bf16' if torch.cuda.get_device_capability(device)[0] >= 8 else 'f16'
    if asked not in TORCH_PRECISIONS:
        raise ValueError(
            f'precision is {asked!r}, but the runtime torch has {", ".join(TORCH_PRECISIONS)}: '
            f"export the model for {asked}, or set precision to 'auto'"
        )
    return asked
