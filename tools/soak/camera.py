# SPDX-License-Identifier: Apache-2.0
"""A test camera: it publishes images until it is killed, and executes commands from its input."""

import argparse
import array
import os
import sys
import threading
import time
from collections.abc import Sequence
from typing import Final

import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image

BYTES: Final = {'rgb8': 3, 'bgr8': 3, 'mono8': 1, 'rgba8': 4}
"""Encodings of the camera, with their bytes per pixel."""


def main(argv: Sequence[str] | None = None) -> int:
    """
    Publish until killed, or until the input ends.

    A line `rate 15`, `size 64x48` or `encoding mono8` changes the following images. The
    frame_id of an image is its stamp and its size, so that a mask identifies its image.

    :param argv: the arguments; those of the command line by default.
    :return: the exit status.
    """
    parser = argparse.ArgumentParser(prog='python -m tools.soak.camera', description=__doc__)
    add = parser.add_argument
    add('--topic', required=True)
    add('--rate', default='30')
    add('--size', default='640x360')
    add('--encoding', default='rgb8', choices=BYTES)
    add('--best-effort', action='store_true')
    options = parser.parse_args(argv)
    state = {'rate': options.rate, 'size': options.size, 'encoding': options.encoding}
    threading.Thread(target=_read_commands, args=(state,), daemon=True).start()
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node(f'soak_camera_{os.getpid()}', start_parameter_services=False)
    reliability = ReliabilityPolicy.BEST_EFFORT if options.best_effort else None
    profile = QoSProfile(depth=5, reliability=reliability or ReliabilityPolicy.RELIABLE)
    publisher = node.create_publisher(Image, options.topic, profile)
    due_s = time.monotonic()
    while True:
        publisher.publish(image_msg(state['size'], state['encoding'], time.time_ns()))
        due_s = max(due_s + 1 / float(state['rate']), time.monotonic())
        time.sleep(due_s - time.monotonic() if due_s > time.monotonic() else 0.0)


def image_msg(size: str, encoding: str, stamp_ns: int) -> Image:
    """
    Create an image with a gradient from dark to bright.

    :param size: width and height, such as `640x360`.
    :param encoding: a key of BYTES.
    :param stamp_ns: nanoseconds.
    :return: the message.
    """
    width, height = (int(side) for side in size.split('x'))
    step = width * BYTES[encoding]
    image = Image(height=height, width=width, encoding=encoding, step=step)
    image.data = array.array('B', bytes(x * 255 // step for x in range(step)) * height)
    image.header.stamp.sec, image.header.stamp.nanosec = divmod(stamp_ns, 10**9)
    image.header.frame_id = f'{stamp_ns} {size}'
    return image


def _read_commands(state: dict[str, str]) -> None:
    for line in sys.stdin:
        name, value = line.split()
        state[name] = value
    os._exit(0)  # the parent process has ended


if __name__ == '__main__':
    sys.exit(main())
