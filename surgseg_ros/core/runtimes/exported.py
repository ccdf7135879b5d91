# SPDX-License-Identifier: Apache-2.0
"""The runtimes of exports: ONNX Runtime, and OpenVINO, which also converts weights."""

from collections.abc import Iterator, Mapping, Sequence
from ctypes.util import find_library
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from surgseg_ros.core.cache import user_cache
from surgseg_ros.core.labels import CLASS_COUNT
from surgseg_ros.core.model_folder import ModelError, ModelSpec
from surgseg_ros.core.runtimes.base import (
    AUTO,
    LibraryError,
    RuntimeOptions,
    choose_device,
    has_instructions,
    import_library,
    is_limited,
    one_by_one,
    read_export,
)
from surgseg_ros.core.runtimes.conversion import (
    OPENVINO_REMEDY,
    ConversionError,
    available_precisions,
    convert_once,
    openvino_core,
)

_INSIDE: Final[Mapping[str, Mapping[int, str]]] = {
    'model': {7: 'graph', 20: 'training', 25: 'function'},
    'training': {1: 'graph', 2: 'graph'},
    'function': {7: 'node', 11: 'attribute'},
    'graph': {1: 'node', 5: 'tensor', 15: 'sparse'},
    'node': {5: 'attribute'},
    'attribute': {5: 'tensor', 6: 'graph', 10: 'tensor', 11: 'graph', 22: 'sparse', 23: 'sparse'},
    'sparse': {1: 'tensor', 2: 'tensor'},
    'tensor': {},
}
"""By message type of onnx.proto: its fields that contain tensors, and their message types."""

_EXTERNAL_DATA: Final = 13  # field of a tensor
_OPERATOR: Final = 4  # field of a node
_DEEPEST: Final = 50


def check_graph(graph: bytes) -> None:
    """
    Reject a graph that loads weights or compiled engines from other files.

    Such files are opened relative to the working directory, and have no hashes in model.json.

    :param graph: the serialized onnx.ModelProto.
    :raises ValueError: if it loads other files, or cannot be read.
    """
    try:
        _check_message(memoryview(graph), 'model', 0)
    except IndexError as error:
        raise ValueError('it is not an ONNX graph: it ends in the middle of a field') from error


def _check_message(content: memoryview, kind: str, depth: int) -> None:
    if depth > _DEEPEST:
        raise ValueError(f'it is nested more than {_DEEPEST} deep')
    for number, value in _fields(content):
        if kind == 'tensor' and number == _EXTERNAL_DATA:
            raise ValueError('a tensor is in another file; export the model again')
        if kind == 'node' and number == _OPERATOR and bytes(value) == b'EPContext':
            raise ValueError('it names a compiled engine; export the model again')
        if number in _INSIDE[kind]:
            _check_message(value, _INSIDE[kind][number], depth + 1)


