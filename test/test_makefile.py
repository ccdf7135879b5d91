# SPDX-License-Identifier: Apache-2.0
"""The Makefile runs as many files of tests side by side as cores and memory allow."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

MAKEFILE: Final = Path(__file__).parents[1] / 'Makefile'
PRINT: Final = 'print: ; @: $(info $(WORKERS))'
GIB: Final = 2**30


@pytest.mark.skipif(not shutil.which('make'), reason='needs make')
@pytest.mark.parametrize(
    ('cores', 'memory', 'limit', 'workers'),
    [
        (2, 15.3, None, '3'),
        (16, 62.7, 'max', '3'),
        (16, 62.7, str(16 * GIB), '3'),
        (16, 62.7, str(8 * GIB), '2'),
        (2, 14.9, 'max', '2'),
        (2, 7.6, str(16 * GIB), '2'),
        (2, None, None, '2'),
        (1, 62.7, 'max', '1'),
        (None, None, None, '1'),
    ],
)
def test_workers(
    tmp_path: Path, cores: int | None, memory: float | None, limit: str | None, workers: str
) -> None:
    """The programs that read the machine are replaced by ones that print what is given."""
    lines = [] if memory is None else [f'MemTotal:  {int(memory * 2**20)} kB', 'MemFree:  9 kB']
    if limit is not None:
        lines.append(limit)
    absent = 'echo "no such file" >&2; exit 1'
    programs = {'cat': '; '.join(f'echo "{line}"' for line in lines) or absent}
    if cores is not None:
        programs['nproc'] = f'echo {cores}'
    for name, script in programs.items():
        (tmp_path / name).write_text(f'#!/bin/sh\n{script}\n')
        (tmp_path / name).chmod(0o755)
    (tmp_path / 'awk').symlink_to(shutil.which('awk') or 'awk')
    left_out = ('WORKERS', 'MAKEFLAGS', 'MAKELEVEL')
    run = subprocess.run(
        [shutil.which('make') or 'make', '-f', MAKEFILE, f'--eval={PRINT}', 'print'],
        env={k: v for k, v in os.environ.items() if k not in left_out} | {'PATH': str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (run.stdout.split(), run.stderr) == ([workers], '')
