# SPDX-License-Identifier: Apache-2.0
"""The runtime `openvino`: runs an export, or the converted weights, on this CPU."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from surgseg_ros.core.model_folder import ModelError, ModelSpec
from surgseg_ros.core.runtimes.conversion import (
    OPENVINO_REMEDY,
    ConversionError,
    available_precisions,
    convert_once,
    openvino_core,
)
from surgseg_ros.core.runtimes.exported import import_library, one_by_one, read_export
from surgseg_ros.core.runtimes.selection import AUTO, Options, has_instructions, is_limited

_PRECISION_HINTS: Final = {'f32': 'f32', 'bf16': 'bf16', 'f16': 'f16', 'int8': 'bf16'}
"""Precision hint by precision; a CPU without bfloat16 computes an export in float32."""


def _precision_hint(precision: str) -> str:
    """
    Choose the precision hint of OpenVINO.

    OpenVINO queries the processor for bfloat16, but its oneDNN obeys ONEDNN_MAX_CPU_ISA. If that
    disables bfloat16, a network either fails to compile or returns NaN.
    """
    if is_limited() and not has_instructions('bf16'):
        return 'f32'
    return _PRECISION_HINTS[precision]


def _compile(core: Any, graph: bytes, weights: bytes, precision: str) -> Any:
    settings = {
        'PERFORMANCE_HINT': 'LATENCY',
        'NUM_STREAMS': 1,
        'INFERENCE_NUM_THREADS': torch.get_num_threads(),
        'INFERENCE_PRECISION_HINT': _precision_hint(precision),
        # Otherwise, two nodes would be pinned to the same cores.
        'ENABLE_CPU_PINNING': False,
    }
    return core.compile_model(core.read_model(graph, weights), 'CPU', settings)


def _check_precision(folder: Path, spec: ModelSpec, precision: str) -> None:
    """Reject a precision that has no export, and one that the processor lacks."""
    if precision == 'int8':
        read_export(folder, spec, 'openvino', precision)  # its error names the command
    available = available_precisions()
    if precision not in (AUTO, *available):
        raise ValueError(
            f'precision is {precision!r}, for which this processor has no instructions: set '
            f"precision to 'auto', or to {' or '.join(available)}"
        )


class OpenVinoRuntime:
    """OpenVINO, compiled for this CPU when it is created, with as many threads as torch has."""

    def __init__(
        self, spec: ModelSpec, graph: bytes, weights: bytes, precision: str, origin: str = ''
    ) -> None:
        """
        Compile a graph.

        :param spec: the model folder's specification.
        :param graph: the content of openvino.xml.
        :param weights: the content of openvino.bin.
        :param precision: a key of TORCH_PRECISIONS, or `int8` for a graph that has it.
        :param origin: source of the graph, appended to the description.
        :raises ModelError: if the graph cannot be used.
        :raises ValueError: if openvino is not installed.
        """
        # OpenVINO would also accept ONNX and other formats, and open files that they reference.
        if not graph.lstrip().startswith((b'<?xml', b'<net')) or b'<!' in graph:
            raise ModelError(
                'OpenVINO cannot read the export: openvino.xml is not XML of OpenVINO; export the '
                'model again'
            )
        self._openvino = import_library('openvino', OPENVINO_REMEDY)
        self.device = torch.device('cpu')
        self.max_batch_size = 1
        try:
            compiled = _compile(openvino_core(), graph, weights, precision)
            shapes = [tuple(port.shape) for port in compiled.inputs]
        except RuntimeError as error:
            raise ModelError(f'OpenVINO cannot read the export: {error}') from error
        if shapes != [(1, *spec.input_size, 3)]:
            raise ModelError(
                f'the OpenVINO export takes {shapes}, expected (1, *input_size, 3) with '
                f'input_size {spec.input_size}: export the model again'
            )
        self._request = compiled.create_infer_request()
        computed: str = compiled.get_property('INFERENCE_PRECISION_HINT').to_string()
        self.precision = 'int8' if precision == 'int8' else computed
        parts = f'int8 and {computed}' if precision == 'int8' else computed
        self.description = f'openvino {parts} on CPU{origin}'

    @classmethod
    def load(cls, folder: Path, spec: ModelSpec, options: Options) -> 'OpenVinoRuntime':
        """
        Read and compile the export of a model folder, or convert its weights if it has none.

        :param folder: the model folder.
        :param spec: its specification.
        :param options: device and precision; for an export, `auto` or the precision that it has.
        :return: the runtime.
        :raises ModelError: if the folder cannot be used, or its network cannot be converted.
        :raises ValueError: if the device is another one or lacks the precision, or openvino is
            not installed.
        """
        if options.device not in ('auto', 'cpu'):
            raise ValueError(
                f'device is {options.device!r}, but the runtime openvino supports only the CPU: '
                "set device to 'cpu', or runtime to 'auto'"
            )
        if 'openvino' in spec.exports:
            precision, files = read_export(folder, spec, 'openvino', options.precision)
            return cls._exported(folder, spec, files, precision)
        _check_precision(folder, spec, options.precision)
        chooses, precision = options.precision == AUTO, options.precision
        made = convert_once(folder, spec, quickest=chooses and options.quickest)
        if chooses:
            precision = made.quickest if options.quickest else 'f32'
        try:
            return cls(
                spec, made.files[0], made.files[1], precision, ', converted from the weights'
            )
        except ModelError as error:
            raise ConversionError(f'OpenVINO cannot run the converted network: {error}') from error

    @classmethod
    def _exported(
        cls, folder: Path, spec: ModelSpec, files: Sequence[bytes], precision: str
    ) -> 'OpenVinoRuntime':
        """Compile an export; errors name the folder."""
        try:
            return cls(spec, files[0], files[1], precision)
        except ModelError as error:
            raise ModelError(f'{folder}: {error}') from error

    def __call__(self, fitted: Tensor) -> Tensor:
        """Compute the logits; see Runtime."""
        return one_by_one(self._run, fitted)

    def _run(self, fitted: Tensor) -> Tensor:
        array = fitted.contiguous().numpy()
        self._request.set_input_tensor(self._openvino.Tensor(array, shared_memory=True))
        self._request.infer()
        return torch.from_numpy(self._request.get_output_tensor().data)