def _fields(content: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield the fields of a protobuf message; the content of a number is empty."""
    offset = 0
    while offset < len(content):
        key, offset = _varint(content, offset)
        kind, length = key & 7, 0
        if kind == 0:
            _, offset = _varint(content, offset)
        elif kind == 2:
            length, offset = _varint(content, offset)
        elif kind in (1, 5):
            offset += 8 if kind == 1 else 4
        else:
            raise ValueError(f'it is not an ONNX graph: field {key >> 3} is of type {kind}')
        if offset + length > len(content):
            raise IndexError
        yield key >> 3, content[offset : offset + length]
        offset += length


def _varint(content: memoryview, offset: int) -> tuple[int, int]:
    """Read a varint; return it and the position after it."""
    number = 0
    for shift in range(0, 70, 7):
        byte = content[offset]
        offset += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, offset
    raise ValueError('it is not an ONNX graph: a number has more than ten bytes')


_ONNX_REMEDY: Final = (
    'install it (pip install onnxruntime-gpu for TensorRT and CUDA, onnxruntime for the CPU), or '
    "set runtime to 'torch'"
)
TENSORRT: Final = 'TensorrtExecutionProvider'


class OnnxRuntime:
    """ONNX Runtime; with TensorRT, the engine is built on creation, or read from a cache."""

    def __init__(self, folder: Path, spec: ModelSpec, options: RuntimeOptions) -> None:
        """
        Read and compile an export.

        :param folder: the model folder.
        :param spec: its specification.
        :param options: device, and the precision of the export or `auto`.
        :raises ModelError: if the folder has no usable ONNX export.
        :raises ValueError: if the machine has no such device, or onnxruntime is not installed or
            cannot use the device.
        """
        chosen = torch.device(choose_device(options.device))
        precision, (graph,) = read_export(folder, spec, 'onnx', options.precision)
        library = import_library('onnxruntime', _ONNX_REMEDY)
        self.device = torch.device('cuda', chosen.index or 0) if chosen.type == 'cuda' else chosen
        self.max_batch_size = 1
        try:
            check_graph(graph)
        except ValueError as error:
            raise ModelError(f'{folder}: ONNX Runtime cannot load the export: {error}') from error
        providers = _providers(library, self.device, precision)
        self._session = _session(library, folder, graph, providers)
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
        self.precision = precision
        self.uses_tensorrt = used == TENSORRT
        self.description = f'onnxruntime {precision} by {used} on {name}'

    def __call__(self, inputs: Tensor) -> Tensor:
        """Compute the logits; see Runtime."""
        return one_by_one(self._run, inputs)

    def _run(self, inputs: Tensor) -> Tensor:
        inputs = inputs.contiguous()
        kind, index = self.device.type, self.device.index or 0
        binding = self._session.io_binding()
        for bind, name, element, tensor in (
            (binding.bind_input, self._names[0], np.uint8, inputs),
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
    Return whether ONNX Runtime is installed with TensorRT.

    :return: True if it is.
    """
    if not find_spec('onnxruntime'):
        return False
    if not find_spec('tensorrt') and not find_library('nvinfer'):
        return False  # ONNX Runtime lists it even if it is not installed
    return TENSORRT in import_library('onnxruntime', _ONNX_REMEDY).get_available_providers()


def _session(library: Any, folder: Path, graph: bytes, providers: list[Any]) -> Any:
    options = library.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # only errors
    try:
        return library.InferenceSession(graph, options, providers=providers)
    except Exception as error:  # its exceptions have no common base class
        raise LibraryError(f'{folder}: ONNX Runtime cannot load the export: {error}') from error


def _providers(library: Any, device: torch.device, precision: str) -> list[Any]:
    """List the execution providers to use, the fastest first."""
    available = library.get_available_providers()
    if device.type == 'cpu':
        return ['CPUExecutionProvider']
    if 'CUDAExecutionProvider' not in available:
        raise LibraryError(
            f'onnxruntime has {", ".join(available)}, none of which runs on CUDA: pip install '
            "onnxruntime-gpu in its place, or set device to 'cpu'"
        )
    if find_spec('tensorrt'):
        import_library('tensorrt', _ONNX_REMEDY)  # makes its libraries available
    tensorrt = {
        'device_id': device.index,
        'trt_bf16_enable': precision != 'f32',
        'trt_int8_enable': precision == 'int8',
        # An engine takes minutes to build; its name depends on model, TensorRT and GPU.
        'trt_engine_cache_enable': True,
        'trt_engine_cache_path': str(_engine_cache()),
    }
    first = [(TENSORRT, tensorrt)] if TENSORRT in available else []
    return [*first, ('CUDAExecutionProvider', {'device_id': device.index}), 'CPUExecutionProvider']


def _check_used(used: str, device: torch.device, precision: str) -> None:
    """Reject a provider that ONNX Runtime fell back to, which it only logs."""
    if precision == 'bf16' and used != TENSORRT:
        raise LibraryError(
            f"the ONNX export is of precision 'bf16', which TensorRT alone has, and {used} would "
            'run it: install TensorRT, or export with --precision f32'
        )
    if device.type == 'cuda' and used == 'CPUExecutionProvider':
        raise LibraryError(
            'onnxruntime finds no CUDA libraries that it can use, and would run on the CPU: '
            "install those of its own CUDA version, or set runtime to 'torch'"
        )


def _engine_cache() -> Path:
    folder = user_cache()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


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
        :param precision: a key of TORCH_DTYPES, or `int8` for a graph that has it.
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
    def load(cls, folder: Path, spec: ModelSpec, options: RuntimeOptions) -> 'OpenVinoRuntime':
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

    def __call__(self, inputs: Tensor) -> Tensor:
        """Compute the logits; see Runtime."""
        return one_by_one(self._run, inputs)

    def _run(self, inputs: Tensor) -> Tensor:
        array = inputs.contiguous().numpy()
        self._request.set_input_tensor(self._openvino.Tensor(array, shared_memory=True))
        self._request.infer()
        return torch.from_numpy(self._request.get_output_tensor().data)
