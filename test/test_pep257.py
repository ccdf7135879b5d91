# SPDX-License-Identifier: Apache-2.0
"""ament_pep257 accepts the docstrings, where it is installed."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CHECKED = ('surgseg_ros', 'launch', 'test', 'tools', 'setup.py')


@pytest.mark.linter
@pytest.mark.pep257
def test_pep257() -> None:
    pep257 = pytest.importorskip('ament_pep257.main', reason='needs ament_pep257 of ROS 2')
    # It applies D401, the imperative mood, to properties too; ruff applies it only to functions.
    files = [str(ROOT / name) for name in CHECKED]
    assert pep257.main(argv=['--add-ignore', 'D401', '--', *files]) == 0
