# SPDX-License-Identifier: Apache-2.0
"""Checks the requirements of this machine: a sourced ROS 2, a compiler, Python's headers."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path


class SetUpError(Exception):
    """Set-up cannot continue; the message has the reason and a remedy."""


def sourced_ros() -> str:
    """Return the name of the sourced ROS 2 distribution; '' if there is none."""
    return os.environ.get('ROS_DISTRO', '') if os.environ.get('AMENT_PREFIX_PATH') else ''


def check(ros: str) -> None:
    """
    Check the requirements of set-up before it starts.

    :param ros: the sourced distribution, or ''.
    :raises SetUpError: for the first missing requirement, in one line.
    """
    version = f'{sys.version_info.major}.{sys.version_info.minor}'
    if importlib.util.find_spec('ensurepip') is None:
        raise SetUpError(f'venv is missing: sudo apt install python{version}-venv')
    if ros:
        _check_ros(ros)
    else:
        _check_build(version)


def constraints() -> str:
    """Keep NumPy 1 if the machine has it: its ROS 2 was compiled against that version."""
    try:
        numpy = importlib.metadata.version('numpy')
    except importlib.metadata.PackageNotFoundError:
        return ''
    return 'numpy<2\n' if sourced_ros() and numpy.startswith('1.') else ''


def _check_ros(ros: str) -> None:
    """Check that the sourced ROS 2 works with this Python, and that its messages exist."""
    for module, remedy in (
        ('rclpy', 'PYTHON=/usr/bin/python3 make setup, or the Python of that ROS 2'),
        ('vision_msgs.msg', 'rosdep install --from-paths . --ignore-src, then make setup'),
    ):
        command = [sys.executable, '-c', f'import {module}']
        if subprocess.run(command, capture_output=True).returncode:
            package = module.split('.')[0]
            raise SetUpError(
                f'ROS 2 {ros} is sourced, but {sys.executable} cannot import {package}: {remedy}'
            )


def _check_build(version: str) -> None:
    """Check that the wheels support this machine, and that vision_msgs can be compiled."""
    kind = f'{platform.system()} on {platform.machine()}'
    if kind != 'Linux on x86_64':
        raise SetUpError(
            f'ROS 2 from PyPI is for Linux on x86_64, not {kind}: install ROS 2 and source it'
        )
    for variable, compiler in (('CC', 'cc'), ('CXX', 'c++')):
        name = os.environ.get(variable) or compiler
        if shutil.which(name.split()[0]) is None:
            raise SetUpError(f'the compiler {name} is missing: sudo apt install build-essential')
    header = Path(sysconfig.get_path('include')) / 'Python.h'
    if not header.is_file():
        raise SetUpError(f'{header} is missing: sudo apt install python{version}-dev')
