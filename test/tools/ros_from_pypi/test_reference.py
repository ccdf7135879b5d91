# SPDX-License-Identifier: Apache-2.0
"""The reference environment: two packages of its own, all others from the base environment."""

import ast
import importlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[3]
TOOLS = ROOT / 'tools' / 'ros_from_pypi'
MODULES = ('reference', 'set_up', 'message_build', 'machine')


@pytest.fixture
def reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Import the module from a temporary checkout with a finished .venv."""
    shutil.copytree(TOOLS, tmp_path / 'tools' / 'ros_from_pypi')
    (tmp_path / '.venv').mkdir()
    (tmp_path / '.venv' / 'set_up.json').write_text(json.dumps({'ros': '', 'packages': 'a'}))
    monkeypatch.syspath_prepend(tmp_path / 'tools' / 'ros_from_pypi')
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module('reference')
    for name in MODULES:
        sys.modules.pop(name, None)


class FakeRunner:
    """Runs all commands but pip, which it replaces by writing a package."""

    def __init__(self) -> None:
        self.installed: list[tuple[str, ...]] = []

    def __call__(self, *command: str | Path) -> None:
        words = tuple(map(str, command))
        if 'pip' not in words:
            subprocess.run(words, check=True)
            return
        self.installed.append(words)
        package = Path(words[words.index('--target') + 1]) / 'numpy'
        package.mkdir()
        (package / '__init__.py').write_text("__version__ = 'of the reference'\n")


def test_its_own_packages_precede_those_of_the_base_environment(reference: ModuleType) -> None:
    run = FakeRunner()
    reference.make(run)
    (words,) = run.installed
    assert {'--no-deps', 'numpy==1.26.4', 'opencv-python-headless==4.6.0.66'} <= set(words)
    code = 'import numpy, rosbags, surgseg_ros, sys; print(numpy.__version__, rosbags.__file__)'
    reported = subprocess.run(
        [reference.FOLDER / 'bin' / 'python', '-c', code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    import rosbags

    assert reported.stdout == f'of the reference {rosbags.__file__}\n'


def test_the_environment_is_rebuilt_only_if_its_base_has_changed(reference: ModuleType) -> None:
    run = FakeRunner()
    for _ in range(2):
        reference.make(run)
    assert len(run.installed) == 1
    reference.STAMP.write_text(json.dumps({'ros': '', 'packages': 'b'}))
    reference.make(run)
    assert len(run.installed) == 2


def test_an_incomplete_environment_is_rebuilt(reference: ModuleType) -> None:
    def cut(*command: object) -> None:
        if 'pip' in command:
            raise reference.SetUpError('no network')
        FakeRunner()(*command)  # type: ignore[arg-type]

    with pytest.raises(reference.SetUpError):
        reference.make(cut)
    run = FakeRunner()
    reference.make(run)
    assert len(run.installed) == 1


def test_a_too_new_python_skips_with_that_reason(
    reference: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reference.sys, 'version_info', (3, 13, 1))
    assert reference.main() == 0
    text = capsys.readouterr().out
    assert 'skipped: numpy==1.26.4 exists up to Python 3.12, not 3.13' in text
    assert not reference.FOLDER.exists()


def test_the_tests_that_it_runs_exist(reference: ModuleType) -> None:
    for named in reference.TESTS:
        path, _, test = named.partition('::')
        assert (ROOT / path).exists()
        assert not test or f'def {test}(' in (ROOT / path).read_text()


def test_modules_whose_tests_it_leaves_out_call_neither_library(reference: ModuleType) -> None:
    for path, module in reference.LEFT_OUT.items():
        assert (ROOT / path).is_file()
        source = ast.parse((ROOT / 'surgseg_ros' / module).read_text())
        imports = {ast.unparse(node) for node in ast.walk(source) if is_import(node)}
        found = imports - {'from numpy.typing import NDArray'}
        assert not [line for line in found if re.search(r'\b(numpy|cv2)\b', line)], module


def is_import(node: ast.AST) -> bool:
    return isinstance(node, ast.Import | ast.ImportFrom)
