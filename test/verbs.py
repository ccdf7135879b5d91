# SPDX-License-Identifier: Apache-2.0
"""Runs verbs in the tests' own process, with the endings that the command line gives them."""

from collections.abc import Callable, Sequence

from surgseg_ros.__main__ import main


def verb(name: str) -> Callable[[Sequence[str]], int]:
    """Give a function that runs a verb with arguments, and gives its exit status."""
    return lambda arguments: main([name, *arguments])
