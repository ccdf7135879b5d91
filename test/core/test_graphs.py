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

from surgseg_ros.core.cuda import Capture, Graph, Graphs
from surgseg_ros.core.image_batch import agree
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


def equal(found: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    return all(map(torch.equal, found, expected))


def test_the_second_call_is_captured_and_later_ones_are_replayed() -> None:
    capture = FakeCapture()
    graphs = Graphs(equal, capture)
    for seed in range(5):
        (result,) = graphs.run(doubled, [numbers(7, seed)])
        assert torch.equal(result, 2 * numbers(7, seed))
        assert len(capture.captured) == (seed > 0)
        assert len(capture.replayed) == seed  # the first time to compare it
    assert graphs.failure is None


def test_each_combination_of_shapes_and_options_has_its_own_graph() -> None:
    capture = FakeCapture()
    graphs = Graphs(equal, capture)
    for _ in range(3):
        for inputs in ([numbers(3)], [numbers(4)], [numbers(3), numbers(4)]):
            for option in (True, False):
                assert equal(graphs.run(doubled, inputs, option), doubled(inputs))
    assert len(capture.captured) == 6


def test_combinations_beyond_the_maximum_run_without_graphs() -> None:
    """So do those of which too many others have been seen in between."""
    capture = FakeCapture()
    graphs = Graphs(equal, capture)
    for _ in range(2):
        for count in range(1, 101):
            assert equal(graphs.run(doubled, [numbers(count)]), doubled([numbers(count)]))
    assert not capture.captured
    for count in range(1, 31):
        for seed in range(3):
            inputs = [numbers(count, seed)]
            assert equal(graphs.run(doubled, inputs), doubled(inputs))
    assert len(capture.captured) == 16


@pytest.mark.parametrize(
    'spoil', [lambda output: output + 1, lambda output: output * 0], ids=['other', 'empty']
)
def test_a_replay_with_other_results_is_not_used(
    spoil: Callable[[Tensor], Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    graphs = Graphs(equal, FakeCapture(spoil))
    for seed in range(4):
        (result,) = graphs.run(doubled, [numbers(7, seed)])
        assert torch.equal(result, 2 * numbers(7, seed))
    assert graphs.failure == 'a replay gave other results'
    assert caplog.messages == [
        'CUDA graphs are disabled, which is slower: a replay gave other results'
    ]


def test_masks_must_be_equal_and_confidences_almost() -> None:
    mask, confidence = torch.arange(2000) % 10, torch.arange(2000) % 200
    results = [torch.tensor([-3.0]), mask.byte(), confidence.byte()]

    def with_change(index: int, change: int, count: int) -> list[Tensor]:
        changed = [result.clone() for result in results]
        changed[index][:count] += change
        return changed

    assert agree(with_change(0, 9, 1), results)
    assert not agree([torch.tensor([torch.nan]), *results[1:]], results)
    assert agree(with_change(1, 1, 2), results)
    assert not agree(with_change(1, 1, 3), results)
    assert agree(with_change(2, 2, 2000), results)
    assert not agree(with_change(2, 3, 3), results)


@pytest.mark.skipif(torch.cuda.is_available(), reason='a CUDA device is here')
def test_without_a_capture_the_function_runs_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    graphs = Graphs(equal, Capture())
    for seed in range(4):
        (result,) = graphs.run(doubled, [numbers(7, seed)])
        assert torch.equal(result, 2 * numbers(7, seed))
    assert graphs.failure
    (message,) = caplog.messages
    assert message == f'CUDA graphs are disabled, which is slower: {graphs.failure}'


def test_a_segmenter_replays_from_image_to_mask(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every size, number of images and set of results gives what it gives without graphs."""
    capture = FakeCapture()
    plain, graphed = (Segmenter.load(tiny_model, 'cpu', 'torch') for _ in range(2))
    monkeypatch.setattr(graphed, '_graphs', Graphs(agree, capture))
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
    graphed.warm_up((48, 80))
    graphed.warm_up((48, 80))
    assert graphed.described()['runtime'] == 'torch float32 on CPU, as a CUDA graph'
    assert list(found[0].stage_ms) == ['fit', 'network', 'upsample', 'download']
