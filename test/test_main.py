# SPDX-License-Identifier: Apache-2.0
"""The list of verbs, and the error for an unknown one."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import surgseg_ros
from surgseg_ros import __main__ as commands

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(('arguments', 'status'), [([], 2), (['--help'], 0)])
def test_the_verbs_are_listed(
    arguments: list[str], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert commands.main(arguments) == status
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]]
    assert listed == list(commands.VERBS)


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(['--version']) == 0
    assert capsys.readouterr().out == f'surgseg_ros {surgseg_ros.__version__}\n'


def test_the_docs_list_every_verb() -> None:
    page = (ROOT / 'docs' / 'commands.md').read_text().split('\n## ')[0]
    assert set(re.findall(r'^\| `(\w+)` \|', page, re.MULTILINE)) == set(commands.VERBS)


def test_error_names_an_unknown_verb_and_the_existing_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert commands.main(['segment']) == 2
    text = capsys.readouterr().err
    assert "'segment'" in text
    assert all(verb in text for verb in commands.VERBS)


def test_the_arguments_reach_the_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    verb = commands.Verb('surgseg_ros.__main__:echo', 'gives back how many arguments it got')
    monkeypatch.setitem(commands.VERBS, 'echo', verb)
    monkeypatch.setattr(commands, 'echo', len, raising=False)
    assert commands.main(['echo', 'one', '--two']) == 2


IMPORTED_LATER = {'lightning', 'matplotlib', 'segmentation_models_pytorch', 'torch'}
"""Libraries whose import takes a second or more, which a verb imports when it needs them."""

WITH_TORCH = {'predict', 'evaluate_bag'}
"""Verbs whose options are those of modules that import torch."""


@pytest.mark.parametrize('verb', commands.VERBS)
def test_every_verb_prints_its_help_and_imports_little(verb: str) -> None:
    """In a new process, which imports only what the verb needs."""
    command = [sys.executable, '-X', 'importtime', '-m', 'surgseg_ros', verb, '--help']
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert f'usage: surgseg_ros {verb} ' in run.stdout
    lines = run.stderr.splitlines()
    assert not [line for line in lines if not line.startswith('import time:')]
    imported = {line.rpartition('|')[2].strip() for line in lines}
    assert imported & IMPORTED_LATER <= ({'torch'} if verb in WITH_TORCH else set())
