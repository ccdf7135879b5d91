# SPDX-License-Identifier: Apache-2.0
"""Which instructions torch and oneDNN use on this CPU, as the two libraries say themselves."""

import contextlib
import functools
import os
import re
import subprocess
import sys
from typing import Final

import torch

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
