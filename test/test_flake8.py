# SPDX-License-Identifier: Apache-2.0
"""ament_flake8 accepts the package, where it is installed."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CHECKED = ('surgseg_ros', 'launch', 'test', 'tools', 'setup.py')


@pytest.mark.flake8
@pytest.mark.linter
def test_flake8(monkeypatch: pytest.MonkeyPatch) -> None:
    flake8 = pytest.importorskip('ament_flake8.main', reason='needs ament_flake8 of ROS 2')
    monkeypatch.chdir(ROOT)
    status, errors = flake8.main_with_errors(argv=['--config', 'setup.cfg', *CHECKED])
    assert status == 0, os.linesep.join(errors)
