# SPDX-License-Identifier: Apache-2.0
"""The benchmark's listener: a process that records masks with their time, and /diagnostics."""

import argparse
import contextlib
import sys
import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image

from surgseg_ros.benchmarking.conversation import answer, questions
from surgseg_ros.benchmarking.stages import stamp_of
from surgseg_ros.node.outputs import RESULTS

DEPTH = 10


class Listener:
    """
    Subscribes to masks and to /diagnostics; its callbacks only collect.

    :param topic: topic of the masks.
    :param others: further outputs of the node, whose messages are counted.
    """

    def __init__(self, topic: str, others: Sequence[str] = ()) -> None:
        """Subscribe; the executor's thread runs the callbacks."""
        self.heard = dict.fromkeys(others, 0)
        self._masks: list[tuple[int, int]] = []
        self._diagnostics: dict[str, Any] = {'count': 0, 'values': {}}
        self.node = rclpy.create_node('benchmark_listener', start_parameter_services=False)
        self.node.create_subscription(Image, topic, self._on_mask, DEPTH, raw=True)
        self.node.create_subscription(DiagnosticArray, '/diagnostics', self._on_report, DEPTH)
        for name in others:
            self.node.create_subscription(
                RESULTS[name], name, partial(self._on_other, name), DEPTH, raw=True
            )

    def masks(self) -> list[tuple[int, int]]:
        """Return stamp and receipt time of each mask since the last call."""
        taken, self._masks = self._masks, []
        return taken

    def diagnostics(self) -> dict[str, Any]:
        """Return the number of reports, and the values of the last one."""
        return self._diagnostics

    def _on_mask(self, cdr: bytes) -> None:
        now_ns = time.time_ns()
        self._masks.append((stamp_of(cdr), now_ns))

    def _on_other(self, name: str, cdr: bytes) -> None:
        self.heard[name] += 1

    def _on_report(self, message: Any) -> None:
        values = {value.key: value.value for value in message.status[0].values}
        self._diagnostics = {'count': self._diagnostics['count'] + 1, 'values': values}


def main(argv: Sequence[str] | None = None) -> int:
    """
    Answer the requests `masks`, `diagnostics` and `heard`.

    :param argv: the arguments; those of the command line by default.
    :return: the exit status.
    """
    parser = argparse.ArgumentParser(prog='listener', description=__doc__)
    parser.add_argument('--topic', required=True)
    parser.add_argument('--others', nargs='*', default=[], choices=RESULTS)
    options = parser.parse_args(argv)
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    listener = Listener(options.topic, options.others)
    executor = SingleThreadedExecutor()
    executor.add_node(listener.node)
    threading.Thread(target=_spin, args=(executor,), daemon=True).start()
    requests = {
        'masks': listener.masks,
        'diagnostics': listener.diagnostics,
        'heard': lambda: listener.heard,
    }
    with contextlib.suppress(KeyboardInterrupt):
        for (name,) in questions():
            answer(requests[name]())
    executor.shutdown()
    listener.node.destroy_node()
    rclpy.try_shutdown()
    return 0


def _spin(executor: SingleThreadedExecutor) -> None:
    with contextlib.suppress(ExternalShutdownException):
        executor.spin()


if __name__ == '__main__':
    sys.exit(main())
