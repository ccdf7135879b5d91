# SPDX-License-Identifier: Apache-2.0
"""Errors of set-up if something is missing or incompatible: one line, and no changes."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from started import running

TOOLS = Path(__file__).resolve().parents[3] / 'tools' / 'ros_from_pypi'
ROS_VARIABLES = ('AMENT_PREFIX_PATH', 'ROS_DISTRO', 'CC', 'CXX', 'PYTHON')


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Make a checkout that has only the set-up."""
    shutil.copytree(TOOLS, tmp_path / 'tools' / 'ros_from_pypi')
    (tmp_path / 'setup.py').touch()
    return tmp_path


def set_up(checkout: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run set-up with this Python, without ROS 2 unless `variables` set it."""
    plain = {name: value for name, value in os.environ.items() if name not in ROS_VARIABLES}
    return subprocess.run(
        ['sh', 'tools/ros_from_pypi/set_up.sh'],
        cwd=checkout,
        env={**plain, 'PYTHON': sys.executable, **variables},
        capture_output=True,
        text=True,
    )


def refusal(checkout: Path, **variables: str) -> str:
    """Run a set-up that must fail with one line, and return the line."""
    run = set_up(checkout, **variables)
    assert run.returncode == 1
    (line,) = (run.stdout + run.stderr).splitlines()
    assert line.startswith('make setup: ')
    return line


def stamped(checkout: Path, **changes: str) -> Path:
    """Write the stamp of a finished set-up, with `changes`."""
    (checkout / '.venv' / 'bin').mkdir(parents=True)
    (checkout / '.venv' / 'bin' / 'python').touch()
    version = f'{sys.version_info.major}.{sys.version_info.minor}'
    stamp = {'root': str(checkout), 'ros': '', 'python': version, 'packages': 'old'}
    path = checkout / '.venv' / 'set_up.json'
    path.write_text(json.dumps({**stamp, **changes}))
    return path


def fake_python(folder: Path, version: tuple[int, int]) -> Path:
    """Make a program that passes the version check as that Python."""
    path = folder / 'python'
    replaced = f'import sys; sys.version_info = {version}; exec(sys.argv[1])'
    path.write_text(
        f'#!/bin/sh\n'
        f'[ "$1" = --version ] && echo "Python {version[0]}.{version[1]}.0" && exit\n'
        f'exec {sys.executable} -c \'{replaced}\' "$2"\n'
    )
    path.chmod(0o755)
    return path


@pytest.mark.parametrize('version', [(2, 7), (3, 9), (3, 14)])
def test_rejects_an_unsupported_python(checkout: Path, version: tuple[int, int]) -> None:
    text = refusal(checkout, PYTHON=str(fake_python(checkout, version)))
    assert 'Python 3.10 to 3.13 is needed' in text
    assert f'is {version[0]}.{version[1]}.0' in text


def test_rejects_a_missing_python(checkout: Path) -> None:
    assert 'no_such_python is not there' in refusal(checkout, PYTHON='no_such_python')


@pytest.mark.parametrize('variable', ['CC', 'CXX'])
def test_rejects_a_missing_compiler(checkout: Path, variable: str) -> None:
    text = refusal(checkout, **{variable: 'no_such_compiler'})
    assert 'the compiler no_such_compiler is missing' in text
    assert not (checkout / '.venv').exists()


def test_rejects_missing_headers(checkout: Path) -> None:
    (checkout / 'sitecustomize.py').write_text(
        'import sysconfig\n'
        'real = sysconfig.get_path\n'
        "sysconfig.get_path = lambda name: '/nowhere' if name == 'include' else real(name)\n"
    )
    text = refusal(checkout, PYTHONPATH=str(checkout))
    assert '/nowhere/Python.h is missing' in text
    assert not (checkout / '.venv').exists()


def test_rejects_a_ros_of_another_python(checkout: Path) -> None:
    (checkout / 'rclpy.py').write_text('raise ImportError')
    variables = {'ROS_DISTRO': 'humble', 'AMENT_PREFIX_PATH': '/opt/ros/humble'}
    text = refusal(checkout, PYTHONPATH=str(checkout), **variables)
    assert 'ROS 2 humble is sourced' in text
    assert 'cannot import rclpy' in text


def test_an_environment_that_it_did_not_create_is_not_changed(checkout: Path) -> None:
    (checkout / '.venv').mkdir()
    mine = checkout / '.venv' / 'mine'
    mine.touch()
    assert 'was not created by make setup' in refusal(checkout)
    assert mine.exists()


def test_two_ros_installations_are_not_mixed(checkout: Path) -> None:
    stamp = stamped(checkout, ros='jazzy')
    before = stamp.read_text()
    assert 'made for jazzy, and there is no ROS 2 sourced now' in refusal(checkout)
    assert stamp.read_text() == before


def test_two_pythons_are_not_mixed(checkout: Path) -> None:
    stamped(checkout, python='3.7')
    assert '.venv has Python 3.7' in refusal(checkout)


def test_an_incomplete_environment_is_created_again(checkout: Path) -> None:
    """It ends at the missing package; this checks that nothing of the old one is left."""
    stamp = stamped(checkout)
    left = json.loads(stamp.read_text())
    del left['packages']
    stamp.write_text(json.dumps(left))
    (checkout / '.venv' / 'half').touch()
    run = set_up(checkout, PIP_NO_INDEX='1')
    assert run.returncode == 1
    assert (checkout / '.venv' / 'pyvenv.cfg').exists()
    assert not (checkout / '.venv' / 'half').exists()
    assert not (checkout / '.venv.discarded').exists()
    assert 'packages' not in json.loads(stamp.read_text())


def test_a_second_set_up_waits_for_the_first(checkout: Path) -> None:
    stamped(checkout, python='3.7')
    environment = {**os.environ, 'PYTHON': sys.executable}
    for name in ('AMENT_PREFIX_PATH', 'ROS_DISTRO'):
        environment.pop(name, None)
    with (checkout / '.venv.lock').open('w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = ['sh', 'tools/ros_from_pypi/set_up.sh']
        pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.STDOUT, 'text': True}
        with running(command, cwd=checkout, env=environment, **pipes) as second:
            assert second.stdout is not None
            assert 'waiting for another set-up' in second.stdout.readline()
            assert second.poll() is None
            fcntl.flock(lock, fcntl.LOCK_UN)
            assert '.venv has Python 3.7' in second.communicate()[0]


def test_a_long_command_shows_its_progress(checkout: Path) -> None:
    (checkout / '.venv').mkdir()
    script = checkout / 'try.py'
    script.write_text(
        'import sys\n'
        'import set_up\n'
        'set_up.SILENCE_S = 0.01\n'
        'talk = "print(\'Downloading torch\', flush=True); input()"\n'
        'set_up.Runner(sys.stdout.fileno())(sys.executable, "-c", talk)\n'
    )
    tools = str(checkout / 'tools' / 'ros_from_pypi')
    pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE, 'text': True}
    environment = {**os.environ, 'PYTHONPATH': tools}
    with running([sys.executable, script], env=environment, **pipes) as process:
        lines = iter(process.stdout.readline, '')
        assert any(line.endswith(' s  Downloading torch\n') for line in lines)
        assert any(line.endswith(' s  Downloading torch\n') for line in lines), 'again'
        process.communicate('\n')
    assert process.returncode == 0
