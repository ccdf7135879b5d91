# SPDX-License-Identifier: Apache-2.0
"""What to do where a program runs by a Python that lacks a library; imports nothing."""

import sys


def missing_library(error: ImportError) -> str:
    """
    Say which library is missing, and how the program gets a Python that has it.

    Plain `colcon build` writes the interpreter that runs colcon, the system's, into the programs
    that it installs; and torch, for one, has no rosdep key.

    :param error: of the import.
    :return: a line.
    """
    reason = str(error).partition('\n')[0].rstrip('.:')
    return (
        f'{reason}: this is {sys.executable}, which lacks what `make setup` installs in .venv. '
        'In a colcon workspace, build with that Python: .venv/bin/python -m colcon build; '
        'elsewhere, run .venv/bin/python -m surgseg_ros'
    )
