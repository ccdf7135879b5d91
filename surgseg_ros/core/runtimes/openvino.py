# SPDX-License-Identifier: Apache-2.0
"""The runtime `openvino`: a model folder's OpenVINO export on the CPU."""

from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from surgseg_ros.core.model_folder import ModelError, ModelSpec
from surgseg_ros.core.runtimes.exported import import_library, one_by_one, read_export
from surgseg_ros.core.runtimes.selection import Options, has_instructions, is_limited

REMEDY: Final = "install it (pip install openvino), or set runtime to 'torch'"

_HINTS: Final = {'f32': 'f32', 'bf16': 'bf16', 'int8': 'bf16'}
"""Precision hint by precision of the export; a CPU without bfloat16 uses float32 instead."""


def _hint(precision: str) -> str:
    """
    Choose the precision hint of OpenVINO for an export.

    OpenVINO asks the processor for bfloat16, but its oneDNN obeys ONEDNN_MAX_CPU_ISA. Where that
    hides bfloat16, a network either fails to compile or gives NaN.
    """
    if is_limited() and not has_instructions('bf16'):
        return 'f32'
    return _HINTS[precision]


def _compile(core: Any, graph: bytes, weights: bytes, precision: str) -> Any:
    settings = {
        'PERFORMANCE_HINT': 'LATENCY',
        'NUM_STREAMS': 1,
        'INFERENCE_NUM_THREADS': torch.get_num_threads(),
        'INFERENCE_PRECISION_HINT': _hint(precision),
        # Two nodes would be pinned to the same cores.
        'ENABLE_CPU_PINNING': False,
    }
    return core.compile_model(core.read_model(graph, weights), 'CPU', settings)


class OpenVinoRuntime:
    """OpenVINO, compiled here for this CPU, with as many threads as torch has."""

    def __init__(self, folder: Path, spec: ModelSpec, options: Options) -> None:
        """
        Read and compile an export.

        :param folder: the model folder.
        :param spec: its specification.
        :param options: device, and the precision that the export has, or `auto`.
        :raises ModelError: if the folder holds no usable OpenVINO export.
        :raises ValueError: if the device is another one, or openvino is not installed.
        """
        if options.device not in ('auto', 'cpu'):
            raise ValueError(
                f'device is {options.device!r}, but the runtime openvino supports only the CPU: '
                "set device to 'cpu', or runtime to 'auto'"
            )
        precision, (graph, weights) = read_export(folder, spec, 'openvino', options.precision)
        # OpenVINO would take ONNX and others as well, and open the files that these may name.
        if not graph.lstrip().startswith((b'<?xml', b'<net')) or b'<!' in graph:
            raise ModelError(
                f'{folder}: OpenVINO cannot read the export: openvino.xml is not XML of OpenVINO; '
                'export the model again'
            )
        self._openvino = import_library('openvino', REMEDY)
        self.device = torch.device('cpu')
        self.max_batch_size = 1
        try:
            compiled = _compile(self._openvino.Core(), graph, weights, precision)
            shapes = [tuple(port.shape) for port in compiled.inputs]
        except RuntimeError as error:
            raise ModelError(f'{folder}: OpenVINO cannot read the export: {error}') from error
        if shapes != [(1, *spec.input_size, 3)]:
            raise ModelError(
                f'{folder}: the OpenVINO export takes {shapes}, expected (1, *input_size, 3) with '
                f'input_size {spec.input_size}: export the model again'
            )
        self._request = compiled.create_infer_request()
        computed = compiled.get_property('INFERENCE_PRECISION_HINT').to_string()
        parts = f'int8 and {computed}' if precision == 'int8' else computed
        self.description = f'openvino {parts} on CPU'

    def __call__(self, fitted: Tensor) -> Tensor:
        """Find the logits; see Runtime."""
        return one_by_one(self._run, fitted)

    def _run(self, fitted: Tensor) -> Tensor:
        array = fitted.contiguous().numpy()
        self._request.set_input_tensor(self._openvino.Tensor(array, shared_memory=True))
        self._request.infer()
        return torch.from_numpy(self._request.get_output_tensor().data)
