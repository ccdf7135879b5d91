# SPDX-License-Identifier: Apache-2.0
"""The benchmark's camera: a process that publishes images at a given rate on request."""

import argparse
import contextlib
import itertools
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rclpy
from rclpy.publisher import Publisher
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image

from surgseg_ros.benchmarking.conversation import answer, questions
from surgseg_ros.benchmarking.stages import image_cdr, stamped

DEPTH = 10
"""As in `create_publisher(Image, topic, 10)`: reliable, keep last 10."""


def main(argv: Sequence[str] | None = None) -> int:
    """
    Publish frames on `send COUNT RATE`, and answer with stamp and sending time of each.

    The answer to `readers` is the number of subscriptions.

    :param argv: the arguments; those of the command line by default.
    :return: the exit status.
    """
    parser = argparse.ArgumentParser(prog='camera', description=__doc__)
    parser.add_argument('--pictures', type=Path, required=True, help='(N, H, W, 3) as .npy')
    parser.add_argument('--topic', required=True)
    options = parser.parse_args(argv)
    cdrs = itertools.cycle([image_cdr(image) for image in np.load(options.pictures)])
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
    return 0


def send(
    publisher: Publisher, cdrs: 'itertools.cycle[bytes]', count: int, rate_hz: float
) -> list[tuple[int, int]]:
    """
    Publish frames at a constant rate; a late one does not delay the others.

    :param publisher: publisher of the images.
    :param cdrs: serialized images.
    :param count: number of frames.
    :param rate_hz: frames per second.
    :return: stamp and publishing time of each, in nanoseconds of the system clock.
    """
    sent = []
    started_s = time.monotonic()
    for number in range(count):
        stamp_ns = time.time_ns()
        cdr = stamped(next(cdrs), stamp_ns)
        time.sleep(max(0.0, started_s + number / rate_hz - time.monotonic()))
        sent_ns = time.time_ns()
        publisher.publish(cdr)
        sent.append((stamp_ns, sent_ns))
    return sent


if __name__ == '__main__':
    sys.exit(main())
