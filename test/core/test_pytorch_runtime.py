# SPDX-License-Identifier: Apache-2.0
"""Precision, and the network on a GPU."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from surgseg_ros.core.model_folder import ModelError, ModelSpec, read_spec, read_weights
from surgseg_ros.core.runtimes import RuntimeOptions, TorchRuntime, load_runtime, pytorch
from surgseg_ros.core.runtimes.base import has_instructions, read_export

FITTED = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8))


@torch.inference_mode()
def logits(runtime: TorchRuntime) -> Tensor:
    return runtime(FITTED).float()


@pytest.mark.skipif(not has_instructions('bf16'), reason='the CPU would emulate bfloat16')
def test_half_precision_is_close_to_float32(tiny_model: Path) -> None:
    spec = read_spec(tiny_model)
    exact = TorchRuntime.load(tiny_model, spec, RuntimeOptions('cpu'))
    half = TorchRuntime.load(tiny_model, spec, RuntimeOptions('cpu', 'bf16'))
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
    quickest = RuntimeOptions(quickest=True)
    assert pytorch._choose_precision(quickest, 'cuda:0') == chosen
    assert pytorch._choose_precision(quickest, 'cpu') == 'f32'
    assert (
        pytorch._choose_precision(RuntimeOptions('cuda', 'f32', quickest=True), 'cuda:0') == 'f32'
    )


@pytest.mark.parametrize('device', ['cpu', 'cuda:0'])
def test_auto_is_float32_on_each_device_unless_the_quickest_is_requested(device: str) -> None:
    assert pytorch._choose_precision(RuntimeOptions(), device) == 'f32'
    assert pytorch._choose_precision(RuntimeOptions(precision='bf16'), device) == 'bf16'


def test_rejects_a_precision_that_torch_lacks(tiny_model: Path, tiny_spec: ModelSpec) -> None:
    with pytest.raises(
        ValueError, match=r"precision is 'int8', but the runtime torch supports f32"
    ):
        load_runtime(tiny_model, tiny_spec, 'torch', RuntimeOptions('cpu', 'int8'))


def test_rejects_an_export_of_another_precision(tmp_path: Path) -> None:
    export = {'precision': 'bf16', 'files': {'model.onnx': 'b' * 64}, 'agreement': {}}
    spec = ModelSpec(name='any', exports={'onnx': export})
    with pytest.raises(ModelError, match="precision is 'f32', but the export for onnx is bf16"):
        read_export(tmp_path, spec, 'onnx', 'f32')


def test_a_runtime_on_a_gpu_fuses_batch_norm_and_replays_a_graph(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CPU is treated as a CUDA device, on which no graph can be captured."""
    expected = logits(TorchRuntime.load(tiny_model, read_spec(tiny_model), RuntimeOptions('cpu')))
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda device: 'fake GPU')
    monkeypatch.setattr(torch.nn.Module, 'to', lambda module, *how, **more: module)
    spec = read_spec(tiny_model)
    runtime = TorchRuntime(spec, read_weights(tiny_model, spec), 'cuda', 'f32', 2)
    assert runtime.description == 'torch float32 on fake GPU'
    assert runtime.max_batch_size == 2
    for _ in range(3):
        torch.testing.assert_close(logits(runtime), expected)
