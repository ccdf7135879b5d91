# SPDX-License-Identifier: Apache-2.0
"""Selection of the runtime of a network by name."""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from surgseg_ros.core.errors import first_line
from surgseg_ros.core.model_folder import ModelSpec
from surgseg_ros.core.runtimes.base import (
    AUTO,
    PRECISIONS,
    LibraryError,
    Runtime,
    RuntimeOptions,
    choose_device,
)
from surgseg_ros.core.runtimes.conversion import ConversionError
from surgseg_ros.core.runtimes.exported import OnnxRuntime, OpenVinoRuntime, has_tensorrt
from surgseg_ros.core.runtimes.pytorch import TorchRuntime

__all__ = [
    'AUTO',
    'PRECISIONS',
    'RUNTIMES',
    'Runtime',
    'RuntimeOptions',
    'TorchRuntime',
    'choose_device',
    'load_runtime',
    'simpler_options',
]

_LOG: Final = logging.getLogger(__name__)

RUNTIMES: Final[Mapping[str, Callable[[Path, ModelSpec, RuntimeOptions], Runtime]]] = {
    'torch': TorchRuntime.load,
    'openvino': OpenVinoRuntime.load,
    'onnxruntime': OnnxRuntime,
}
"""By name, the function that creates a runtime from model folder, specification and options."""


def load_runtime(
    folder: Path, spec: ModelSpec, runtime: str = AUTO, options: RuntimeOptions | None = None
) -> Runtime:
    """
    Create a runtime; it is compiled here, not when it is called.

    :param folder: the model folder.
    :param spec: its specification.
    :param runtime: a key of RUNTIMES, or AUTO; the choice and its reason are in the description.
    :param options: device, precision and images; None: all automatic.
    :return: the runtime.
    :raises ModelError: if the folder cannot be used, or not with this runtime.
    :raises ValueError: if the machine has no such device or library, or there is no such runtime
        or precision.
    """
    options = options or RuntimeOptions()
    if runtime not in (AUTO, *RUNTIMES):
        raise ValueError(f'runtime is {runtime!r}, expected one of {", ".join((AUTO, *RUNTIMES))}')
    if options.precision not in PRECISIONS:
        raise ValueError(
            f'precision is {options.precision!r}, expected one of {", ".join(PRECISIONS)}'
        )
    if runtime == AUTO:
        try:
            name, reason = choose_runtime(spec, options.device)
            made = RUNTIMES[name](folder, spec, options)
            if isinstance(made, OnnxRuntime) and not made.uses_tensorrt:  # torch is faster
                raise LibraryError(f'TensorRT cannot run the export, only {made.description}')
        except (ConversionError, LibraryError) as error:
            _LOG.warning('%s; torch is used instead', error)
            made, reason = TorchRuntime.load(folder, spec, options), first_line(error)
        made.description += f' (auto: {reason})'
        return made
    try:
        return RUNTIMES[runtime](folder, spec, options)
    except ConversionError as error:
        raise ConversionError(f"{folder}: {error}: set runtime to 'auto' or 'torch'") from error


def choose_runtime(spec: ModelSpec, device: str) -> tuple[str, str]:
    """
    Choose the fastest runtime that is installed and that the model folder supports.

    :param spec: the model folder's specification, which lists its exports.
    :param device: `auto`, `cpu`, `cuda`, `cuda:1` …
    :return: a key of RUNTIMES, and the reason as a text.
    :raises ValueError: if the machine has no such device.
    """
    if choose_device(device).startswith('cuda'):
        if 'onnx' in spec.exports and has_tensorrt():
            return 'onnxruntime', 'TensorRT is available, and the model has an ONNX export'
        return 'torch', 'CUDA is available'
    if not find_spec('openvino'):
        return 'torch', 'no CUDA, and openvino is not installed'
    if 'openvino' in spec.exports:
        return 'openvino', 'no CUDA, and the model has an OpenVINO export'
    return 'openvino', 'no CUDA'


def simpler_options(runtime: Runtime, name: str, options: RuntimeOptions) -> list[RuntimeOptions]:
    """
    List how torch could run a network instead, if `auto` chose how a GPU does.

    :param runtime: the runtime of the network.
    :param name: its requested name, or AUTO.
    :param options: its requested options.
    :return: options for torch, in the order in which to try them; none if nothing was chosen.
    """
    if runtime.device.type != 'cuda' or options.precision != AUTO or name not in (AUTO, 'torch'):
        return []
    plain = dataclasses.replace(options, precision='f32')
    simpler = [options, plain] if options.quickest else [plain]
    return simpler[1:] if isinstance(runtime, TorchRuntime) else simpler
