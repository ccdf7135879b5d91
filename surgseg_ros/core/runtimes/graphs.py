# SPDX-License-Identifier: Apache-2.0
"""CUDA graphs: work on a GPU that is captured once and replayed, without Python in between."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from surgseg_ros.core.errors import first_line

_LOG: Final = logging.getLogger(__name__)

_ROUNDS_BEFORE: Final = 3
"""Warm-up calls before the capture: libraries choose kernels and allocate workspaces."""

_GRAPHS: Final = 16
"""Maximum number of graphs; each holds its inputs and results, 6 and 2 MB or more at 1080p."""

_SEEN: Final = 64
"""Number of recent calls that are remembered until they are repeated."""

MIN_AGREEMENT: Final = 0.999
"""Share of equal classes in a replay and in the call it was captured from, as for exports."""

_CAPTURING: Final = threading.Lock()
"""CUDA captures one graph at a time in a process: another model may be loading meanwhile."""

Function = Callable[..., Sequence[Tensor]]
"""Maps a sequence of tensors, and options, to tensors."""


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


class Graphs:
    """
    CUDA graphs of a function of tensors, one for each combination of shapes and options.

    The first call with a combination only runs the function. The second also captures it, and
    compares a replay with the results; later calls replay. If a capture fails or a replay differs,
    the function runs as it is from then on, and the log has the reason. So do combinations beyond
    the maximum number of graphs. Not thread-safe.

    :param agree: whether results of a replay agree with those of the call that was captured.
    :param capture: captures a call without options; a parameter for tests.
    """

    def __init__(
        self,
        agree: Callable[[Sequence[Tensor], Sequence[Tensor]], bool],
        capture: 'Callable[[Function, Sequence[Tensor]], Graph] | None' = None,
    ) -> None:
        """Store the arguments; graphs are captured when shapes are known."""
        self._agree = agree
        self._capture = capture or Capture()
        self._graphs: dict[Hashable, Graph] = {}
        self._seen: deque[Hashable] = deque(maxlen=_SEEN)
        self.failure: str | None = None
        """Why nothing is replayed; None if it is."""

    @torch.inference_mode()
    def run(
        self, function: Function, inputs: Sequence[Tensor], *options: Hashable
    ) -> Sequence[Tensor]:
        """
        Call a function, or replay an earlier call.

        :param function: always the same one; it must not wait for the device, and must do the same
            work for inputs of the same shapes.
        :param inputs: on a CUDA device.
        :param options: passed to the function after the inputs.
        :return: its results, which the next call with any inputs may overwrite.
        """
        key = (*(tensor.shape for tensor in inputs), *options)
        if graph := self._graphs.get(key):
            return _replay(graph, inputs)
        results = function(inputs, *options)
        if self.failure is not None or len(self._graphs) == _GRAPHS:
            return results
        if key in self._seen:
            self._capture_call(key, lambda tensors: function(tensors, *options), inputs, results)
        else:
            self._seen.append(key)
        return results

    def _capture_call(
        self,
        key: Hashable,
        call: Function,
        inputs: Sequence[Tensor],
        expected: Sequence[Tensor],
    ) -> None:
        """Capture a call, and keep the graph if a replay agrees with the results."""
        try:
            graph = self._capture(call, inputs)
            if self._agree(_replay(graph, inputs), expected):
                self._graphs[key] = graph
                return
            self.failure = 'a replay gave other results'
        except RuntimeError as error:
            self.failure = first_line(error)
        self._graphs.clear()
        _LOG.warning('without CUDA graphs, and so slower: %s', self.failure)


class Capture:
    """
    Captures calls as CUDA graphs.

    The graphs share the memory of what is computed in between, as only one is replayed at a time.
    """

    def __init__(self) -> None:
        self._stream: Any = None  # graphs share memory only if they are captured on one stream
        self._pool: Any = None  # torch has no public name for the type

    @torch.inference_mode()
    def __call__(self, function: Function, inputs: Sequence[Tensor]) -> Graph:
        """
        Capture a call; the graphs of earlier calls must still exist.

        :param function: maps tensors to tensors.
        :param inputs: at least one, on a CUDA device; they are copied.
        :return: the graph.
        :raises RuntimeError: if the device or the function does not support capture.
        """
        device = inputs[0].device
        current = torch.cuda.current_stream(device)
        own = [tensor.clone() for tensor in inputs]
        # Where a capture fails, torch leaves its stream the current one; the outer block does not.
        with _CAPTURING, torch.cuda.stream(current):
            # Torch hands out the same 32 streams of a priority in turn. What another model copies
            # meanwhile must not be in a stream that captures, so this one has another priority.
            self._stream = self._stream or torch.cuda.Stream(device, -1)  # type: ignore[no-untyped-call]
            self._stream.wait_stream(current)
            with torch.cuda.stream(self._stream):
                for _ in range(_ROUNDS_BEFORE):
                    function(own)
            current.wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            # Other threads may use CUDA meanwhile; only errors of this thread abort the capture.
            with torch.cuda.graph(
                graph, self._pool, self._stream, capture_error_mode='thread_local'
            ):
                outputs = function(own)
        self._pool = graph.pool()
        return Graph(graph.replay, own, outputs)


def _replay(graph: Graph, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
    for own, given in zip(graph.inputs, inputs, strict=True):
        own.copy_(given)
    graph.replay()
    return graph.outputs
