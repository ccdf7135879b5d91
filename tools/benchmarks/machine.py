# SPDX-License-Identifier: Apache-2.0
"""Names what a benchmark's numbers hold for."""

import platform
from collections.abc import Sequence
from importlib.metadata import version

from surgseg_ros.benchmarking.floors import processor


def describe(where: str, packages: Sequence[str]) -> str:
    """
    Name processor and versions.

    :param where: what of the machine is in use, such as `one core`.
    :param packages: which versions matter.
    :return: a line.
    """
    versions = ', '.join(f'{name} {version(name)}' for name in packages)
    return f'{processor()}, {where}; Python {platform.python_version()}, {versions}'
