# SPDX-License-Identifier: Apache-2.0
"""Threads share the cores from the start, unless the environment is set otherwise."""

import os
import subprocess
import sys

import pytest

CODE = """
import os, sys
from surgseg_ros.__main__ import main
sys.modules['torch'] = None  # the verb's import ends here: what is set later is not seen below
assert main(['evaluate_bag', '--help']) == 2
print(os.environ.get('GOMP_SPINCOUNT'))
"""


@pytest.mark.parametrize(
    ('given', 'expected'),
    [({}, '2000'), ({'GOMP_SPINCOUNT': '7'}, '7'), ({'OMP_WAIT_POLICY': 'active'}, 'None')],
)
def test_the_variable_is_set_before_torch_reads_it(given, expected):
    kept = {name: value for name, value in os.environ.items() if name != 'GOMP_SPINCOUNT'}
    ran = subprocess.run(
        [sys.executable, '-c', CODE],
        env={**kept, **given},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == expected


NODE = """
import os, sys, threading
import surgseg_ros.node.middleware  # as launch files do, whose environment others inherit
assert 'GOMP_SPINCOUNT' not in os.environ
from surgseg_ros.node import entry_points
assert 'torch' not in sys.modules
entry_points._run(['--ros-args', '-p', 'cpu_threads:=many'], threading.Event(), threading.Event())
print(os.environ.get('GOMP_SPINCOUNT'))
"""


def test_the_node_sets_the_variable_only_for_itself():
    kept = {name: value for name, value in os.environ.items() if name != 'GOMP_SPINCOUNT'}
    ran = subprocess.run([sys.executable, '-c', NODE], env=kept, capture_output=True, text=True)
    assert ran.stdout.strip() == '2000', ran.stderr
