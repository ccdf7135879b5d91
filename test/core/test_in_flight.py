# SPDX-License-Identifier: Apache-2.0
"""
Batches in flight, on a simulated device whose streams work in any order that their events allow.

A copy that waits for too little reads or overwrites what is not ready, and a result is wrong.
"""

import contextlib
import gc
import logging
import random
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from surgseg_ros.core.cuda import MAX_IN_FLIGHT, BatchesInFlight, Completed, Streams
from surgseg_ros.core.preprocessing import StagedTransfer
from surgseg_ros.core.segmentation import Roi
from surgseg_ros.core.segmenter import Segmenter

CPU = torch.device('cpu')


class Device:
    """A device whose streams work at random, and when an event is waited for; or at once."""

    def __init__(self, seed: int = 0, waits: bool = True, at_once: bool = False) -> None:
        self.random, self.waits, self.at_once = random.Random(seed), waits, at_once
        self.streams = Streams(*(SimulatedStream(self) for _ in range(3)))

    def step(self) -> None:
        able = [stream for stream in self.streams if stream.work and stream.work[0][0]()]  # type: ignore[attr-defined]
        self.random.choice(able).work.popleft()[1]()

    def step_at_random(self) -> None:
        while self.random.random() < 0.3 and any(stream.work for stream in self.streams):  # type: ignore[attr-defined]
            self.step()


class SimulatedEvent:
    def __init__(self, device: Device) -> None:
        self.device, self.happened = device, False

    def happen(self) -> None:
        self.happened = True

    def synchronize(self) -> None:
        while not self.happened and self.device.waits:
            self.device.step()


class SimulatedStream:
    def __init__(self, device: Device) -> None:
        self.device = device
        self.work: deque[tuple[Callable[[], bool], Callable[[], object]]] = deque()

    def working(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext()

    def do(self, act: Callable[[], object], ready: Callable[[], bool] = lambda: True) -> None:
        self.work.append((ready, act))
        if self.device.at_once:
            self.device.step()
        else:
            self.device.step_at_random()

    def copy(self, target: Tensor, source: Tensor) -> None:
        self.do(lambda: target.copy_(source))

    def record(self) -> SimulatedEvent:
        event = SimulatedEvent(self.device)
        self.do(event.happen)
        return event

    def wait_for(self, event: Any) -> None:
        self.do(lambda: None, lambda: event.happened)


def in_flight_on(device: Device) -> BatchesInFlight:
    return BatchesInFlight(CPU, device.streams, StagedTransfer(CPU, None, pinned=False))


def times_on(device: Device) -> Callable[..., Sequence[Tensor]]:
    """Multiply images on the device; as for a CUDA graph, results are in the same memory."""
    outputs = [torch.zeros((6, 5, 3), dtype=torch.uint8) for _ in range(2)]

    def times(images: Sequence[Tensor], factor: int) -> Sequence[Tensor]:
        def act() -> None:
            for output, image in zip(outputs, images):
                output.copy_(factor * image[0])

        device.streams.compute.do(act)  # type: ignore[attr-defined]
        return outputs[: len(images)]

    return times


def run(device: Device, seed: int, keep: bool = True) -> bool:
    """
    Return whether all results are right, with as many batches in flight as there may be.

    Some results are not taken. Without `keep`, they stay where the next batch overwrites them.
    """
    rng, right = np.random.default_rng(seed), True
    in_flight, times = in_flight_on(device), times_on(device)
    if not keep:
        in_flight._kept = lambda planes, slot: list(planes)  # type: ignore[method-assign]
    begun: deque[tuple[Callable[[], Completed], list[np.ndarray]]] = deque()
    for factor in range(1, 13):
        images = [rng.integers(0, 20, (6, 5, 3), np.uint8) for _ in range(rng.integers(1, 3))]
        complete, expected = (
            in_flight.start(times, images, factor),
            [factor * image for image in images],
        )
        for image in images:
            image[:] = 0  # it is not read any more
        begun.append((complete, expected))
        if len(begun) == MAX_IN_FLIGHT:
            complete, expected = begun.popleft()
            if rng.random() < 0.7:
                arrays = complete().arrays
                right &= all(np.array_equal(*pair) for pair in zip(arrays, expected, strict=True))
    return right


def test_every_result_is_that_of_its_own_images() -> None:
    assert all(run(Device(seed), seed) for seed in range(200))


@pytest.mark.parametrize('stream', ['compute', 'download'])
def test_the_simulation_notices_a_stream_that_does_not_wait(stream: str) -> None:
    def one(seed: int) -> bool:
        device = Device(seed)
        getattr(device.streams, stream).wait_for = lambda event: None
        return run(device, seed)

    assert not all(one(seed) for seed in range(50))


def test_the_simulation_notices_what_is_not_waited_for_or_not_kept() -> None:
    assert not all(run(Device(seed, waits=False), seed) for seed in range(50))
    assert not all(run(Device(seed), seed, keep=False) for seed in range(50))


def test_a_result_that_was_overwritten_is_an_error() -> None:
    device, images = Device(), [np.ones((6, 5, 3), np.uint8)]
    in_flight, times = in_flight_on(device), times_on(device)
    first, second, _ = (in_flight.start(times, images, factor) for factor in range(3))
    with pytest.raises(RuntimeError, match='in flight were overwritten'):
        first()
    assert np.array_equal(second().arrays[0], images[0])


Images = list[np.ndarray]


def with_batches_in_flight(folder: Path, device: Device, spoil: Any = None) -> Segmenter:
    """Load a model onto the CPU, with batches in flight if they pass their test."""
    segmenter = Segmenter.load(folder, 'cpu', 'torch')
    in_flight = in_flight_on(device)
    if spoil is not None:
        start = in_flight.start
        in_flight.start = lambda function, *rest: start(spoiled, *rest)  # type: ignore[method-assign]
        spoiled = spoil(segmenter._replay)
    segmenter._test_in_flight(in_flight, (48, 80))
    return segmenter


def test_a_drawing_without_a_result_does_not_refuse_the_model(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overflow(*_: Any, **__: Any) -> Any:
        raise ArithmeticError('infinite logits')

    monkeypatch.setattr(Segmenter, 'segment', overflow)
    assert with_batches_in_flight(tiny_model, Device(at_once=True)).max_in_flight == 1


def test_a_segmenter_with_flights_is_freed_at_once(tiny_model: Path) -> None:
    """Without the garbage collector: a replaced model must not stay on the GPU."""
    segmenter = with_batches_in_flight(tiny_model, Device(at_once=True))
    segmenter.begin(drawn(1))()
    gc.disable()
    try:
        freed = weakref.ref(segmenter)
        del segmenter
        assert freed() is None
    finally:
        gc.enable()


def drawn(count: int, seed: int = 0) -> Images:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (40 + 8 * n, 70, 3), np.uint8) for n in range(count)]


