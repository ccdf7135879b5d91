# SPDX-License-Identifier: Apache-2.0
"""The tool also runs on a CPU, where its ratio shows the overhead around the network."""

from pathlib import Path

import pytest
from tiny_models import write_tiny_model

from tools.benchmarks import device_part
from tools.benchmarks.device_part import Row, table


def test_a_row_reports_the_ratios_and_the_rate() -> None:
    row = table([Row(2, 8.0, 12.0, 10.0)]).splitlines()[-1]
    assert row == '| 2 | 8.00 | 12.00 | 1.500 | 10.00 | 1.250 | 200 |'


def test_all_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tiny_model(tmp_path)
    arguments = ['--model', str(tmp_path), '--device', 'cpu', '--size', '96x64', '--rounds', '1']
    assert device_part.main(arguments) == 0
    text = capsys.readouterr().out
    rows = [line for line in text.splitlines() if line.startswith(('| 1 |', '| 2 |'))]
    assert len(rows) == 2
    assert 'f32 on CPU' in text
