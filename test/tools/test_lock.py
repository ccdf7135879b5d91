# SPDX-License-Identifier: Apache-2.0
"""The lock for CI: it matches setup.py, is used on request, and never prevents installation."""

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools.lock import versions

ROOT = Path(__file__).resolve().parents[2]
SET_UP = ROOT / 'tools' / 'ros_from_pypi'
LOCKS = sorted(SET_UP.glob('lock-*.txt'))


def locked(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if not line.startswith('#')]
    return dict(line.split('==') for line in lines)


def asked() -> list[Requirement]:
    """Read the requirements in setup.py, except those that set-up does not install."""
    text = (ROOT / 'setup.py').read_text().split('\nNAME')[1].split('\ndef ')[0]
    text = re.sub(r"'fuzz': \[.*?\],", '', text, flags=re.DOTALL)
    return [
        Requirement(entry) for entry in re.findall(r"^ +'([^']+[<>=][^']+)',", text, re.MULTILINE)
    ]


@pytest.mark.parametrize('path', LOCKS, ids=lambda path: path.stem)
def test_the_lock_satisfies_all_requirements(path: Path) -> None:
    have = locked(path)
    assert len(asked()) > 30
    for requirement in asked():
        version = have.get(canonicalize_name(requirement.name))
        remedy = f'{requirement}, {version}: make setup, then python -m tools.lock'
        assert version is not None, remedy
        assert requirement.specifier.contains(version, prereleases=True), remedy


def test_installed_packages_are_found_with_their_dependencies() -> None:
    found = versions('surgseg_ros')
    assert {'numpy', 'torch', 'pytest', 'sympy'} <= set(found)  # sympy is a dependency of torch
    assert not {'atheris', 'surgseg-ros'} & set(found)


@pytest.fixture
def set_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(SET_UP))
    module = importlib.import_module('set_up')
    monkeypatch.setattr(module, 'VENV', tmp_path)
    monkeypatch.setattr(module, 'FOLDER', tmp_path)
    version = f'{sys.version_info.major}.{sys.version_info.minor}'
    (tmp_path / f'lock-{version}.txt').write_text('numpy==2.0\n')
    yield module
    for name in ('set_up', 'machine', 'message_build'):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ('asks', 'ros', 'count'), [('1', '', 1), ('1', 'jazzy', 0), ('0', '', 0), ('', '', 0)]
)
def test_the_lock_is_used_if_requested_and_compatible(
    set_up: ModuleType, monkeypatch: pytest.MonkeyPatch, asks: str, ros: str, count: int
) -> None:
    monkeypatch.setenv('LOCKED', asks)
    assert len(set_up.lock_files(ros)) == count


def test_there_is_no_lock_for_another_python(
    set_up: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('LOCKED', '1')
    monkeypatch.setattr(set_up.sysconfig, 'get_python_version', lambda: '3.99')
    assert set_up.lock_files('') == []


@pytest.mark.parametrize('fails', [False, True])
def test_an_unavailable_version_is_reported_and_the_lock_is_not_used(
    set_up: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fails: bool,
) -> None:
    monkeypatch.setenv('LOCKED', '1')
    calls = []

    def run(*command: object) -> None:
        calls.append(' '.join(map(str, command)))
        if fails and 'lock-' in calls[-1]:
            raise set_up.SetUpError('no numpy==2.0')

    set_up.install('test', run, set_up.lock_files(''))
    assert '--upgrade pip' in calls[0]
    assert 'lock-' in calls[1]
    assert len(calls) == 2 + fails
    assert 'lock-' not in ''.join(calls[2:])
    assert ('no numpy==2.0' in capsys.readouterr().out) == fails
