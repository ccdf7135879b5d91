# SPDX-License-Identifier: Apache-2.0
"""What this machine has: a ROS 2 that is sourced, a compiler, Python's headers."""

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
    """Set-up cannot go on; the message says why, and what to do."""


def sourced_ros() -> str:
    """Name the ROS 2 distribution that is sourced; '' where there is none."""
    return os.environ.get('ROS_DISTRO', '') if os.environ.get('AMENT_PREFIX_PATH') else ''


def check(ros: str) -> None:
    """
    Look for what set-up needs before it begins.

    :param ros: the distribution that is sourced, or ''.
    :raises SetUpError: the first thing that is missing, in one line.
    """
    version = f'{sys.version_info.major}.{sys.version_info.minor}'
    if importlib.util.find_spec('ensurepip') is None:
        raise SetUpError(f'venv is missing: sudo apt install python{version}-venv')
    if ros:
        _check_ros(ros)
    else:
        _check_build(version)


def constraints() -> str:
    """Keep NumPy 1 where the machine has it: the ROS 2 on it was compiled against that."""
    try:
        numpy = importlib.metadata.version('numpy')
    except importlib.metadata.PackageNotFoundError:
        return ''
    return 'numpy<2\n' if sourced_ros() and numpy.startswith('1.') else ''


def _check_ros(ros: str) -> None:
    """See that the sourced ROS 2 works with this Python, and has the messages."""
    for module, remedy in (
        ('rclpy', "PYTHON=/usr/bin/python3 make setup, or whichever Python is that ROS 2's"),
        ('vision_msgs.msg', 'rosdep install --from-paths . --ignore-src, then make setup'),
    ):
        command = [sys.executable, '-c', f'import {module}']
        if subprocess.run(command, capture_output=True).returncode:
            package = module.split('.')[0]
            raise SetUpError(
                f'ROS 2 {ros} is sourced, but {sys.executable} cannot import {package}: {remedy}'
            )


def _check_build(version: str) -> None:
    """See that the wheels are for this machine, and that vision_msgs can be compiled."""
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
