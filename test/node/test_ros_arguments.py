# SPDX-License-Identifier: Apache-2.0
"""Errors name invalid arguments after --ros-args in one line."""

import subprocess
import sys

import numpy as np
import pytest
import rclpy

from surgseg_ros.bags.writing import write_image_bag
from surgseg_ros.node.middleware import RosArgumentError, begin_ros


@pytest.mark.parametrize(
    ('arguments', 'expected'),
    [
        (['--ros-args', '--bogus'], 'unknown after --ros-args: --bogus'),
        (['--ros-args', '--one', '--two', '--', 'x'], 'unknown after --ros-args: --one --two'),
        (['--ros-args', '-p'], 'does not understand'),
        (['--ros-args', '--params-file', '/nowhere.yaml'], '/nowhere.yaml'),
    ],
)
def test_error_names_arguments_that_ros_rejects(arguments: list[str], expected: str) -> None:
    with pytest.raises(RosArgumentError, match=expected):
        begin_ros(arguments)
    assert not rclpy.ok()


@pytest.mark.parametrize('words', [['segmenter'], ['bag_player', 'bag']])
def test_both_nodes_print_one_line_and_exit_with_1(words: list[str], tmp_path) -> None:
    write_image_bag(tmp_path / 'bag', [(1, np.zeros((8, 8, 3), np.uint8), None)])
    command = [sys.executable, '-m', 'surgseg_ros', *words, '--ros-args', '--bogus']
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 1
    (line,) = run.stderr.splitlines()
    assert line.startswith(f'{words[0]}: unknown after --ros-args: --bogus')
