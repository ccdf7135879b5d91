# SPDX-License-Identifier: Apache-2.0
"""CONTRIBUTING.md names existing files, and what is in them."""

import re
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]
TEXT: Final = (ROOT / 'CONTRIBUTING.md').read_text(encoding='utf-8')
HOW_TO: Final = TEXT[TEXT.index('## How to find things') : TEXT.index('## Everyday commands')]
CODED: Final = sorted(set(re.findall('`([^`\n]+)`', HOW_TO)))
PATHS: Final = [text for text in CODED if re.fullmatch(r'[\w/.]+(/|\.(py|yaml|md|xml))', text)]
PLACED: Final = sorted(set(re.findall(r'`([\w.]+)`(?: and `([\w.]+)`)? \(`([\w/.]+)`\)', HOW_TO)))


def located(path: str) -> Path | None:
    candidates = (ROOT / folder / path for folder in ('', 'surgseg_ros', 'test'))
    return next((each for each in candidates if each.exists()), None)


@pytest.mark.parametrize('path', PATHS)
def test_a_path_exists(path: str) -> None:
    assert located(path)


@pytest.mark.parametrize(('name', 'another', 'path'), PLACED)
def test_a_name_is_in_its_file(name: str, another: str, path: str) -> None:
    file = located(path)
    assert file
    words = set(re.findall(r'\w+', file.read_text(encoding='utf-8')))
    assert {*name.split('.'), *filter(None, another.split('.'))} <= words


def test_enough_is_found() -> None:
    assert len(PATHS) > 50
    assert len(PLACED) > 20
