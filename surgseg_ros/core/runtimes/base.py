# SPDX-License-Identifier: Apache-2.0
"""What runtimes share: their protocol, devices, precisions, instruction sets, and exports."""

import contextlib
import functools
import importlib
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from torch import Tensor

from surgseg_ros.core.model_folder import EXPORT_FILES, ModelError, ModelSpec, read_checked
from surgseg_ros.core.parameters import AUTO, PRECISIONS

__all__ = ['AUTO', 'PRECISIONS', 'TORCH_DTYPES', 'RuntimeOptions']

TORCH_DTYPES: Final[Mapping[str, torch.dtype]] = {
    'f32': torch.float32,
    'bf16': torch.bfloat16,
    'f16': torch.float16,
}
"""The torch.dtype of each of TORCH_PRECISIONS of core/parameters.py."""


@dataclass(frozen=True)
class RuntimeOptions:
    """
    How to run a network.

    :param device: `auto`, `cpu`, `cuda`, `cuda:1` …
    :param precision: one of PRECISIONS; `auto` is that of the export, without one float32.
    :param max_batch_size: the maximum number of images per call, at least 1.
    :param quickest: whether `auto` may be a reduced precision without an export: for torch on CUDA
        bfloat16 (float16 on GPUs that lack it); on a CPU that in which OpenVINO is quicker and
        finds the same classes.
    """

    device: str = AUTO
    precision: str = AUTO
    max_batch_size: int = 1
    quickest: bool = False


class Runtime(Protocol):
    """A loaded network on a device."""

    device: torch.device
    precision: str
    """One of PRECISIONS, but not `auto`."""
    description: str
    """Runtime, precision and device, as a text."""
    max_batch_size: int
    """Number of images up to which one call is faster than several; more may not be supported."""

    def __call__(self, inputs: Tensor) -> Tensor:
        """
        Compute the logits of resized images.

        :param inputs: (N, h, w, 3) uint8 RGB on `device`.
        :return: (N, CLASS_COUNT, h, w) float logits on `device`, valid until the next
            call: some runtimes reuse the memory.
        """
        ...


_SUPPORT: Final = {'bf16': '_is_mkldnn_bf16_supported', 'f16': '_is_mkldnn_fp16_supported'}
"""Functions of torch that query oneDNN; there is none for int8."""

ONEDNN_LIMITS: Final = ('ONEDNN_MAX_CPU_ISA', 'DNNL_MAX_CPU_ISA')
"""Environment variables that limit the instruction set of oneDNN."""

_ASK_ONEDNN: Final = 'import torch; torch.ones(8, 8).to_mkldnn()'
_ANSWER_S: Final = 30.0


def instruction_set() -> str:
    """
    Return the instruction sets in use, which may be fewer than the processor has.

    ATEN_CPU_CAPABILITY limits torch's own kernels, and ONEDNN_MAX_CPU_ISA those of oneDNN, which
    computes matrix products and convolutions.

    :return: a description such as `torch AVX2; oneDNN Intel AVX2`.
    """
    return f'torch {torch.backends.cpu.get_cpu_capability()}; oneDNN {_onednn_isa()}'


def has_instructions(precision: str) -> bool:
    """
    Return whether oneDNN reports instructions for a precision on this CPU.

    :param precision: `f32`, `bf16`, `f16` or `int8`.
    :return: True if it does; always for float32, and for int8, for which oneDNN has kernels on any
        CPU, fast or not. With AVX-512 but without its extension for bfloat16, oneDNN also reports
        bfloat16, and emulates it: then False.
    """
    if precision not in _SUPPORT:
        return True
    if precision == 'bf16' and platform.machine() in _X86 and not _has_avx512_bf16():
        return False
    with contextlib.suppress(AttributeError, RuntimeError):  # a torch without one of them
        return bool(getattr(torch.ops.mkldnn, _SUPPORT[precision])())
    return False


_X86: Final = ('x86_64', 'AMD64')


def _has_avx512_bf16() -> bool:
    """Query the processor; a torch that cannot leaves the answer to oneDNN."""
    query = getattr(torch.cpu, '_is_avx512_bf16_supported', None)
    return query is None or bool(query())


def is_limited() -> bool:
    """Return whether the environment limits the instruction set of oneDNN."""
    return any(os.environ.get(name) for name in ONEDNN_LIMITS)


@functools.cache
def _onednn_isa() -> str:
    """Query oneDNN, which prints its instruction set only to the standard output of a process."""
    try:
        completed = subprocess.run(
            [sys.executable, '-c', _ASK_ONEDNN],
            env={**os.environ, 'ONEDNN_VERBOSE': '1'},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_ANSWER_S,
        )
    except subprocess.TimeoutExpired:
        return f'did not answer within {_ANSWER_S:g} s'
    found = re.search(r',info,cpu,isa:(.+)', completed.stdout)
    return found[1].strip() if found else 'instruction set unknown'


def choose_device(device: str) -> str:
    """
    Resolve the name of a device, and check that this machine has it.

    :param device: `auto` (CUDA if available), `cpu`, `cuda`, `cuda:1` …
    :return: a name that torch.device accepts.
    :raises ValueError: if the name is unknown, or the machine has no such device.
    """
    if device == 'auto':
        return 'cuda' if torch.cuda.is_available() else 'cpu'
    try:
        parsed = torch.device(device)
    except RuntimeError:
        parsed = None
    if parsed is None or parsed.type not in ('cpu', 'cuda'):
        raise ValueError(f'device is {device!r}, expected auto, cpu, cuda or cuda:N')
    if parsed.type == 'cuda' and (parsed.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f'device is {device!r}, but torch sees {torch.cuda.device_count()} CUDA devices here: '
            "check the driver with nvidia-smi, or set device to 'cpu'"
        )
    return device


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
    :return: one of EXPORT_PRECISIONS, and the content of the files in the order of EXPORT_FILES.
    :raises ModelError: if the folder has no such export, or one of another precision, or a file
        is missing or changed.
    """
    if backend not in spec.exports:
        raise ModelError(
            f'{folder}: the model has no export for {backend}; make one: python -m surgseg_ros '
            f'export --model {folder} --backend {backend} --precision '
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


def one_by_one(run: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """
    Run a network that takes a single image on a batch.

    :param run: maps (1, h, w, 3) to logits, whose memory it may reuse.
    :param inputs: (N, h, w, 3).
    :return: (N, CLASS_COUNT, h, w) logits; for one image, those of `run` without a copy.
    """
    if len(inputs) == 1:
        return run(inputs)
    return torch.cat([run(image[None]).clone() for image in inputs])
