# SPDX-License-Identifier: Apache-2.0
"""The list of verbs, and what a wrong one gets."""

import pytest

from surgseg_ros import __main__ as commands


@pytest.mark.parametrize(('arguments', 'status'), [([], 2), (['--help'], 0)])
def test_the_verbs_are_listed(
    arguments: list[str], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert commands.main(arguments) == status
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]]
    assert listed == list(commands.VERBS)


def test_a_wrong_verb_is_named_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(['segment']) == 2
    said = capsys.readouterr().err
    assert "'segment'" in said
    assert all(verb in said for verb in commands.VERBS)


def test_the_arguments_reach_the_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    verb = commands.Verb('surgseg_ros.__main__:echo', 'gives back how many arguments it got')
    monkeypatch.setitem(commands.VERBS, 'echo', verb)
    monkeypatch.setattr(commands, 'echo', len, raising=False)
    assert commands.main(['echo', 'one', '--two']) == 2
