# SPDX-License-Identifier: Apache-2.0
"""The runtimes of networks: one Protocol, one dict."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from surgseg_ros.core.model_folder import ModelSpec
from surgseg_ros.core.runtimes.choice import choose_runtime
from surgseg_ros.core.runtimes.onnx import OnnxRuntime
from surgseg_ros.core.runtimes.openvino import OpenVinoRuntime
from surgseg_ros.core.runtimes.pytorch import TorchRuntime
from surgseg_ros.core.runtimes.selection import AUTO, CHOICES, Options, Runtime, choose_device

__all__ = [
    'AUTO',
    'CHOICES',
    'RUNTIMES',
    'Options',
    'Runtime',
    'TorchRuntime',
    'choose_device',
    'load_runtime',
]

RUNTIMES: Final[Mapping[str, Callable[[Path, ModelSpec, Options], Runtime]]] = {
    'torch': TorchRuntime.load,
    'openvino': OpenVinoRuntime,
    'onnxruntime': OnnxRuntime,
}
"""By name, what makes a runtime from a model folder, its specification and the options."""


def load_runtime(
    folder: Path, spec: ModelSpec, runtime: str = AUTO, options: Options | None = None
) -> Runtime:
    """
    Make a runtime; it compiles here, not when it is called.

    :param folder: the model folder.
    :param spec: its specification.
    :param runtime: a key of RUNTIMES, or AUTO; the choice and its reason are in the description.
    :param options: device, precision and images; None: all automatic.
    :return: the runtime.
    :raises ModelError: if the folder cannot be used, or holds no export for this runtime.
    :raises ValueError: if the machine has no such device or library, or there is no such runtime.
    """
    options = options or Options()
    if runtime == AUTO:
        name, reason = choose_runtime(spec, options.device)
        made = RUNTIMES[name](folder, spec, options)
        made.description += f' (auto: {reason})'
        return made
    if runtime not in RUNTIMES:
        raise ValueError(f'runtime is {runtime!r}, expected one of {", ".join((AUTO, *RUNTIMES))}')
    return RUNTIMES[runtime](folder, spec, options)
