# SPDX-License-Identifier: Apache-2.0
"""
Graphs, with a fake capture on the CPU: a replay repeats the captured work on the same memory.

What only a GPU does is in `test_segmenter.py` and `node/test_gpu.py`.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from surgseg_ros.core.runtimes.graphs import Capture, Graph, GraphedFunction
from surgseg_ros.core.segmenter import Segmenter

Function = Callable[[Sequence[Tensor]], Sequence[Tensor]]


class FakeCapture:
    """Captures without CUDA; `captured` and `replayed` have the shapes of the inputs."""

    def __init__(self, spoil: Callable[[Tensor], Tensor] = lambda output: output) -> None:
        self.spoil = spoil
        self.captured: list[list[tuple[int, ...]]] = []
        self.replayed: list[list[tuple[int, ...]]] = []

    def __call__(self, function: Function, inputs: Sequence[Tensor]) -> Graph:
        own = [tensor.clone() for tensor in inputs]
        outputs = [torch.zeros_like(output) for output in function(own)]
        shapes = [tuple(tensor.shape) for tensor in inputs]
        self.captured.append(shapes)

        def replay() -> None:
            self.replayed.append(shapes)
            for output, result in zip(outputs, function(own), strict=True):
                output.copy_(self.spoil(result))

        return Graph(replay, own, outputs)


def doubled(inputs: Sequence[Tensor], *options: object) -> list[Tensor]:
    return [2 * tensor for tensor in inputs]


def numbers(count: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 100, count))


def test_the_second_call_is_captured_and_later_ones_are_replayed() -> None:
    capture = FakeCapture()
    graphed = GraphedFunction(doubled, capture)
    for seed in range(5):
        (result,) = graphed([numbers(7, seed)])
        assert torch.equal(result, 2 * numbers(7, seed))
        assert len(capture.captured) == (seed > 0)
        assert len(capture.replayed) == seed  # the first time to compare it
    assert graphed.failure is None


def test_each_combination_of_shapes_and_options_has_its_own_graph() -> None:
    capture = FakeCapture()
    graphed = GraphedFunction(doubled, capture)
    for _ in range(3):
        for inputs in ([numbers(3)], [numbers(4)], [numbers(3), numbers(4)]):
            for option in (True, False):
                expected = doubled(inputs)
                assert all(map(torch.equal, graphed(inputs, option), expected))
    assert len(capture.captured) == 6


def test_the_graphs_used_last_are_kept() -> None:
    capture = FakeCapture()
    graphed = GraphedFunction(doubled, capture)
    for count in range(1, 31):
        for _ in range(2):
            graphed([numbers(count)])
    assert len(capture.captured) == 30
    graphed([numbers(30)])
    assert len(capture.captured) == 30
    for _ in range(2):
        graphed([numbers(1)])
    assert len(capture.captured) == 31


@pytest.mark.parametrize(
    'spoil', [lambda output: output + 1, lambda output: output * 0], ids=['other', 'empty']
)
def test_a_replay_with_other_results_is_not_used(
    spoil: Callable[[Tensor], Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    graphed = GraphedFunction(doubled, FakeCapture(spoil))
    for seed in range(4):
        (result,) = graphed([numbers(7, seed)])
        assert torch.equal(result, 2 * numbers(7, seed))
    assert graphed.failure == 'a replay gave other results'
    assert caplog.messages == ['without CUDA graphs, and so slower: a replay gave other results']


def test_results_that_differ_only_by_rounding_are_used() -> None:
    graphed = GraphedFunction(doubled, FakeCapture(lambda output: output * 1.001))
    for _ in range(3):
        (result,) = graphed([torch.linspace(-1, 1, 9)])
    assert graphed.failure is None
    torch.testing.assert_close(result, 2.002 * torch.linspace(-1, 1, 9))


@pytest.mark.skipif(torch.cuda.is_available(), reason='a CUDA device is here')
def test_without_a_capture_the_function_runs_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    graphed = GraphedFunction(doubled, Capture())
    for seed in range(4):
        assert torch.equal(graphed([numbers(7, seed)])[0], 2 * numbers(7, seed))
    assert graphed.failure
    (message,) = caplog.messages
    assert message == f'without CUDA graphs, and so slower: {graphed.failure}'


def test_a_segmenter_replays_from_image_to_mask(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every size, number of images and set of results gives what it gives without graphs."""
    capture = FakeCapture()
    plain, graphed = (Segmenter.load(tiny_model, 'cpu', 'torch') for _ in range(2))
    monkeypatch.setattr(graphed, '_graphed', GraphedFunction(graphed._compute, capture))
    rng = np.random.default_rng(0)
    sizes = ((48, 80), (90, 160))
    for _ in range(4):
        images = [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
        for batch in ([images[0]], [images[1]], images):
            for wanted in ({}, {'confidence': True}, {'grid_confidence': True}):
                found = graphed.segment_all(batch, **wanted)
                for result, expected in zip(found, plain.segment_all(batch, **wanted)):
                    assert np.array_equal(result.mask, expected.mask)
                    for name in wanted:
                        values = getattr(result, name), getattr(expected, name)
                        grids = [getattr(value, 'grid', value) for value in values]
                        assert np.array_equal(*grids)
    assert len(capture.captured) == 9
    assert list(found[0].stage_ms) == ['fit', 'network', 'upsample', 'download']
