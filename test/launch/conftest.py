# SPDX-License-Identifier: Apache-2.0
"""The launch tool of ROS 2, and the package as installed, with executables that tests choose."""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROS2 = (sys.executable, '-c', 'import sys, ros2cli.cli; sys.exit(ros2cli.cli.main())')
LAUNCH = (*ROS2, 'launch', 'surgseg_ros')
TIMEOUT_S = 200.0

# Replaces an executable: by one that records its arguments, or by the real one.
STAND_IN = """#!{python}
import json, os, pathlib, sys
given = [pathlib.Path(sys.argv[i + 1]).read_text()
         for i, argument in enumerate(sys.argv) if argument == '--params-file']
note = {{'arguments': sys.argv[1:], 'parameters': given, 'environment': dict(os.environ)}}
pathlib.Path({note!r}).write_text(json.dumps(note))
"""
REAL = '#!/bin/sh\nexec {python} -m surgseg_ros {verb} "$@"\n'


@pytest.fixture
def prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install the package without executables; skip the test if there is no launch tool."""
    if importlib.util.find_spec('ros2launch') is None:
        pytest.skip('needs ros2launch: the launch tool of a ROS 2 installation')
    prefix = tmp_path / 'install'
    index = prefix / 'share/ament_index/resource_index/packages'
    index.mkdir(parents=True)
    (index / 'surgseg_ros').touch()
    for folder in ('launch', 'config'):
        shutil.copytree(ROOT / folder, prefix / 'share/surgseg_ros' / folder)
    (prefix / 'lib/surgseg_ros').mkdir(parents=True)
    prefixes = os.pathsep.join([str(prefix), os.environ.get('AMENT_PREFIX_PATH', '')])
    monkeypatch.setenv('AMENT_PREFIX_PATH', prefixes)
    paths = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
    monkeypatch.setenv('PYTHONPATH', paths)
    monkeypatch.setenv('ROS_LOG_DIR', str(tmp_path / 'log'))
    for variable in ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE'):
        monkeypatch.delenv(variable, raising=False)
    return prefix


@pytest.fixture
def install(prefix: Path, tmp_path: Path) -> Callable[..., None]:
    """Return a function that installs an executable: without a script, that of this package."""

    def install(verb: str, script: str = '', package: str = 'surgseg_ros') -> None:
        script = script or (REAL if package == 'surgseg_ros' else STAND_IN)
        (prefix / 'share/ament_index/resource_index/packages' / package).touch()
        path = prefix / 'lib' / package / verb
        path.parent.mkdir(exist_ok=True)
        note = str(tmp_path / f'{verb}.json')
        path.write_text(
            script.format(python=sys.executable, verb=verb, note=note, folder=tmp_path)
        )
        path.chmod(0o755)

    for verb in ('segmenter', 'bag_player'):
        install(verb, STAND_IN)
    return install


@pytest.fixture
def launching(install: Callable[..., None]) -> Callable[..., list[str]]:
    """Return a function that makes the command line of `ros2 launch` for a launch file."""
    return lambda name, *arguments: [*LAUNCH, f'{name}.launch.py', *arguments]


INCLUDER = """
import json, os
from pathlib import Path
from launch import LaunchDescription
from launch.actions import *
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import *

FOLDER = Path({folder!r})
SHARE = Path({share!r})

def ours(name, /, **arguments):
    source = PythonLaunchDescriptionSource(str(SHARE / 'launch' / f'{{name}}.launch.py'))
    return IncludeLaunchDescription(source, launch_arguments=arguments.items())

def note(name):
    def write(context):
        configurations = {{k: str(v) for k, v in context.launch_configurations.items()}}
        reported = {{'configurations': configurations, 'environment': dict(context.environment)}}
        (FOLDER / f'{{name}}.json').write_text(json.dumps(reported))
    return OpaqueFunction(function=write)

def generate_launch_description():
    return LaunchDescription([note('before'), {actions}, note('after')])
"""


@pytest.fixture
def include(
    install: Callable[..., None], prefix: Path, tmp_path: Path
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs a launch file with the given actions between two others."""

    def run(actions: str) -> subprocess.CompletedProcess[str]:
        path = tmp_path / 'includer.launch.py'
        share = str(prefix / 'share/surgseg_ros')
        path.write_text(INCLUDER.format(folder=str(tmp_path), share=share, actions=actions))
        return subprocess.run(
            [*ROS2, 'launch', str(path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
        )

    return run
