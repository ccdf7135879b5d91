# SPDX-License-Identifier: Apache-2.0
"""What every runtime does."""

from typing import Protocol

import torch
from torch import Tensor


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
