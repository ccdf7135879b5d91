# SPDX-License-Identifier: Apache-2.0
"""Builds vision_msgs in an environment that has ROS 2 from PyPI."""

import os
import re
import shutil
import sysconfig
from collections.abc import Callable
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
PACKAGE = FOLDER / 'vision_msgs'


def sources() -> list[Path]:
    """List the sources of the build besides the messages."""
    return [Path(__file__), *sorted(PACKAGE.iterdir())]


def build(messages: Path, prefix: Path, run: Callable[..., None]) -> None:
    """
    Build vision_msgs with CMake, and install it.

    :param messages: the folder of the .msg files.
    :param prefix: the environment, in which the bootstrapper of the wheels finds libraries.
    :param run: runs a command, and raises if it fails.
    """
    mend_paths(prefix)
    work = prefix / 'build_vision_msgs'
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(PACKAGE, work / 'source')
    shutil.copytree(messages, work / 'source' / 'msg')
    env = {
        **os.environ,
        'AMENT_PREFIX_PATH': str(prefix),
        'CMAKE_PREFIX_PATH': str(prefix),
        'PATH': f'{prefix / "bin"}{os.pathsep}{os.environ["PATH"]}',
    }
    cmake = prefix / 'bin' / 'cmake'
    settings = {
        'CMAKE_BUILD_TYPE': 'Release',
        'CMAKE_INSTALL_PREFIX': prefix,
        'Python3_EXECUTABLE': prefix / 'bin' / 'python',
    }
    defined = [f'-D{name}={value}' for name, value in settings.items()]
    run(cmake, '-G', 'Ninja', '-S', work / 'source', '-B', work / 'build', *defined, env=env)
    run(cmake, '--build', work / 'build', env=env)
    run(cmake, '--install', work / 'build', env=env)
    shutil.rmtree(work)


def mend_paths(prefix: Path) -> None:
    """Replace the folders of the build image in the wheels' CMake files with this Python's."""
    version = sysconfig.get_python_version()
    image = r'/opt/python/cp\d+-cp\d+'
    for folder in (prefix / 'share', prefix / 'lib' / 'cmake'):
        for path in folder.rglob('*.cmake'):
            text = path.read_text()
            mended = re.sub(
                rf'{image}/include/python{version}', sysconfig.get_path('include'), text
            )
            packages = str(prefix / 'lib' / f'python{version}' / 'site-packages')
            mended = re.sub(rf'{image}/lib/python{version}/site-packages', packages, mended)
            if mended != text:
                fresh = path.with_suffix('.mended')
                fresh.write_text(mended)
                fresh.replace(path)
