# SPDX-License-Identifier: Apache-2.0
"""
The processes at both ends of the node: a camera that publishes, a listener that records receipts.

python -m tools.end_to_end.endpoints camera|listener ...
"""

import argparse
import contextlib
import itertools
import sys
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.publisher import Publisher
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image

from surgseg_ros.messages.images import image_to_msg, read_stamp
from surgseg_ros.messages.serialization import header, set_stamp, to_cdr
from surgseg_ros.node.outputs import RESULTS
from tools.end_to_end.processes import answer, questions

DEPTH: Final = 10
"""Depth of `create_publisher(Image, topic, 10)`: reliable, keep the last ten."""


class Listener:
    """
    Subscribes to masks and /diagnostics; its callbacks only collect messages.

    :param topic: topic of the masks.
    :param others: further outputs of the node.
    """

    def __init__(self, topic: str, others: Sequence[str] = ()) -> None:
        """Subscribe; the thread of the executor runs the callbacks."""
        self.heard: dict[str, list[tuple[int, int]]] = {name: [] for name in others}
        """Stamp and time of receipt of each message, by output."""
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
        """Return stamp and time of receipt of each mask, and remove them."""
        taken, self._masks = self._masks, []
        return taken

    def diagnostics(self) -> dict[str, Any]:
        """Return the number of reports received, and the values of the last one."""
        return self._diagnostics

    def _on_mask(self, cdr: bytes) -> None:
        now_ns = time.time_ns()
        self._masks.append((read_stamp(cdr), now_ns))

    def _on_other(self, name: str, cdr: bytes) -> None:
        now_ns = time.time_ns()
        self.heard[name].append((read_stamp(cdr), now_ns))

    def _on_report(self, message: Any) -> None:
        values = {value.key: value.value for value in message.status[0].values}
        self._diagnostics = {'count': self._diagnostics['count'] + 1, 'values': values}


def send(
    publisher: Publisher, cdrs: 'itertools.cycle[bytes]', count: int, rate_hz: float
) -> list[tuple[int, int]]:
    """
    Publish frames at equal intervals; a late frame does not delay the others.

    :param publisher: publisher of the images.
    :param cdrs: serialized images.
    :param count: number of frames.
    :param rate_hz: frames per second.
    :return: stamp of each frame and time of its publication, by the system's clock.
    """
    sent = []
    started_s = time.monotonic()
    for number in range(count):
        stamp_ns = time.time_ns()
        cdr = set_stamp(next(cdrs), stamp_ns)
        time.sleep(max(0.0, started_s + number / rate_hz - time.monotonic()))
        sent_ns = time.time_ns()
        publisher.publish(cdr)
        sent.append((stamp_ns, sent_ns))
    return sent


def run_camera(options: argparse.Namespace) -> None:
    """
    Respond to `send COUNT RATE` with the stamp and the time of sending of each frame.

    The response to `readers` is the number of subscriptions.

    :param options: `images` and `topic`.
    """
    images = np.load(options.images)
    cdrs = itertools.cycle([to_cdr(image_to_msg(x, header(0, 'camera'))) for x in images])
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node('benchmark_camera', start_parameter_services=False)
    publisher = node.create_publisher(Image, options.topic, DEPTH)
    with contextlib.suppress(KeyboardInterrupt):
        for name, *numbers in questions():
            if name == 'readers':
                answer(publisher.get_subscription_count())
            else:
                count, rate_hz = numbers
                answer(send(publisher, cdrs, int(count), float(rate_hz)))
    node.destroy_node()
    rclpy.try_shutdown()


def run_listener(options: argparse.Namespace) -> None:
    """
    Respond to `masks`, `diagnostics` and `heard`.

    :param options: `topic` and `others`.
    """
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    listener = Listener(options.topic, options.others)
    executor = SingleThreadedExecutor()
    executor.add_node(listener.node)
    threading.Thread(target=_spin, args=(executor,), daemon=True).start()
    asked = {
        'masks': listener.masks,
        'diagnostics': listener.diagnostics,
        'heard': lambda: listener.heard,
    }
    with contextlib.suppress(KeyboardInterrupt):
        for (name,) in questions():
            answer(asked[name]())
    executor.shutdown()
    listener.node.destroy_node()
    rclpy.try_shutdown()


def _spin(executor: SingleThreadedExecutor) -> None:
    with contextlib.suppress(ExternalShutdownException):
        executor.spin()


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the camera or the listener until the end of its input.

    :param argv: the arguments; those of the command line by default.
    :return: the exit status.
    """
    parser = argparse.ArgumentParser(
        prog='python -m tools.end_to_end.endpoints', description=__doc__
    )
    ends = parser.add_subparsers(required=True)
    camera = ends.add_parser('camera')
    camera.set_defaults(run=run_camera)
    camera.add_argument('--images', type=Path, required=True, help='(N, H, W, 3) as .npy')
    listener = ends.add_parser('listener')
    listener.set_defaults(run=run_listener)
    listener.add_argument('--others', nargs='*', default=[], choices=RESULTS)
    for end in (camera, listener):
        end.add_argument('--topic', required=True)
    options = parser.parse_args(argv)
    options.run(options)
    return 0


if __name__ == '__main__':
    sys.exit(main())
