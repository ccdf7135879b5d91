# SPDX-License-Identifier: Apache-2.0
"""Reads and checks exported networks, and runs those for `onnxruntime`."""

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from ctypes.util import find_library
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from surgseg_ros.core.cache import user_cache
from surgseg_ros.core.labels import CLASS_COUNT
from surgseg_ros.core.model_folder import EXPORT_FILES, ModelError, ModelSpec, read_checked
from surgseg_ros.core.runtimes.selection import AUTO, Options, choose_device


class LibraryError(ValueError):
    """An optional library that cannot be imported, or cannot run the model on this machine."""


def read_export(
    folder: Path, spec: ModelSpec, backend: str, precision: str = AUTO
) -> tuple[str, list[bytes]]:
    """
    Read an export, and check its files against their hashes in model.json.

    :param folder: the model folder.
    :param spec: its specification.
    :param backend: a key of EXPORT_FILES.
    :param precision: required precision of the export, or `auto` for any.
    :return: one of PRECISIONS, and the content of the files in the order of EXPORT_FILES.
    :raises ModelError: if the folder has no such export, or one of another precision, or a file
        is missing or changed.
    """
    if backend not in spec.exports:
        raise ModelError(
            f'{folder}: the model has no export for {backend}; make one: surgseg_ros export '
            f'--model {folder} --backend {backend} --precision '
            f'{"f32" if precision == AUTO else precision} --output NEW_FOLDER'
        )
    export = spec.exports[backend]
    if precision not in (AUTO, export['precision']):
        raise ModelError(
            f'{folder}: precision is {precision!r}, but the export for {backend} is '
            f"{export['precision']}: set precision to 'auto', or export again"
        )
    contents = [
        read_checked(Path(folder) / name, export['files'][name]) for name in EXPORT_FILES[backend]
    ]
    return export['precision'], contents


def import_library(name: str, remedy: str) -> Any:
    """
    Import an optional library.

    :param name: name of the module.
    :param remedy: what to do if it is not installed.
    :return: the module.
    :raises LibraryError: if it cannot be imported.
    """
    # Disable telemetry, which is on by default: of OpenVINO and NNCF in a separate module, of
    # ONNX Runtime from 1.29 on in a thread, with hashes of the model.
    os.environ['ORT_DISABLE_TELEMETRY'] = '1'
    sys.modules.setdefault('openvino_telemetry', None)  # type: ignore[arg-type]
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise LibraryError(f'{name} cannot be imported ({error}): {remedy}') from error


def one_by_one(run: Callable[[Tensor], Tensor], fitted: Tensor) -> Tensor:
    """
    Run a network that takes a single image on a batch.

    :param run: maps (1, h, w, 3) to logits, whose memory it may reuse.
    :param fitted: (N, h, w, 3).
    :return: (N, CLASS_COUNT, h, w) logits; for one image, those of `run` without a copy.
    """
    if len(fitted) == 1:
        return run(fitted)
    return torch.cat([run(image[None]).clone() for image in fitted])


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
    place = 0
    while place < len(content):
        key, place = _varint(content, place)
        kind, length = key & 7, 0
        if kind == 0:
            _, place = _varint(content, place)
        elif kind == 2:
            length, place = _varint(content, place)
        elif kind in (1, 5):
            place += 8 if kind == 1 else 4
        else:
            raise ValueError(f'it is not an ONNX graph: field {key >> 3} is of type {kind}')
        if place + length > len(content):
            raise IndexError
        yield key >> 3, content[place : place + length]
        place += length


def _varint(content: memoryview, place: int) -> tuple[int, int]:
    """Read a varint; return it and the position after it."""
    number = 0
    for shift in range(0, 70, 7):
        byte = content[place]
        place += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, place
    raise ValueError('it is not an ONNX graph: a number has more than ten bytes')


_ONNX_REMEDY: Final = (
    'install it (pip install onnxruntime-gpu for TensorRT and CUDA, onnxruntime for the CPU), or '
    "set runtime to 'torch'"
)
TENSORRT: Final = 'TensorrtExecutionProvider'


class OnnxRuntime:
    """ONNX Runtime; with TensorRT, the engine is built on creation, or read from a cache."""

    def __init__(self, folder: Path, spec: ModelSpec, options: Options) -> None:
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

    def __call__(self, fitted: Tensor) -> Tensor:
        """Compute the logits; see Runtime."""
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
