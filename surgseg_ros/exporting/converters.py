# SPDX-License-Identifier: Apache-2.0
"""Converts a trained network to the files of another runtime."""

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from surgseg_ros.core.model_folder import EXPORT_FILES, ModelSpec
from surgseg_ros.core.runtimes.exported import import_library

_INPUT: Final = 'fitted'

Fitted = Sequence[NDArray[np.uint8]]
"""Images of (1, h, w, 3) RGB, as the network takes them."""


def to_openvino(network: nn.Module, spec: ModelSpec, fitted: Fitted, folder: Path) -> None:
    """
    Write a network as OpenVINO files.

    :param network: in evaluation mode, on the CPU.
    :param spec: its specification.
    :param fitted: frames to calibrate int8 with; empty for another precision.
    :param folder: for the files.
    """
    openvino = _library('openvino')
    example = _example(spec)
    with torch.no_grad():
        model = openvino.convert_model(
            network,
            example_input=example,
            input=[(openvino.PartialShape([*example.shape]), openvino.Type.u8)],
        )
    if fitted:
        model = _quantize(model, fitted)
    openvino.save_model(model, folder / EXPORT_FILES['openvino'][0], compress_to_fp16=False)


def to_onnx(network: nn.Module, spec: ModelSpec, fitted: Fitted, folder: Path) -> None:
    """
    Write a network as an ONNX file; see to_openvino.

    :param network: in evaluation mode, on the CPU.
    :param spec: its specification.
    :param fitted: frames to calibrate int8 with; empty for another precision.
    :param folder: for the file.
    """
    onnx = _library('onnx')
    path = folder / EXPORT_FILES['onnx'][0]
    torch.onnx.export(
        network.to(memory_format=torch.contiguous_format),
        (_example(spec),),
        path,
        dynamo=True,
        external_data=False,
        input_names=[_INPUT],
        output_names=['logits'],
        verbose=False,
    )
    if fitted:
        onnx.save(_quantize(onnx.load(path), [{_INPUT: image} for image in fitted]), path)


class Backend(NamedTuple):
    """
    An export format.

    :param convert: writes the files.
    :param runtime: the key of RUNTIMES that reads it.
    :param libraries: that both need.
    """

    convert: Callable[[nn.Module, ModelSpec, Fitted, Path], None]
    runtime: str
    libraries: tuple[str, ...]


BACKENDS: Final[Mapping[str, Backend]] = {
    'openvino': Backend(to_openvino, 'openvino', ('openvino',)),
    'onnx': Backend(to_onnx, 'onnxruntime', ('onnx', 'onnxscript', 'onnxruntime')),
}
"""The keys are those of EXPORT_FILES."""


def check_libraries(backend: str, *, calibrate: bool) -> None:
    """
    Check that an export can be made here, before anything takes time.

    :param backend: a key of BACKENDS.
    :param calibrate: whether it will be calibrated.
    :raises ValueError: if a library is not installed.
    """
    for name in BACKENDS[backend].libraries + (('nncf',) if calibrate else ()):
        _library(name)


def convert(backend: str, network: nn.Module, spec: ModelSpec, fitted: Fitted, to: Path) -> None:
    """
    Write a network's files for a backend, without the log output of its libraries.

    :param backend: a key of BACKENDS.
    :param network: in evaluation mode, on the CPU.
    :param spec: its specification.
    :param fitted: frames to calibrate int8 with; empty for another precision.
    :param to: the folder for the files.
    """
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        BACKENDS[backend].convert(network, spec, fitted, to)


def _library(name: str) -> Any:
    return import_library(
        name, f'pip install {name}, or this package with its extra [openvino] or [onnx]'
    )


def _example(spec: ModelSpec) -> torch.Tensor:
    return torch.zeros(1, *spec.input_size, 3, dtype=torch.uint8)


def _quantize(model: Any, items: Sequence[Any]) -> Any:
    """Quantize weights and activations to int8 where NNCF supports it."""
    nncf = _library('nncf')
    nncf.set_log_level(logging.ERROR)
    return nncf.quantize(model, nncf.Dataset(items), subset_size=len(items))
