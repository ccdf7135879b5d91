# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest
import torch

from surgseg_ros.core import runtimes
from surgseg_ros.core.model_folder import ModelError, ModelSpec
from surgseg_ros.core.parameters import RUNTIME_NAMES, TORCH_PRECISIONS
from surgseg_ros.core.runtimes import AUTO, RUNTIMES, choose_device
from surgseg_ros.core.runtimes.base import TORCH_DTYPES
from surgseg_ros.core.segmenter import Segmenter

EXPORTS = {
    'openvino': {
        'precision': 'bf16',
        'files': dict.fromkeys(('openvino.xml', 'openvino.bin'), 'a' * 64),
        'agreement': {},
    },
    'onnx': {'precision': 'bf16', 'files': {'model.onnx': 'b' * 64}, 'agreement': {}},
}


def test_runtime_names_available_without_torch_are_those_of_the_runtimes() -> None:
    assert tuple(RUNTIMES) == RUNTIME_NAMES
    assert tuple(TORCH_DTYPES) == TORCH_PRECISIONS


def test_devices_auto_and_cpu() -> None:
    assert choose_device('auto') == ('cuda' if torch.cuda.is_available() else 'cpu')
    assert choose_device('cpu') == 'cpu'


@pytest.mark.parametrize('device', ['', 'gpu', 'meta', 'cuda:x', 'mps'])
def test_rejects_an_unknown_device(device: str) -> None:
    with pytest.raises(ValueError, match=f"device is '{device}', expected auto, cpu, cuda"):
        choose_device(device)


def test_rejects_an_absent_device_and_names_a_remedy() -> None:
    with pytest.raises(ValueError, match=r"'cuda:99', but torch sees .* set device to 'cpu'"):
        choose_device('cuda:99')


@pytest.mark.parametrize(
    ('device', 'exports', 'libraries', 'chosen', 'reason'),
    [
        ('cpu', [], ['openvino'], 'openvino', 'no CUDA'),
        ('cpu', ['onnx'], ['openvino'], 'openvino', 'no CUDA'),
        ('cpu', [], [], 'torch', 'openvino is not installed'),
        ('cpu', ['openvino'], [], 'torch', 'openvino is not installed'),
        ('cpu', ['openvino', 'onnx'], ['openvino', 'tensorrt'], 'openvino', 'has an OpenVINO exp'),
        ('cuda', ['openvino'], ['openvino', 'tensorrt'], 'torch', 'CUDA is available'),
        ('cuda', ['onnx'], ['openvino'], 'torch', 'CUDA is available'),
        ('cuda', ['openvino', 'onnx'], ['tensorrt'], 'onnxruntime', 'TensorRT is available'),
    ],
)
def test_auto_selects_the_fastest_available_runtime(
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    exports: list[str],
    libraries: list[str],
    chosen: str,
    reason: str,
) -> None:
    monkeypatch.setattr(runtimes, 'choose_device', lambda name: device)
    monkeypatch.setattr(runtimes, 'find_spec', lambda name: name in libraries)
    monkeypatch.setattr(runtimes, 'has_tensorrt', lambda: 'tensorrt' in libraries)
    spec = ModelSpec(name='any', exports={name: EXPORTS[name] for name in exports})
    name, why = runtimes.choose_runtime(spec, AUTO)
    assert name == chosen
    assert reason in why


def test_the_description_reports_what_auto_selected_and_why(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtimes, 'find_spec', lambda name: None)
    runtime = Segmenter.load(tiny_model, 'cpu', AUTO).runtime
    assert runtime.description == (
        'torch float32 on CPU (auto: no CUDA, and openvino is not installed)'
    )
    assert runtime.precision == 'f32'


def test_rejects_a_folder_without_export_and_names_the_command(tiny_model: Path) -> None:
    with pytest.raises(ModelError, match=f'export --model {tiny_model} --backend onnx'):
        Segmenter.load(tiny_model, 'auto', 'onnxruntime')


def test_openvino_has_no_cuda(tiny_model: Path) -> None:
    with pytest.raises(
        ValueError, match="device is 'cuda:1', but the runtime openvino supports only the CPU"
    ):
        Segmenter.load(tiny_model, 'cuda:1', 'openvino')
