# SPDX-License-Identifier: Apache-2.0
"""A tiny model, a context of rclpy, and for each module a bench and the node's process."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import rclpy
from bench import Bench
from nodes import NodeInProcess, NodeProcess
from tiny_models import write_tiny_model


@pytest.fixture(scope='session')
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model folder with random weights."""
    return write_tiny_model(tmp_path_factory.mktemp('model'))


@pytest.fixture
def context() -> Iterator[rclpy.Context]:
    """Yield a context that is initialized without arguments."""
    context = rclpy.Context()
    rclpy.init(args=[], context=context)
    yield context
    rclpy.shutdown(context=context)


@pytest.fixture(scope='module')
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """Yield a bench in a namespace that no other module uses."""
    bench = Bench(f'/{request.module.__name__.rpartition(".")[2]}')
    yield bench
    bench.close()


@pytest.fixture(scope='module')
def run_node(
    bench: Bench, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., NodeProcess]]:
    """Yield a function that starts the node in the bench's namespace until the module ends."""
    with contextlib.ExitStack() as started:

        def run(*arguments: str, **parameters: Any) -> NodeProcess:
            log = tmp_path_factory.mktemp('node') / 'log'
            node = NodeProcess(log, bench.namespace, arguments, **parameters)
            started.callback(node.close)
            return node

        yield run


@pytest.fixture
def start_node() -> Iterator[Callable[..., NodeInProcess]]:
    """Yield a function that starts the node in this process until the test ends."""
    with contextlib.ExitStack() as started:

        def start(*arguments: str, **parameters: Any) -> NodeInProcess:
            own_node = NodeInProcess(*arguments, **parameters)
            started.callback(own_node.close)
            return own_node

        yield start
