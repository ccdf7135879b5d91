# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime with TensorRT and CUDA, by a fake library; and what `auto` does where they fail."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from surgseg_ros.core import runtimes
from surgseg_ros.core import segmenter as module
from surgseg_ros.core.labels import CLASS_COUNT
from surgseg_ros.core.model_folder import ModelSpec, read_spec
from surgseg_ros.core.runtimes import AUTO, RuntimeOptions, TorchRuntime, exported, load_runtime
from surgseg_ros.core.runtimes.base import LibraryError
from surgseg_ros.core.runtimes.exported import OnnxRuntime
from surgseg_ros.core.segmenter import Segmenter
from surgseg_ros.core.self_test import add_self_test

TENSORRT, CUDA, HOST = (f'{name}ExecutionProvider' for name in ('Tensorrt', 'CUDA', 'CPU'))
GPU = torch.device('cuda', 0)


class FakeLibrary:
    """
    onnxruntime with some execution providers, the first of which is used.

    :param available: those that it lists.
    :param failing: those that it does without, as if libraries were missing.
    """

    def __init__(self, available: Sequence[str], failing: Sequence[str] = ()) -> None:
        self.available, self.failing = available, failing
        self.requested: list[Any] = []

    SessionOptions = SimpleNamespace

    def get_available_providers(self) -> Sequence[str]:
        return self.available

    def InferenceSession(self, graph: bytes, options: Any, providers: list[Any]) -> Any:  # noqa: N802
        self.requested = providers
        names = [given if isinstance(given, str) else given[0] for given in providers]
        if 'engine' in self.failing:
            raise type('Fail', (Exception,), {})('the engine cannot be built')
        used = [name for name in names if name not in self.failing]
        size = 64, 96
        return SimpleNamespace(
            get_providers=lambda: used,
            get_inputs=lambda: [SimpleNamespace(name='image', shape=[1, *size, 3])],
            get_outputs=lambda: [SimpleNamespace(name='logits', shape=[1, CLASS_COUNT, *size])],
        )


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., FakeLibrary]:
    """Return a function that fakes a machine with a GPU, an export and onnxruntime."""

    def use(library: FakeLibrary, precision: str = 'f32') -> FakeLibrary:
        empty = torch.empty
        monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
        for importer in (runtimes, exported):
            monkeypatch.setattr(importer, 'choose_device', lambda name: 'cuda')
        monkeypatch.setattr(exported, 'find_spec', lambda name: name == 'onnxruntime')
        monkeypatch.setattr(exported, 'find_library', lambda name: 'libnvinfer.so')
        monkeypatch.setattr(exported, 'import_library', lambda name, remedy: library)
        monkeypatch.setattr(exported, 'read_export', lambda *_: (precision, [b'']))
        monkeypatch.setattr(torch, 'empty', lambda *size, device=None, **how: empty(*size, **how))
        monkeypatch.setattr(torch.cuda, 'get_device_name', lambda device: 'a GPU')
        return library

    return use


def spec_with_export(spec: ModelSpec, precision: str = 'f32') -> ModelSpec:
    export = {'precision': precision, 'files': {'model.onnx': 'b' * 64}, 'agreement': {}}
    return replace(spec, exports={'onnx': export})


def names(requested: Sequence[Any]) -> list[str]:
    return [given if isinstance(given, str) else given[0] for given in requested]


@pytest.mark.parametrize(
    ('available', 'precision', 'expected', 'reduced'),
    [
        ([TENSORRT, CUDA, HOST], 'f32', [TENSORRT, CUDA, HOST], (False, False)),
        ([TENSORRT, CUDA, HOST], 'bf16', [TENSORRT, CUDA, HOST], (True, False)),
        ([TENSORRT, CUDA, HOST], 'int8', [TENSORRT, CUDA, HOST], (True, True)),
        ([CUDA, HOST], 'f32', [CUDA, HOST], None),
    ],
)
def test_the_fastest_available_provider_comes_first(
    on_gpu: Callable[..., FakeLibrary],
    tiny_spec: ModelSpec,
    available: list[str],
    precision: str,
    expected: list[str],
    reduced: tuple[bool, bool] | None,
) -> None:
    library = on_gpu(FakeLibrary(available), precision)
    runtime = OnnxRuntime(Path(), tiny_spec, RuntimeOptions())
    assert names(library.requested) == expected
    assert runtime.device == GPU
    assert runtime.uses_tensorrt == (reduced is not None)
    assert runtime.description == f'onnxruntime {precision} by {expected[0]} on a GPU'
    if reduced is not None:
        settings = library.requested[0][1]
        assert (settings['trt_bf16_enable'], settings['trt_int8_enable']) == reduced


