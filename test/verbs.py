# SPDX-License-Identifier: Apache-2.0
"""Runs verbs in the process of the tests, with the error handling of the command line."""

from collections.abc import Callable, Sequence

from surgseg_ros.__main__ import main


def verb(name: str) -> Callable[[Sequence[str]], int]:
    """Return a function that runs a verb with arguments and returns its exit status."""
    return lambda arguments: main([name, *arguments])
