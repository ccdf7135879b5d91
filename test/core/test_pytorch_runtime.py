# SPDX-License-Identifier: Apache-2.0
"""Precision, and the fallback if no CUDA graph can be captured."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from surgseg_ros.core.model_folder import ModelError, ModelSpec, read_spec, read_weights
from surgseg_ros.core.runtimes import Options, TorchRuntime, load_runtime, pytorch
from surgseg_ros.core.runtimes.exported import read_export

FITTED = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8))


@torch.inference_mode()
def logits(runtime: TorchRuntime) -> Tensor:
    return runtime(FITTED).float()


def test_half_precision_is_close_to_float32(tiny_model: Path) -> None:
    spec = read_spec(tiny_model)
    exact = TorchRuntime.load(tiny_model, spec, Options('cpu'))
    half = TorchRuntime.load(tiny_model, spec, Options('cpu', 'bf16'))
    assert exact.description == 'torch float32 on CPU'
    assert half.description == 'torch bfloat16 on CPU'
    assert exact.network.mean.dtype == half.network.mean.dtype == torch.float32
    difference = (logits(exact) - logits(half)).abs().max()
    assert 0 < difference < 0.1 * logits(exact).abs().max()


@pytest.mark.parametrize(('capability', 'chosen'), [((9, 0), 'bf16'), ((7, 5), 'f16')])
def test_auto_selects_a_precision_that_the_gpu_supports_natively(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], chosen: str
) -> None:
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: capability)
    assert pytorch._choose_precision('auto', 'cuda:0') == chosen
    assert pytorch._choose_precision('auto', 'cpu') == 'f32'
    assert pytorch._choose_precision('f32', 'cuda:0') == 'f32'


def test_rejects_a_precision_that_torch_lacks(tiny_model: Path, tiny_spec: ModelSpec) -> None:
    with pytest.raises(
        ValueError, match=r"precision is 'int8', but the runtime torch supports f32"
    ):
        load_runtime(tiny_model, tiny_spec, 'torch', Options('cpu', 'int8'))


def test_rejects_an_export_of_another_precision(tmp_path: Path) -> None:
    export = {'precision': 'bf16', 'files': {'model.onnx': 'b' * 64}, 'agreement': {}}
    spec = ModelSpec(name='any', exports={'onnx': export})
    with pytest.raises(ModelError, match="precision is 'f32', but the export for onnx is bf16"):
        read_export(tmp_path, spec, 'onnx', 'f32')


def on_fake_cuda(monkeypatch: pytest.MonkeyPatch, model: Path, images: int) -> TorchRuntime:
    """Make a runtime that treats the CPU as a CUDA device."""
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda device: 'fake GPU')
    monkeypatch.setattr(torch.nn.Module, 'to', lambda module, *how, **more: module)
    spec = read_spec(model)
    return TorchRuntime(spec, read_weights(model, spec), 'cuda', 'f32', images)


def test_without_a_graph_the_runtime_reports_it_and_runs(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = logits(TorchRuntime.load(tiny_model, read_spec(tiny_model), Options('cpu')))

    def refuse(*arguments: object) -> None:
        raise RuntimeError('no capture today\nand a long explanation')

    monkeypatch.setattr(pytorch, 'GraphedNetwork', refuse)
    runtime = on_fake_cuda(monkeypatch, tiny_model, 2)
    assert runtime.description == (
        'torch float32 on fake GPU, without a CUDA graph (no capture today)'
    )
    assert runtime.max_batch_size == 2
    torch.testing.assert_close(logits(runtime), expected)  # with batch norm fused


def test_a_graph_is_captured_for_each_batch_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a fake graph: replaying repeats the captured work on the same memory."""
    replayed: list[int] = []

    class FakeGraph:
        def __init__(self, count: int, act: object) -> None:
            self.count, self.act = count, act

        def replay(self) -> None:
            replayed.append(self.count)
            self.act()  # type: ignore[operator]

    def record(network: object, inputs: Tensor) -> tuple[FakeGraph, Tensor]:
        result = torch.empty(len(inputs), dtype=torch.int64)

        def act() -> None:
            result.copy_(inputs.sum((1, 2, 3)))

        return FakeGraph(len(inputs), act), result

    monkeypatch.setattr(pytorch, '_record', record)
    network = pytorch.GraphedNetwork(lambda x: x, (64, 96), torch.device('cpu'), 3)
    for fitted in (FITTED, FITTED[1:], torch.cat([FITTED, FITTED[:1]])):
        assert torch.equal(network(fitted), fitted.sum((1, 2, 3)))
    assert replayed == [2, 1, 3]


@pytest.mark.skipif(torch.cuda.is_available(), reason='a CUDA device is here')
def test_capturing_without_cuda_raises_an_error_that_is_caught() -> None:
    """`TorchRuntime` catches the error that torch raises."""
    with pytest.raises((RuntimeError, AssertionError)) as raised:
        pytorch._record(lambda x: x, FITTED)
    assert isinstance(raised.value, RuntimeError), type(raised.value)