@pytest.mark.parametrize(
    ('library', 'precision', 'error'),
    [
        (FakeLibrary([HOST]), 'f32', 'none of which runs on CUDA'),
        (FakeLibrary([TENSORRT, CUDA, HOST], [TENSORRT, CUDA]), 'f32', 'would run on the CPU'),
        (FakeLibrary([TENSORRT, CUDA, HOST], [TENSORRT]), 'bf16', 'which TensorRT alone has'),
        (FakeLibrary([TENSORRT, CUDA, HOST], ['engine']), 'f32', 'the engine cannot be built'),
    ],
)
def test_what_cannot_run_is_an_error_and_auto_uses_torch(
    on_gpu: Callable[..., FakeLibrary],
    tiny_spec: ModelSpec,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    library: FakeLibrary,
    precision: str,
    error: str,
) -> None:
    caplog.set_level(logging.WARNING)
    on_gpu(library, precision)
    with pytest.raises(LibraryError, match=error):
        OnnxRuntime(Path(), tiny_spec, RuntimeOptions())
    torch_runtime = SimpleNamespace(description='torch')
    monkeypatch.setattr(runtimes, 'has_tensorrt', lambda: True)
    monkeypatch.setattr(TorchRuntime, 'load', lambda *_: torch_runtime)
    made = load_runtime(Path(), spec_with_export(tiny_spec, precision))
    assert made is torch_runtime
    assert error in made.description
    assert '; torch is used instead' in caplog.text


def test_auto_uses_torch_if_onnxruntime_cannot_be_imported(
    tiny_spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise LibraryError('onnxruntime cannot be imported')

    torch_runtime = SimpleNamespace(description='torch')
    monkeypatch.setattr(runtimes, 'choose_runtime', broken)
    monkeypatch.setattr(TorchRuntime, 'load', lambda *_: torch_runtime)
    made = load_runtime(Path(), spec_with_export(tiny_spec))
    assert made is torch_runtime
    assert 'onnxruntime cannot be imported' in made.description


def test_auto_does_not_use_onnxruntime_without_tensorrt(
    on_gpu: Callable[..., FakeLibrary], tiny_spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    library, torch_runtime = FakeLibrary([TENSORRT, CUDA, HOST]), SimpleNamespace(description='')
    on_gpu(library)
    monkeypatch.setattr(TorchRuntime, 'load', lambda *_: torch_runtime)
    spec = spec_with_export(tiny_spec)
    made = load_runtime(Path(), spec)
    assert isinstance(made, OnnxRuntime)
    assert made.description.endswith(
        '(auto: TensorRT is available, and the model has an ONNX export)'
    )
    library.failing = [TENSORRT]
    assert load_runtime(Path(), spec) is torch_runtime
    assert (
        'TensorRT cannot run the export, only onnxruntime f32 by CUDA' in torch_runtime.description
    )
    assert isinstance(load_runtime(Path(), spec, 'onnxruntime'), OnnxRuntime)


class OnGpu(TorchRuntime):
    """A fake TorchRuntime on a GPU."""

    def __init__(self) -> None:
        self.device = GPU


@pytest.mark.parametrize(
    ('runtime', 'name', 'options', 'simpler'),
    [
        (OnGpu(), AUTO, RuntimeOptions(quickest=True), ['f32']),
        (OnGpu(), 'torch', RuntimeOptions(quickest=True), ['f32']),
        (OnGpu(), AUTO, RuntimeOptions(), []),
        (OnGpu(), AUTO, RuntimeOptions(precision='bf16', quickest=True), []),
        (SimpleNamespace(device=GPU), AUTO, RuntimeOptions(quickest=True), [AUTO, 'f32']),
        (SimpleNamespace(device=GPU), AUTO, RuntimeOptions(), ['f32']),
        (SimpleNamespace(device=GPU), 'onnxruntime', RuntimeOptions(), []),
        (SimpleNamespace(device=torch.device('cpu')), AUTO, RuntimeOptions(), []),
    ],
)
def test_only_what_auto_chose_on_a_gpu_is_replaced(
    runtime: Any, name: str, options: RuntimeOptions, simpler: list[str]
) -> None:
    found = module.simpler_options(runtime, name, options)
    assert [each.precision for each in found] == simpler


class Inverted:
    """A runtime that computes something else."""

    device, precision, max_batch_size = torch.device('cpu'), 'bf16', 1

    def __init__(self, runtime: Any, sign: float) -> None:
        self.runtime, self.description, self.sign = runtime, 'inverted', sign

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.sign * self.runtime(inputs)


@pytest.mark.parametrize('sign', [-1.0, float('nan')])
@pytest.mark.parametrize('failing', [0, 1, 2])
def test_what_fails_the_self_test_is_replaced(
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    failing: int,
    sign: float,
) -> None:
    caplog.set_level(logging.WARNING)
    add_self_test(tiny_model)
    given: list[tuple[str, str]] = []

    def load(folder: Path, spec: ModelSpec, name: str, options: RuntimeOptions) -> Any:
        given.append((name, options.precision))
        runtime = TorchRuntime.load(folder, spec, RuntimeOptions('cpu', 'f32'))
        return Inverted(runtime, sign) if len(given) <= failing else runtime

    simpler = [RuntimeOptions(precision=AUTO), RuntimeOptions(precision='f32')]
    monkeypatch.setattr(module, 'load_runtime', load)
    monkeypatch.setattr(module, 'simpler_options', lambda *_: simpler)
    segmenter = Segmenter.load(tiny_model)
    assert given == [(AUTO, AUTO), ('torch', AUTO), ('torch', 'f32')][: failing + 1]
    assert len(caplog.messages) == failing
    assert ('(auto: inverted fails the self-test)' in segmenter.runtime.description) == (
        failing > 0
    )
    assert read_spec(tiny_model).self_test
