# SPDX-License-Identifier: Apache-2.0
"""Networks run by PyTorch: batch normalization fused on a CPU, CUDA graphs on a GPU."""

import copy
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from surgseg_ros.core.model_folder import ModelSpec, read_weights
from surgseg_ros.core.network import SegmentationNetwork, load_network
from surgseg_ros.core.runtimes.selection import AUTO, TORCH_PRECISIONS, Options, choose_device

_SIDE_PX: Final = 128
"""Of the trial's image: at full size, loading a ResNet-34 took twice as long."""

_TOLERANCE: Final = 1e-3
"""
Of the largest logit, how far one may move; rounding moves them by a hundredth of that.

A convolution whose normalisation was another's would move them by about as much as they are.
"""


@torch.no_grad()  # of what is made in inference mode, no half precision can be made
def fuse_batch_norm(network: SegmentationNetwork, size: tuple[int, int]) -> SegmentationNetwork:
    """
    Let convolutions do what the batch normalisation behind them does.

    In evaluation that is a factor and a summand per channel, which the weights can hold; a pass
    over all activations less. Which normalisation is behind which convolution is taken from the
    order in which a module holds them, and then tried: an architecture that uses them in another
    order is left as it is, and so is one that does not take the small image of the trial.

    :param network: in evaluation mode, in float32, on the CPU; it is not changed.
    :param size: (h, w) of its input in pixels.
    :return: a network with logits that differ by rounding alone; `network` where none is found.
    """
    fused = copy.deepcopy(network)
    _fuse(fused)
    fused.to(memory_format=torch.channels_last)
    shape = 1, *(min(side, _SIDE_PX) for side in size), 3
    picture = torch.randint(256, shape, generator=torch.Generator().manual_seed(0)).byte()
    try:
        expected, found = (_logits(each, picture) for each in (network, fused))
    except Exception:  # an architecture refuses sizes in its own way
        return network
    is_same = (found - expected).abs().max() <= _TOLERANCE * expected.abs().max()
    return fused if is_same else network


def _logits(network: nn.Module, picture: Tensor) -> Tensor:
    logits: Tensor = network(picture)
    return logits


def _fuse(module: nn.Module) -> None:
    for (name, first), (next_name, second) in pairwise(list(module.named_children())):
        # What derives from a normalisation may do more: timm's holds an activation.
        if isinstance(first, nn.Conv2d) and type(second) is nn.BatchNorm2d:
            setattr(module, name, fuse_conv_bn_eval(first, second))
            setattr(module, next_name, nn.Identity())
    for child in module.children():
        _fuse(child)


_ROUNDS_BEFORE = 3
"""Passes before the recording: libraries choose their kernels and take their workspace."""


class GraphedNetwork:
    """
    Replays a network, recorded once for each number of images.

    :param network: from (N, h, w, 3) uint8 to logits, on `device`, in evaluation mode.
    :param input_size: (h, w).
    :param device: a CUDA device.
    :param pictures: the greatest N.
    :raises RuntimeError: if the device or the network does not allow a recording.
    """

    def __init__(
        self,
        network: Callable[[Tensor], Tensor],
        input_size: tuple[int, int],
        device: torch.device,
        pictures: int,
    ) -> None:
        """Record; it takes some passes of the network."""
        self._inputs = torch.zeros((pictures, *input_size, 3), dtype=torch.uint8, device=device)
        self._graphs: Mapping[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {
            count: _record(network, self._inputs[:count]) for count in range(pictures, 0, -1)
        }

    @torch.inference_mode()
    def __call__(self, fitted: Tensor) -> Tensor:
        """
        Find the logits.

        :param fitted: (N, h, w, 3) uint8 RGB on the device.
        :return: logits in the graph's own memory, which the next call writes to.
        """
        self._inputs[: len(fitted)].copy_(fitted)
        graph, logits = self._graphs[len(fitted)]
        graph.replay()
        return logits


@torch.inference_mode()
def _record(
    network: Callable[[Tensor], Tensor], inputs: Tensor
) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    """Record one pass on the memory of `inputs`; the result's memory belongs to the graph."""
    current = torch.cuda.current_stream(inputs.device)
    warm_up_stream = torch.cuda.Stream(inputs.device)  # type: ignore[no-untyped-call]
    warm_up_stream.wait_stream(current)
    with torch.cuda.stream(warm_up_stream):
        for _ in range(_ROUNDS_BEFORE):
            network(inputs)
    current.wait_stream(warm_up_stream)
    graph = torch.cuda.CUDAGraph()
    # Other threads of the process may use CUDA meanwhile; this one's mistakes are still found.
    with torch.cuda.graph(graph, stream=warm_up_stream, capture_error_mode='thread_local'):
        logits = network(inputs)
    return graph, logits


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
