# SPDX-License-Identifier: Apache-2.0
"""What runs a network, and which device, precision and instruction set it uses."""

import contextlib
import functools
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import torch
from torch import Tensor

from surgseg_ros.core.choices import AUTO
from surgseg_ros.core.choices import PRECISIONS as CHOICES

__all__ = ['AUTO', 'CHOICES', 'TORCH_PRECISIONS', 'Options']

TORCH_PRECISIONS: Final[Mapping[str, torch.dtype]] = {
    'f32': torch.float32,
    'bf16': torch.bfloat16,
    'f16': torch.float16,
}
"""Torch's type of each of `choices.TORCH_PRECISIONS`."""


@dataclass(frozen=True)
class Options:
    """
    How a network is to run.

    :param device: `auto`, `cpu`, `cuda`, `cuda:1` …
    :param precision: one of CHOICES; `auto` is what an export has, and for torch bfloat16 on CUDA
        (float16 on GPUs that lack it) and float32 on the CPU.
    :param pictures: as many as may come in one pass, at least 1.
    """

    device: str = AUTO
    precision: str = AUTO
    pictures: int = 1


class Runtime(Protocol):
    """A loaded network on a device."""

    device: torch.device
    description: str
    """Runtime, precision and device, for people."""
    max_batch_size: int
    """So many in one pass are quicker than one after another; more are not, or not possible."""

    def __call__(self, fitted: Tensor) -> Tensor:
        """
        Find the logits of fitted images.

        :param fitted: (N, h, w, 3) uint8 RGB on `device`.
        :return: (N, CLASS_COUNT, h, w) float logits on `device`, until the next call: some
            runtimes write all of theirs to the same memory.
        """
        ...


_SUPPORT: Final = {'bf16': '_is_mkldnn_bf16_supported', 'f16': '_is_mkldnn_fp16_supported'}
"""Operators of torch that ask oneDNN; it has none for int8."""

_LIMITS: Final = ('ONEDNN_MAX_CPU_ISA', 'DNNL_MAX_CPU_ISA')

_ASK_ONEDNN: Final = 'import torch; torch.ones(8, 8).to_mkldnn()'
_ANSWER_S: Final = 30.0


def instruction_set() -> str:
    """
    Name the instruction sets in use, which need not be all that the processor has.

    ATEN_CPU_CAPABILITY limits torch's own kernels, and ONEDNN_MAX_CPU_ISA those of oneDNN, which
    does the products of matrices and the convolutions.

    :return: for people, `torch AVX2; oneDNN Intel AVX2` for example.
    """
    return f'torch {torch.backends.cpu.get_cpu_capability()}; oneDNN {_onednn_isa()}'


def has_instructions(precision: str) -> bool:
    """
    Tell whether oneDNN, by its own account, has instructions for a precision on this CPU.

    :param precision: `f32`, `bf16`, `f16` or `int8`.
    :return: whether it says so; always for float32, and for int8, which oneDNN has kernels for on
        any CPU, quick ones or not.
    """
    if precision not in _SUPPORT:
        return True
    with contextlib.suppress(AttributeError, RuntimeError):  # a torch without one of them
        return bool(getattr(torch.ops.mkldnn, _SUPPORT[precision])())
    return False


def is_limited() -> bool:
    """Tell whether the environment lets oneDNN use less than the processor has."""
    return any(os.environ.get(name) for name in _LIMITS)


@functools.cache
def _onednn_isa() -> str:
    """Ask oneDNN; it names its instruction set only to the standard output of a process."""
    try:
        asked = subprocess.run(
            [sys.executable, '-c', _ASK_ONEDNN],
            env={**os.environ, 'ONEDNN_VERBOSE': '1'},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_ANSWER_S,
        )
    except subprocess.TimeoutExpired:
        return f'did not answer within {_ANSWER_S:g} s'
    found = re.search(r',info,cpu,isa:(.+)', asked.stdout)
    return found[1].strip() if found else 'does not name its own'


def choose_device(device: str) -> str:
    """
    Turn a device as a person names it into one that this machine has.

    :param device: `auto` (CUDA where there is one), `cpu`, `cuda`, `cuda:1` …
    :return: a name that torch.device takes.
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
