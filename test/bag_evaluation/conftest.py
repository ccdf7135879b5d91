# SPDX-License-Identifier: Apache-2.0
"""A small model, images with ground truth, and bags of them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import write_tiny_model
from verbs import verb

from surgseg_ros.bags.writing import START_TIME_NS, write_image_bag

main = verb('evaluate_bag')

SIZE = (48, 80)


@pytest.fixture(scope='session')
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp('model'), intended_use='demo')


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """Restore the number of threads for other tests."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def frame() -> Callable[..., tuple[int, np.ndarray, np.ndarray]]:
    """Return a function that makes stamp, image and truth of a frame number."""

    def make(number: int) -> tuple[int, np.ndarray, np.ndarray]:
        coarse = np.random.default_rng(number).integers(0, 256, (6, 10, 3), np.uint8)
        truth = np.zeros(SIZE, np.uint8)
        truth[8:30, 10 : 30 + number % 40] = 1 + number % 9
        image = np.kron(coarse, np.ones((8, 8, 1), np.uint8))
        return START_TIME_NS + number * 10**8, image, truth

    return make


@pytest.fixture
def write_bag(frame: Callable[..., Any]) -> Callable[..., Path]:
    """Return a function that writes a bag of some frames."""

    def write(path: Path, numbers: range) -> Path:
        write_image_bag(path, map(frame, numbers))
        return path

    return write


@pytest.fixture
def evaluate(model: Path) -> Callable[..., int]:
    """Return a function that runs the verb, with the topics of `write_bag`."""

    def run(*arguments: Any) -> int:
        topics = ['--image-topic', '/camera/image_raw']
        if '--no-truth' not in arguments:
            topics += ['--ground-truth-topic', '/camera/ground_truth']
        given = [str(x) for x in arguments if x != '--no-truth']
        chosen = [] if '--recorded' in given else ['--model', str(model)]
        return main([*chosen, *topics, *given])

    return run
