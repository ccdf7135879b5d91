# SPDX-License-Identifier: Apache-2.0
"""Describes the machine of a benchmark."""

import platform
from collections.abc import Sequence
from importlib.metadata import version

from surgseg_ros.benchmarking.floors import processor


def describe(where: str, packages: Sequence[str]) -> str:
    """
    Describe processor and versions.

    :param where: the part of the machine in use, such as `one core`.
    :param packages: packages whose versions are listed.
    :return: a line.
    """
    versions = ', '.join(f'{name} {version(name)}' for name in packages)
    return f'{processor()}, {where}; Python {platform.python_version()}, {versions}'
