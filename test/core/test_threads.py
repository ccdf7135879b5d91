# SPDX-License-Identifier: Apache-2.0
"""Threads share the cores from the start, unless the environment says otherwise."""

import os
import subprocess
import sys

import pytest

CODE = """
import os, sys
import surgseg_ros.{room}
assert 'torch' not in sys.modules  # or it would be too late
print(os.environ.get('GOMP_SPINCOUNT'))
"""


@pytest.mark.parametrize('room', ['node', 'lockstep'])
@pytest.mark.parametrize(
    ('given', 'expected'),
    [({}, '2000'), ({'GOMP_SPINCOUNT': '7'}, '7'), ({'OMP_WAIT_POLICY': 'active'}, 'None')],
)
def test_it_is_set_before_torch_reads_it(room, given, expected):
    kept = {name: value for name, value in os.environ.items() if name != 'GOMP_SPINCOUNT'}
    ran = subprocess.run(
        [sys.executable, '-c', CODE.format(room=room)],
        env={**kept, **given},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == expected
