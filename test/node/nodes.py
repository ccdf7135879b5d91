# SPDX-License-Identifier: Apache-2.0
"""The node under test: in this process, or in the process that users start."""

import contextlib
import itertools
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
import rclpy
from bench import REPOSITORY, TIMEOUT_S, Bench, until
from numpy.typing import NDArray
from rclpy.parameter import Parameter
from started import end

from surgseg_ros.core.gates import GATES
from surgseg_ros.core.segmentation import Segmentation
from surgseg_ros.node.entry_points import spin
from surgseg_ros.node.lifecycle import ServiceThreadExecutor
from surgseg_ros.node.segmenter_node import SegmenterNode

NO_GATES: Final = {f'gates.{name}.action': 'none' for name in GATES}
"""The images of tests do not look like tissue, so the quality gates are off."""

CHOSEN: Final = {**NO_GATES, 'device': 'cpu', 'precision': 'f32'}
"""Default parameters of nodes under test, whose masks are exactly those of a Segmenter."""


class NodeInProcess:
    """The node in this process, configured and active, with a bench in its own namespace."""

    _numbers = itertools.count()

    def __init__(self, *arguments: str, **parameters: Any) -> None:
        self.bench = Bench(f'/here_{next(self._numbers)}')
        self.logs = self.bench.logs()
        self.context = rclpy.Context()
        rclpy.init(args=[], context=self.context)
        self.node = SegmenterNode(
            context=self.context,
            namespace=self.bench.namespace,
            parameter_overrides=[
                Parameter(n, value=v) for n, v in {**CHOSEN, **parameters}.items()
            ],
            cli_args=['--ros-args', *arguments] if arguments else None,
        )
        self._stopped = threading.Event()
        self._executor = ServiceThreadExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(
            target=spin, args=(self._executor, self.node, self._stopped)
        )
        self._thread.start()
        self.node.start_by_itself()

    def close(self) -> None:
        for leave in (self.node.trigger_deactivate, self.node.trigger_cleanup):
            with contextlib.suppress(Exception):  # it may be in another state
                leave()
        self.node.stop()
        self._stopped.set()
        self._executor.shutdown()
        self._thread.join()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)
        self.bench.close()


class NodeProcess:
    """The node in its own process: `python -m surgseg_ros segmenter`."""

    def __init__(self, log: Path, namespace: str, arguments: tuple[str, ...] = (), **parameters):
        chosen = {**CHOSEN, **parameters}
        given = [f'-p {name}:={value}' for name, value in chosen.items()]
        ros = ' '.join([f'-r __ns:={namespace}', *given]).split(' ')
        self._log = log
        with log.open('w') as file:
            self.process = subprocess.Popen(
                [sys.executable, '-m', 'surgseg_ros', 'segmenter', '--ros-args', *ros, *arguments],
                cwd=REPOSITORY,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def log(self) -> str:
        return self._log.read_text()

    def wait_for_log(self, text: str) -> str:
        until(lambda: text in self.log() or not self.is_alive(), f'{text!r} in the log')
        assert text in self.log()
        return self.log()

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def close(self) -> None:
        """Terminate it, whatever state it is in."""
        end(self.process, TIMEOUT_S)

    def interrupt(self) -> int:
        """Send SIGINT; return the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(TIMEOUT_S)


def segmenter_attributes(name: str) -> dict[str, Any]:
    """Return the attributes of a fake Segmenter, except `segment_all`."""
    spec = SimpleNamespace(
        name=name, weights_sha256='0' * 64, intended_use='research', self_test={}
    )
    return {
        'spec': spec,
        'runtime': SimpleNamespace(description='a test'),
        'max_batch_size': 1,
        'max_in_flight': 1,
        'warm_up': lambda *sizes: None,
    }


class SlowNetwork:
    """A fake Segmenter of batch size 1, which blocks until the test releases it."""

    def __init__(self) -> None:
        vars(self).update(segmenter_attributes('slow'))
        self.taken, self.let_go = threading.Semaphore(0), threading.Semaphore(0)

    def segment_all(
        self,
        images: list[NDArray[np.uint8]],
        rois: list[Any],
        *,
        confidence: bool,
        grid_confidence: bool,
    ) -> list[Segmentation]:
        """Return masks that identify their image."""
        self.taken.release()
        assert self.let_go.acquire(timeout=TIMEOUT_S)
        masks = (image[..., 0].copy() for image in images)
        return [Segmentation(mask, np.full_like(mask, 255)) for mask in masks]
