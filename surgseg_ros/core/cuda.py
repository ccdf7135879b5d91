# SPDX-License-Identifier: Apache-2.0
"""
CUDA graphs, and streams by which a GPU copies one batch of images while it computes another.

A graph is work that is captured once and replayed, without Python in between. Batches in flight:

    image ─> pinned ── upload ──> device ── compute ──> device ── download ──> pinned ─> mask

Each arrow with a name is a CUDA stream; streams wait for each other at events. A batch has buffers
of its own at all four points. They are used again for a later batch only when the last copy out
of them is complete.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, NamedTuple, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor

from surgseg_ros.core.errors import first_line
from surgseg_ros.core.preprocessing import Buffers, RgbArray, StagedTransfer, as_tensor
from surgseg_ros.core.timing import stopwatch

_LOG: Final = logging.getLogger(__name__)

_ROUNDS_BEFORE: Final = 3
"""Warm-up calls before the capture: libraries choose kernels and allocate workspaces."""

_GRAPHS: Final = 16
"""Maximum number of graphs; each holds its inputs and results, 6 and 2 MB or more at 1080p."""

_SEEN: Final = 64
"""Number of recent calls that are remembered until they are repeated."""

MIN_SAME_SHARE: Final = 0.999
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
        _LOG.warning('CUDA graphs are disabled, which is slower: %s', self.failure)


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


MAX_IN_FLIGHT: Final = 2
"""While one batch is computed, the results of the previous one, or the next one, are copied."""


class Event(Protocol):
    """A point in the work of a stream; torch.cuda.Event is one."""

    def synchronize(self) -> None:
        """Wait until the device has reached it."""


class Stream(Protocol):
    """Work that the device does in order, independently of other streams."""

    def working(self) -> AbstractContextManager[Any]:
        """Return a context manager in which torch gives its work to this stream."""

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Copy between host and device, or on the device."""

    def record(self) -> Event:
        """Record the end of the work that was submitted to this stream."""

    def wait_for(self, event: Event) -> None:
        """Begin later work of this stream only after an event of another stream."""


class Streams(NamedTuple):
    """The streams of a device."""

    upload: Stream
    compute: Stream
    download: Stream


class CudaStream:
    """
    A stream of a CUDA device.

    :param stream: the stream, as torch knows it.
    """

    def __init__(self, stream: 'torch.cuda.Stream') -> None:
        self._stream = stream

    def working(self) -> AbstractContextManager[Any]:
        """Make this stream torch's current one in a block."""
        return torch.cuda.stream(self._stream)

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Copy without waiting for the host."""
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)

    def record(self) -> Event:
        """Record a CUDA event."""
        event: Event = self._stream.record_event()
        return event

    def wait_for(self, event: Any) -> None:
        """Let the stream wait for a CUDA event; the host continues."""
        self._stream.wait_event(event)


def cuda_streams(device: torch.device, compute: 'torch.cuda.Stream') -> Streams:
    """
    Create the streams of a CUDA device.

    :param device: the device.
    :param compute: the stream in which it computes; everything else that uses the same memory of
        the device, such as a CUDA graph, must be in this stream, too.
    :return: the streams; those of upload and download are new.
    """
    others = (torch.cuda.Stream(device) for _ in range(2))  # type: ignore[no-untyped-call]
    upload, download = map(CudaStream, others)
    return Streams(upload, CudaStream(compute), download)


class Completed(NamedTuple):
    """
    The results of a batch.

    :param arrays: the arrays that the function computed.
    :param times_ms: milliseconds by stage; `fit` includes the wait for the batch before.
    """

    arrays: list[NDArray[Any]]
    times_ms: dict[str, float]


class BatchesInFlight:
    """
    Batches on their way to a device, through it and back; not thread-safe.

    :param device: the device.
    :param streams: the streams of the device.
    :param transfer: has the memory on the host.
    """

    def __init__(self, device: torch.device, streams: Streams, transfer: StagedTransfer) -> None:
        """Store the arguments; memory is allocated when sizes are known."""
        self._device, self._streams, self._transfer = device, streams, transfer
        self._memory = Buffers(lambda size: torch.empty(size, dtype=torch.uint8, device=device))
        self._ends: list[Event | None] = [None] * MAX_IN_FLIGHT
        self._count = 0

    def start(
        self, function: Function, images: Sequence[RgbArray], *options: Any
    ) -> Callable[[], Completed]:
        """
        Start to process a batch.

        :param function: maps (1, H, W, 3) uint8 images on the device, and options, to tensors
            there; it must not wait for the device.
        :param images: (H, W, 3) uint8 each; they are not modified, and not read after the call.
        :param options: passed to the function after the images.
        :return: a function that waits for the results, to be called before MAX_IN_FLIGHT further
            batches are started; it raises RuntimeError if it is too late, or the device fails.
        """
        number, slot = self._count, self._count % MAX_IN_FLIGHT
        self._count += 1
        if end := self._ends[slot]:  # results that were not taken may still be copied
            end.synchronize()
        upload, compute, download = self._streams
        with upload.working():
            watch = stopwatch(self._device)
            uploaded = self._upload(images, slot)
        compute.wait_for(upload.record())
        with compute.working():
            watch.lap('fit')
            kept = self._kept(function(uploaded, *options), slot)
            for stage in ('network', 'upsample'):
                watch.lap(stage)
        download.wait_for(compute.record())
        with download.working():
            received = [self._received(plane, slot, index) for index, plane in enumerate(kept)]
            watch.lap('download')
        self._ends[slot] = end = download.record()

        def complete() -> Completed:
            if self._count > number + MAX_IN_FLIGHT:
                raise RuntimeError('the results of a batch in flight were overwritten')
            end.synchronize()
            return Completed([plane.numpy().copy() for plane in received], watch.times_ms())

        return complete

    def _upload(self, images: Sequence[RgbArray], slot: int) -> list[Tensor]:
        uploaded = []
        for index, image in enumerate(images):
            key = f'up {slot}', index
            staged = self._transfer.buffers.view(key, image.shape, torch.uint8)
            staged.copy_(as_tensor(image))
            # Allocated for this stream alone: memory that another stream has freed may be in use.
            target = self._memory.view(key, image.shape, torch.uint8)
            self._streams.upload.copy(target, staged)
            uploaded.append(target[None])
        return uploaded

    def _kept(self, planes: Sequence[Tensor], slot: int) -> list[Tensor]:
        """Copy the results, which the next batch may overwrite."""
        kept = []
        for index, plane in enumerate(planes):
            target = self._memory.view((f'down {slot}', index), plane.shape, plane.dtype)
            self._streams.compute.copy(target, plane)
            kept.append(target)
        return kept

    def _received(self, plane: Tensor, slot: int, index: int) -> Tensor:
        target = self._transfer.buffers.view((f'down {slot}', index), plane.shape, plane.dtype)
        self._streams.download.copy(target, plane)
        return target
