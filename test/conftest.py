# SPDX-License-Identifier: Apache-2.0
"""Shared by all tests: DDS restricted to this machine, in a domain per run, and test videos."""

import gc
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from started import left_over, mark_this_run, start_watchdog

from surgseg_ros.core.processes import limit_spinning
from surgseg_ros.node.middleware import local_discovery

# Each of the processes that run side by side has as many threads of torch as there are cores.
limit_spinning()

for name, value in local_discovery(os.environ).items():
    os.environ.setdefault(name, value)
os.environ.setdefault('ROS_DOMAIN_ID', str(os.getpid() % 100 + 1))
if worker := os.environ.get('PYTEST_XDIST_WORKER'):  # gw0, gw1 …: each in its own domain
    domain = int(os.environ['ROS_DOMAIN_ID']) + int(worker.removeprefix('gw'))
    os.environ['ROS_DOMAIN_ID'] = str((domain - 1) % 100 + 1)
os.environ.setdefault(
    'RAY_worker_niceness', '0'
)  # 15 by default, which starves them on a busy machine

# Collecting the objects of all libraries again and again takes seconds of each file. The process
# that starts the workers imports no test file.
if 'PYTEST_XDIST_WORKER' in os.environ:
    gc.disable()

# Converted models are shared by all processes of a test run, and only by them.
if 'PYTEST_XDIST_WORKER' not in os.environ:
    CACHE = tempfile.TemporaryDirectory(prefix='surgseg_ros_cache_')
    os.environ['XDG_CACHE_HOME'] = CACHE.name

# A background job of a shell ignores Ctrl-C, and so would all processes that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# A command run by nohup ignores SIGHUP. The tests keep running when the terminal closes, but
# their processes do not: a handler is not inherited, whereas an ignored signal would be.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)

MARK = mark_this_run()
END_S = 30.0
WATCHDOG = pytest.StashKey[object]()
LEFT_BY_WORKERS = pytest.StashKey[list[str]]()
LEFT_RUNNING = 'left_running'
TESTS = Path(__file__).parent
SLOW = {'training', 'tools', 'node', 'bag_evaluation', 'exporting', 'test_interrupts.py'}

# The time of an example depends on the load of the machine.
settings.register_profile('busy', deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile('busy')


def pytest_sessionstart(session: pytest.Session) -> None:
    session.stash[WATCHDOG] = start_watchdog(MARK)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with slow files, or one process would still run them when the others are done."""
    items.sort(key=lambda item: not is_slow(item.path))


def is_slow(path: Path) -> bool:
    return path.is_relative_to(TESTS) and path.relative_to(TESTS).parts[0] in SLOW


def pytest_collection_finish() -> None:
    """Collect garbage from now on, except in what the test files have imported."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail if a test has left a process running."""
    found = [f'{pid}: {command[:300]}' for pid, command in left_over(MARK, END_S).items()]
    if hasattr(session.config, 'workeroutput'):  # the process that started this worker fails
        session.config.workeroutput[LEFT_RUNNING] = found
        return
    found += session.config.stash.get(LEFT_BY_WORKERS, [])
    if found:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        print('\nleft running by a test, and killed now:', *found, sep='\n  ')


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Collect the processes that the tests of a worker left running."""
    found = getattr(node, 'workeroutput', {}).get(LEFT_RUNNING, [])
    node.config.stash.setdefault(LEFT_BY_WORKERS, []).extend(found)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Use one thread: for images this small several are slower, above all on a busy machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def write_video() -> Callable[[Path, int], None]:
    """Return a function that writes a video of numbered frames, which `frame_number` reads."""
    import cv2
    import numpy as np

    def write(path: Path, count: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 60, (80, 48))
        for index in range(count):
            image = np.full((48, 80, 3), 40, np.uint8)
            for bit in range(8):
                image[:, 10 * bit : 10 * bit + 10] += np.uint8(160 * (index >> bit & 1))
            writer.write(image)
        writer.release()

    return write


@pytest.fixture
def frame_number() -> Callable[..., int]:
    """Return a function that reads the number of a frame written by `write_video`."""
    return lambda image: sum(1 << bit for bit in range(8) if image[24, 10 * bit + 5].mean() > 120)
