# SPDX-License-Identifier: Apache-2.0
"""From a device as a person names it to one that this machine has."""

import torch


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
