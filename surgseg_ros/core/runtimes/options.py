# SPDX-License-Identifier: Apache-2.0
"""What a person may choose about how a network runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch

from surgseg_ros.core.exports import PRECISIONS

AUTO: Final = 'auto'

TORCH_PRECISIONS: Final[Mapping[str, torch.dtype]] = {
    'f32': torch.float32,
    'bf16': torch.bfloat16,
    'f16': torch.float16,
}
"""What torch can compute a network in, whatever it was trained in."""

CHOICES: Final = (AUTO, *dict.fromkeys((*TORCH_PRECISIONS, *PRECISIONS)))
"""Precisions that some runtime has."""


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
