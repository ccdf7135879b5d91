# SPDX-License-Identifier: Apache-2.0
"""A network as a CUDA graph: one launch instead of hundreds, the same memory each time."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

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