@pytest.mark.parametrize('wanted', [{}, {'confidence': True}, {'grid_confidence': True}])
def test_results_in_flight_are_those_of_segment_all(
    tiny_model: Path, wanted: dict[str, bool]
) -> None:
    plain, segmenter = (
        Segmenter.load(tiny_model, 'cpu', 'torch'),
        with_batches_in_flight(tiny_model, Device(at_once=True)),
    )
    assert (plain.max_in_flight, segmenter.max_in_flight) == (1, MAX_IN_FLIGHT)
    rois = [None, Roi(3, 4, 41, 30)]
    sent = [drawn(2, seed) for seed in range(3)]
    first = segmenter.begin(sent[0], rois, **wanted)
    second = segmenter.begin(sent[1], rois, **wanted)
    found = [first(), second(), segmenter.begin(sent[2], rois, **wanted)()]
    for images, results in zip(sent, found):
        assert list(results[0].stage_ms) == ['fit', 'network', 'upsample', 'download']
        for one, other in zip(results, plain.segment_all(images, rois, **wanted), strict=True):
            assert np.array_equal(one.mask, other.mask)
            assert (one.confidence is None) == (other.confidence is None)
            if one.confidence is not None:
                assert np.array_equal(one.confidence, other.confidence)
            if other.grid_confidence is not None:
                assert one.grid_confidence is not None
                assert np.array_equal(one.grid_confidence.grid, other.grid_confidence.grid)


def delayed(compute: Callable[..., Sequence[Tensor]]) -> Callable[..., Sequence[Tensor]]:
    """Return the results of the batch before, as if something had not been waited for."""
    earlier: list[Sequence[Tensor]] = []

    def late(*arguments: Any) -> Sequence[Tensor]:
        earlier.append(compute(*arguments))
        return earlier[max(0, len(earlier) - 2)]

    return late


def failing(compute: object) -> Callable[..., Sequence[Tensor]]:
    def fail(*_: object) -> Sequence[Tensor]:
        raise torch.OutOfMemoryError('no memory is left')

    return fail


@pytest.mark.parametrize(
    ('spoil', 'reason'),
    [
        (delayed, 'images in flight had other results'),
        (failing, 'OutOfMemoryError: no memory is left'),
    ],
)
def test_without_the_same_results_nothing_is_in_flight(
    tiny_model: Path, spoil: Any, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)  # libraries that other tests import raise the root logger's
    segmenter = with_batches_in_flight(tiny_model, Device(at_once=True), spoil)
    assert segmenter.max_in_flight == 1
    assert caplog.messages == [f'images are processed one at a time, which is slower: {reason}']


@pytest.mark.parametrize('late', [True, False])
def test_after_a_failure_in_flight_the_images_are_processed_as_before(
    tiny_model: Path, late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = with_batches_in_flight(tiny_model, Device(at_once=True))
    images = drawn(1)
    (expected,) = segmenter.segment_all(images)
    in_flight = segmenter._in_flight
    assert in_flight is not None

    def fail(*_: object) -> Any:
        raise torch.AcceleratorError('the device is gone')

    monkeypatch.setattr(in_flight, 'start', (lambda *_: fail) if late else fail)
    (result,) = segmenter.begin(images)()
    assert np.array_equal(result.mask, expected.mask)
    assert segmenter.max_in_flight == 1


def test_an_error_of_the_image_is_raised_and_others_are_still_in_flight(
    tiny_model: Path,
) -> None:
    segmenter = with_batches_in_flight(tiny_model, Device(at_once=True))
    with pytest.raises(ValueError, match='reaches beyond the image'):
        segmenter.begin(drawn(1), [Roi(0, 0, 99, 99)])()
    assert segmenter.max_in_flight == MAX_IN_FLIGHT


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device here')
def test_a_gpu_has_batches_in_flight(tiny_model: Path) -> None:
    segmenter = Segmenter.load(tiny_model, 'cuda', 'torch', max_batch_size=2)
    segmenter.warm_up((270, 480))
    assert segmenter.max_in_flight == MAX_IN_FLIGHT
    sent = [drawn(2, seed) for seed in range(9)]
    begun: deque[Callable[[], Any]] = deque()
    found = []
    for images in sent:
        begun.append(segmenter.begin(images, confidence=True))
        if len(begun) == MAX_IN_FLIGHT:
            found.append(begun.popleft()())
    for images, results in zip(sent, found):
        for one, other in zip(results, segmenter.segment_all(images, confidence=True)):
            assert np.mean(one.mask == other.mask) >= 0.999
