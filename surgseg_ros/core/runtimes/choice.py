# SPDX-License-Identifier: Apache-2.0
"""The runtime `auto`: the fastest one that is installed and that the model folder supports."""

from importlib.util import find_spec

from surgseg_ros.core.model_folder import ModelSpec
from surgseg_ros.core.runtimes.onnx import has_tensorrt
from surgseg_ros.core.runtimes.selection import choose_device


def choose_runtime(spec: ModelSpec, device: str) -> tuple[str, str]:
    """
    Choose the runtime of a network.

    :param spec: the model folder's specification, which lists its exports.
    :param device: `auto`, `cpu`, `cuda`, `cuda:1` …
    :return: a key of RUNTIMES, and the reason for people.
    :raises ValueError: if the machine has no such device.
    """
    if choose_device(device).startswith('cuda'):
        if 'onnx' in spec.exports and has_tensorrt():
            return 'onnxruntime', 'TensorRT is here, and the model has an ONNX export'
        return 'torch', 'CUDA is here'
    if 'openvino' not in spec.exports:
        return 'torch', 'the model has no OpenVINO export, which `export` makes'
    if not find_spec('openvino'):
        return 'torch', 'the model has an OpenVINO export, but openvino is not installed'
    return 'openvino', 'no CUDA, and the model has an OpenVINO export'
