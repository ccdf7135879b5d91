# SPDX-License-Identifier: Apache-2.0
"""A tiny model, and for each module a bench and the node's process."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bench import Bench
from nodes import NodeInProcess, NodeProcess, write_tiny_model


@pytest.fixture(scope='session')
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a model folder with random weights."""
    return write_tiny_model(tmp_path_factory.mktemp('model'))


@pytest.fixture(scope='module')
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """Give a bench whose namespace no other module shares."""
    bench = Bench(f'/{request.module.__name__.rpartition(".")[2]}')
    yield bench
    bench.close()


@pytest.fixture(scope='module')
def run_node(
    bench: Bench, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., NodeProcess]]:
    """Give a function that starts the node in the bench's namespace; it ends with the module."""
    with contextlib.ExitStack() as started:

        def run(*arguments: str, **parameters: Any) -> NodeProcess:
            log = tmp_path_factory.mktemp('node') / 'log'
            node = NodeProcess(log, bench.namespace, arguments, **parameters)
            started.callback(node.close)
            return node

        yield run


@pytest.fixture
def start_node() -> Iterator[Callable[..., NodeInProcess]]:
    """Give a function that starts the node in this process; it ends with the test."""
    with contextlib.ExitStack() as started:

        def start(*arguments: str, **parameters: Any) -> NodeInProcess:
            own_node = NodeInProcess(*arguments, **parameters)
            started.callback(own_node.close)
            return own_node

        yield start
