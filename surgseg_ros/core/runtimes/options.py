# SPDX-License-Identifier: Apache-2.0
"""What a person may choose about how a network runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch

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
