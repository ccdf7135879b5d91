# SPDX-License-Identifier: Apache-2.0
"""The lock for CI: it fits setup.py, is used where asked for, and never stands in the way."""

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
    """Read the lists in setup.py, but for what set-up does not install."""
    text = (ROOT / 'setup.py').read_text().split('\nNAME')[1].split('\ndef ')[0]
    text = re.sub(r"'fuzz': \[.*?\],", '', text, flags=re.DOTALL)
    return [
        Requirement(entry) for entry in re.findall(r"^ +'([^']+[<>=][^']+)',", text, re.MULTILINE)
    ]


@pytest.mark.parametrize('path', LOCKS, ids=lambda path: path.stem)
def test_the_lock_has_all_that_is_asked_for_within_its_bounds(path: Path) -> None:
    have = locked(path)
    assert len(asked()) > 30
    for requirement in asked():
        version = have.get(canonicalize_name(requirement.name))
        remedy = f'{requirement}, {version}: make setup, then python -m tools.lock'
        assert version is not None, remedy
        assert requirement.specifier.contains(version, prereleases=True), remedy


def test_what_is_installed_is_found_with_what_it_needs_in_turn() -> None:
    found = versions('surgseg_ros')
    assert {'numpy', 'torch', 'pytest', 'sympy'} <= set(found)  # sympy is what torch needs
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
def test_it_is_used_where_it_is_asked_for_and_fits(
    set_up: ModuleType, monkeypatch: pytest.MonkeyPatch, asks: str, ros: str, count: int
) -> None:
    monkeypatch.setenv('LOCKED', asks)
    assert len(set_up.lock_files(ros)) == count


def test_another_python_has_no_lock(set_up: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('LOCKED', '1')
    monkeypatch.setattr(set_up.sysconfig, 'get_python_version', lambda: '3.99')
    assert set_up.lock_files('') == []


@pytest.mark.parametrize('fails', [False, True])
def test_where_a_version_is_not_to_be_had_it_is_reported_and_done_without(
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
