# SPDX-License-Identifier: Apache-2.0
"""Names what a benchmark's numbers hold for."""

import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path


def describe(where: str, packages: Sequence[str]) -> str:
    """
    Name processor and versions.

    :param where: what of the machine is in use, such as `one core`.
    :param packages: which versions matter.
    :return: a line.
    """
    cpus = Path('/proc/cpuinfo').read_text().splitlines()
    names = [line.split(':')[1].strip() for line in cpus if line.startswith('model name')]
    versions = ', '.join(f'{name} {version(name)}' for name in packages)
    processor = names[0] if names else platform.machine()
    return f'{processor}, {where}; Python {platform.python_version()}, {versions}'
