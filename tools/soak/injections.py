# SPDX-License-Identifier: Apache-2.0
"""The faults of the soak test, which are injected one at a time; a camera runs after each."""

import random
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import Final

from tools.soak.processes import CameraProcess
from tools.soak.watch import NAMESPACE, Watch

TOPIC: Final = f'{NAMESPACE}/image'


class Setup:
    """
    The node, its camera and its listener.

    :param node: the node's process.
    :param watch: the listener.
    :param options: options of each camera.
    """

    def __init__(
        self, node: 'subprocess.Popen[bytes]', watch: Watch, options: tuple[str, ...]
    ) -> None:
        self.node = node
        self.watch = watch
        self.options = options
        self.camera = CameraProcess(TOPIC, *options)

    def restart_camera(self) -> None:
        """Kill the camera with SIGKILL, and start another."""
        self.camera.kill()
        self.camera = CameraProcess(TOPIC, *self.options)


def _kill_camera(setup: Setup, rng: random.Random) -> None:
    setup.restart_camera()


def _pause_node(setup: Setup, rng: random.Random) -> None:
    setup.node.send_signal(signal.SIGSTOP)
    time.sleep(rng.uniform(0.1, 2.0))
    setup.node.send_signal(signal.SIGCONT)


def _pause_camera(setup: Setup, rng: random.Random) -> None:
    setup.camera.process.send_signal(signal.SIGSTOP)
    time.sleep(rng.uniform(0.1, 2.0))
    setup.camera.process.send_signal(signal.SIGCONT)


def _change_rate(setup: Setup, rng: random.Random) -> None:
    setup.camera.report(f'rate {rng.choice([1, 10, 60, 200])}')
    time.sleep(1.5)
    setup.camera.report('rate 30')


def _change_size(setup: Setup, rng: random.Random) -> None:
    setup.camera.report(f'size {rng.choice(["33x70", "320x240", "640x480", "1x1"])}')
    time.sleep(1.0)
    setup.camera.report('size 640x360')


def _change_encoding(setup: Setup, rng: random.Random) -> None:
    setup.camera.report(f'encoding {rng.choice(["mono8", "bgr8", "rgba8"])}')
    time.sleep(1.0)
    setup.camera.report('encoding rgb8')


def _second_publisher(setup: Setup, rng: random.Random) -> None:
    second = CameraProcess(TOPIC, *setup.options)
    time.sleep(2.0)
    second.kill()


def _other_reliability(setup: Setup, rng: random.Random) -> None:
    setup.camera.kill()
    setup.camera = CameraProcess(TOPIC, *setup.options, '--best-effort')
    time.sleep(2.0)
    setup.restart_camera()


def _cycle(setup: Setup, rng: random.Random) -> None:
    for label in ('deactivate', 'activate'):
        setup.watch.change(label)


def _whole_cycle(setup: Setup, rng: random.Random) -> None:
    for label in ('deactivate', 'cleanup', 'configure', 'activate'):
        setup.watch.change(label)


INJECTIONS: Final[Mapping[str, Callable[[Setup, random.Random], None]]] = {
    'camera killed with SIGKILL and started again': _kill_camera,
    'node paused and continued': _pause_node,
    'camera paused and continued': _pause_camera,
    'rate changed': _change_rate,
    'size changed': _change_size,
    'encoding changed': _change_encoding,
    'a second publisher for a while': _second_publisher,
    'a best-effort camera for a while': _other_reliability,
    'deactivated and activated': _cycle,
    'cleaned up and configured again': _whole_cycle,
}
