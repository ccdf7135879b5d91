# SPDX-License-Identifier: Apache-2.0
"""The table of hazards names existing tests, and documented limits are those of the code."""

import ast
import re
from pathlib import Path

import pytest

from surgseg_ros.core import model_folder
from surgseg_ros.core.gates import GATES
from surgseg_ros.messages.images import MAX_PIXELS, MAX_SIDE_PX
from tools.fuzz.checks import LONGEST_TEXT

ROOT = Path(__file__).resolve().parents[1]
SAFETY = (ROOT / 'docs' / 'safety.md').read_text()
SECURITY = (ROOT / 'docs' / 'security.md').read_text()
HAZARDS = re.findall(r'^\| .* \|$', SAFETY.split('## Hazards')[1].split('\n## ')[0], re.MULTILINE)[
    2:
]


@pytest.mark.parametrize('row', HAZARDS, ids=lambda row: row.split('|')[1].strip()[:40])
def test_every_hazard_has_cause_mitigation_and_existing_tests(row: str) -> None:
    *reported, tests = [cell.strip() for cell in row.strip('|').split('|')]
    assert len(reported) == 3
    assert all(reported)
    named = re.findall(r'`([^`]+)`', tests)
    assert named
    assert re.sub(r'`[^`]+`', '', tests).strip() == ''
    for name in named:
        path, _, function = name.partition('::')
        tree = ast.parse((ROOT / 'test' / path).read_text())
        assert function in {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}, name


def test_the_table_of_hazards_is_found() -> None:
    assert len(HAZARDS) > 10


def test_the_limits_are_those_of_the_code() -> None:
    assert MAX_PIXELS == 100_000_000
    assert '100 million pixels' in SECURITY
    assert f'{MAX_SIDE_PX:,} a side' in SECURITY
    assert f'below {model_folder._LARGEST_FILE_BYTES >> 30} GiB' in SECURITY
    assert f'at most {LONGEST_TEXT:,} characters' in SAFETY


def test_every_gate_is_listed_with_its_limit() -> None:
    section = SAFETY.split('### Quality gates')[1]
    rows = re.findall(
        r'^\| `(\w+)` \|.*\| (below|at or above) ([\d.]+) \|$', section, re.MULTILINE
    )
    assert rows == [
        (name, 'below' if gate.below else 'at or above', f'{gate.limit:g}')
        for name, gate in GATES.items()
    ]


@pytest.mark.parametrize('name', ['README.md', 'docs/safety.md'])
def test_the_intended_use_is_stated(name: str) -> None:
    assert 'not a medical device' in (ROOT / name).read_text()


@pytest.mark.parametrize(
    'name',
    [
        *('README.md', 'SECURITY.md', 'docs/safety.md', 'docs/security.md'),
        *('docs/status.md', 'docs/using_masks.md'),
    ],
)
def test_links_are_valid(name: str) -> None:
    path = ROOT / name
    for link in re.findall(r'\]\(([^)#]+)\)', path.read_text()):
        assert (path.parent / link).exists(), link
