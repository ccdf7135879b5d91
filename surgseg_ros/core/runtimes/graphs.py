# SPDX-License-Identifier: Apache-2.0
"""CUDA graphs: work on a GPU that is captured once and replayed, without Python in between."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from surgseg_ros.core.errors import first_line

_LOG: Final = logging.getLogger(__name__)

_ROUNDS_BEFORE: Final = 3
"""Warm-up calls before the capture: libraries choose kernels and allocate workspaces."""

_GRAPHS: Final = 16
"""Graphs that are kept; at 1080p, each holds its input, 6 MB, and its results."""

Function = Callable[..., Sequence[Tensor]]
"""Maps a sequence of tensors, and options, to tensors."""

MIN_AGREEMENT: Final = 0.999
"""Share of equal values in a replay and in the call it was captured from, as for exports."""

_TOLERANCE: Final = 0.02
"""Change of a float in a replay, relative to the largest, as kernels may differ in rounding."""


class Graph(NamedTuple):
    """
    Captured work.

    :param replay: repeats it.
    :param inputs: the tensors that it reads.
    :param outputs: the tensors that it writes.
    """

    replay: Callable[[], None]
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]


class GraphedFunction:
    """
    A function of tensors on a CUDA device that is replayed as a CUDA graph.

    For each combination of shapes and options, the first call only runs the function. The second
    also captures it, and compares a replay with the results; later calls replay. If a capture
    fails or a replay differs, the function runs as it is from then on, and the log has the reason.
    Not thread-safe.

    :param function: maps tensors and options to tensors; it must not wait for the device, and
        must do the same work for inputs of the same shapes.
    :param capture: captures a call without options; a parameter for tests.
    """

    def __init__(
        self,
        function: Function,
        capture: 'Callable[[Function, Sequence[Tensor]], Graph] | None' = None,
    ) -> None:
        """Store the arguments; graphs are captured when shapes are known."""
        self._function = function
        self._capture = capture or Capture()
        self._graphs: OrderedDict[Hashable, Graph | None] = OrderedDict()
        self.failure: str | None = None
        """Why the function is not replayed; None if it is."""

    @torch.inference_mode()
    def __call__(self, inputs: Sequence[Tensor], *options: Hashable) -> Sequence[Tensor]:
        """
        Call the function, or replay an earlier call.

        :param inputs: on the device.
        :param options: passed to the function after the inputs.
        :return: its results, which the next call may overwrite.
        """
        if self.failure is not None:
            return self._function(inputs, *options)
        key = (*(tensor.shape for tensor in inputs), *options)
        is_new = key not in self._graphs
        graph = self._graphs.setdefault(key, None)
        self._graphs.move_to_end(key)
        if len(self._graphs) > _GRAPHS:
            self._graphs.popitem(last=False)
        if graph is not None:
            return _replay(graph, inputs)
        results = self._function(inputs, *options)
        if not is_new:
            self._graphs[key] = self._captured(inputs, options, results)
        return results

    def _captured(
        self, inputs: Sequence[Tensor], options: Sequence[Hashable], expected: Sequence[Tensor]
    ) -> Graph | None:
        """Capture a call, and compare a replay with its results; None if that fails."""
        try:
            graph = self._capture(lambda tensors: self._function(tensors, *options), inputs)
            if all(map(_agree, _replay(graph, inputs), expected)):
                return graph
            self.failure = 'a replay gave other results'
        except RuntimeError as error:
            self.failure = first_line(error)
        self._graphs.clear()
        _LOG.warning('without CUDA graphs, and so slower: %s', self.failure)
        return None


class Capture:
    """
    Captures calls as CUDA graphs.

    The graphs share the memory of what is computed in between, as only one is replayed at a time.
    """

    def __init__(self) -> None:
        """Allocate nothing yet."""
        self._pool: Any = None  # torch has no public name for the type

    @torch.inference_mode()
    def __call__(self, function: Function, inputs: Sequence[Tensor]) -> Graph:
        """
        Capture a call.

        :param function: maps tensors to tensors.
        :param inputs: at least one, on a CUDA device; they are copied.
        :return: the graph.
        :raises RuntimeError: if the device or the function does not support capture.
        """
        device = inputs[0].device
        own = [tensor.clone() for tensor in inputs]
        current = torch.cuda.current_stream(device)
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            for _ in range(_ROUNDS_BEFORE):
                function(own)
        current.wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads may use CUDA meanwhile; only errors of this thread abort the capture.
        with torch.cuda.graph(graph, self._pool, stream, capture_error_mode='thread_local'):
            outputs = function(own)
        self._pool = graph.pool()
        return Graph(graph.replay, own, outputs)


def _replay(graph: Graph, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
    for own, given in zip(graph.inputs, inputs, strict=True):
        own.copy_(given)
    graph.replay()
    return graph.outputs


def _agree(found: Tensor, expected: Tensor) -> bool:
    """Compare two results: integers by the share of equal ones, floats by the largest change."""
    if found.shape != expected.shape:
        return False
    if not found.is_floating_point():
        return bool((found == expected).float().mean() >= MIN_AGREEMENT)
    largest = _TOLERANCE * float(expected.abs().max())
    return torch.allclose(found, expected, rtol=_TOLERANCE, atol=largest, equal_nan=True)
