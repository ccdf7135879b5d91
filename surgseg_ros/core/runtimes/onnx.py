# SPDX-License-Identifier: Apache-2.0
"""The runtime `onnxruntime`: a model folder's ONNX export by TensorRT, CUDA or the CPU."""

import os
from ctypes.util import find_library
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from surgseg_ros.core.labels import CLASS_COUNT
from surgseg_ros.core.model_spec import ModelError, ModelSpec
from surgseg_ros.core.runtimes.device import choose_device
from surgseg_ros.core.runtimes.exported import import_library, one_by_one, read_export
from surgseg_ros.core.runtimes.onnx_graph import check_graph
from surgseg_ros.core.runtimes.options import Options

REMEDY: Final = (
    'install it (pip install onnxruntime-gpu for TensorRT and CUDA, onnxruntime for the CPU), or '
    "set runtime to 'torch'"
)
TENSORRT: Final = 'TensorrtExecutionProvider'


class OnnxRuntime:
    """ONNX Runtime; TensorRT builds its engine when this is made, or takes it from a cache."""

    def __init__(self, folder: Path, spec: ModelSpec, options: Options) -> None:
        """
        Read and compile an export.

        :param folder: the model folder.
        :param spec: its specification.
        :param options: device, and the precision that the export has, or `auto`.
        :raises ModelError: if the folder holds no usable ONNX export.
        :raises ValueError: if the machine has no such device, or onnxruntime is not installed or
            cannot use the device.
        """
        chosen = torch.device(choose_device(options.device))
        precision, (graph,) = read_export(folder, spec, 'onnx', options.precision)
        library = import_library('onnxruntime', REMEDY)
        self.device = torch.device('cuda', chosen.index or 0) if chosen.type == 'cuda' else chosen
        self.max_batch_size = 1
        providers = _providers(library, self.device, precision)
        session = library.SessionOptions()
        session.intra_op_num_threads = torch.get_num_threads()
        session.log_severity_level = 3  # errors; its advice is not for the node's log
        try:
            check_graph(graph)
            self._session = library.InferenceSession(graph, session, providers=providers)
        except Exception as error:  # its own classes, which have nothing else in common
            raise ModelError(f'{folder}: ONNX Runtime cannot load the export: {error}') from error
        ports = self._session.get_inputs(), self._session.get_outputs()
        shapes = [tuple(port.shape) for side in ports for port in side]
        expected = [(1, *spec.input_size, 3), (1, CLASS_COUNT, *spec.input_size)]
        if shapes != expected:
            raise ModelError(
                f'{folder}: the ONNX export has the shapes {shapes}, expected {expected}: export '
                'the model again'
            )
        self._names = ports[0][0].name, ports[1][0].name
        self._logits = torch.empty(expected[1], device=self.device)
        used = self._session.get_providers()[0]
        _check_used(used, self.device, precision)
        name = torch.cuda.get_device_name(self.device) if self.device.type == 'cuda' else 'CPU'
        self.description = f'onnxruntime {precision} by {used} on {name}'

    def __call__(self, fitted: Tensor) -> Tensor:
        """Find the logits; see Runtime."""
        return one_by_one(self._run, fitted)

    def _run(self, fitted: Tensor) -> Tensor:
        fitted = fitted.contiguous()
        kind, index = self.device.type, self.device.index or 0
        binding = self._session.io_binding()
        for bind, name, element, tensor in (
            (binding.bind_input, self._names[0], np.uint8, fitted),
            (binding.bind_output, self._names[1], np.float32, self._logits),
        ):
            bind(name, kind, index, element, tuple(tensor.shape), tensor.data_ptr())
        if kind == 'cuda':  # torch and ONNX Runtime have streams of their own
            torch.cuda.current_stream(self.device).synchronize()
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return self._logits


def has_tensorrt() -> bool:
    """
    Find whether ONNX Runtime is installed with TensorRT.

    :return: whether it is.
    """
    if not find_spec('onnxruntime'):
        return False
    if not find_spec('tensorrt') and not find_library('nvinfer'):
        return False  # ONNX Runtime lists it all the same
    return TENSORRT in import_library('onnxruntime', REMEDY).get_available_providers()


def _providers(library: Any, device: torch.device, precision: str) -> list[Any]:
    """List what may run the graph, the fastest first."""
    available = library.get_available_providers()
    if device.type == 'cpu':
        return ['CPUExecutionProvider']
    if 'CUDAExecutionProvider' not in available:
        raise ValueError(
            f'onnxruntime has {", ".join(available)}, none of which runs on CUDA: pip install '
            "onnxruntime-gpu in its place, or set device to 'cpu'"
        )
    if find_spec('tensorrt'):
        import_library('tensorrt', REMEDY)  # its libraries are then found
    tensorrt = {
        'device_id': device.index,
        'trt_bf16_enable': precision != 'f32',
        'trt_int8_enable': precision == 'int8',
        # An engine takes minutes to build; its name says model, TensorRT and GPU.
        'trt_engine_cache_enable': True,
        'trt_engine_cache_path': str(_engine_cache()),
    }
    first = [(TENSORRT, tensorrt)] if TENSORRT in available else []
    return [*first, ('CUDAExecutionProvider', {'device_id': device.index}), 'CPUExecutionProvider']


def _check_used(used: str, device: torch.device, precision: str) -> None:
    """Refuse what ONNX Runtime falls back on with no more than a line in its log."""
    if precision == 'bf16' and used != TENSORRT:
        raise ValueError(
            f"the ONNX export is of precision 'bf16', which TensorRT alone has, and {used} would "
            'run it: install TensorRT, or export with --precision f32'
        )
    if device.type == 'cuda' and used == 'CPUExecutionProvider':
        raise ValueError(
            'onnxruntime finds no CUDA libraries that it can use, and would run on the CPU: '
            "install those of its own CUDA version, or set runtime to 'torch'"
        )


def _engine_cache() -> Path:
    folder = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'surgseg_ros'
    folder.mkdir(parents=True, exist_ok=True)
    return folder
