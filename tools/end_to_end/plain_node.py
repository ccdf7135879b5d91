# SPDX-License-Identifier: Apache-2.0
"""
A common, simple segmentation node, as a reference for the benchmark.

It has a typed subscription, and one callback for everything: cv_bridge or its replacement, model,
and publication.
"""

import argparse
import array
import contextlib
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import rclpy
import torch
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from sensor_msgs.msg import Image

from surgseg_ros.messages.encodings import converter
from surgseg_ros.node.middleware import with_info
from tools.end_to_end.plain_model import PlainModel
from tools.end_to_end.processes import answer, questions

DEPTH = 10


class PlainNode(Node):
    """
    Subscribes to images, and publishes masks.

    :param model: the model.
    :param topic: topic of the images.
    """

    def __init__(self, model: PlainModel, topic: str) -> None:
        super().__init__('plain_segmenter')
        self.times: list[dict[str, float]] = []
        """For each frame: its stamp, the model's time and the wait in DDS's queue."""
        self._model = model
        self._bridge = converter()
        self._free_since_ns = 0
        self._masks = self.create_publisher(Image, 'mask', DEPTH)
        self.create_subscription(Image, topic, with_info(self._on_image), DEPTH)

    def _on_image(self, message: Any, info: Mapping[str, int]) -> None:
        image = np.asarray(self._bridge(message, 'rgb8'))
        mask = self._model(image)
        answer = Image(height=mask.shape[0], width=mask.shape[1], encoding='mono8')
        answer.header = message.header
        answer.step = mask.shape[1]
        answer.data = array.array('B', mask.tobytes())  # as cv_bridge does it
        self._masks.publish(answer)
        stamp = message.header.stamp
        # The frame waited while the previous one was processed; the time of taking it is not
        # included.
        wait_ms = max(0.0, (self._free_since_ns - info['received_timestamp']) / 1e6)
        self._free_since_ns = time.time_ns()
        self.times.append(
            {
                'stamp_ns': stamp.sec * 10**9 + stamp.nanosec,
                'model_ms': self._model.last_ms,
                'slot_ms': wait_ms,
            }
        )


def _serve_requests(node: PlainNode) -> None:
    for _ in questions():
        answer(list(node.times))


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the node until it is interrupted; each line on standard input requests its times so far.

    :param argv: the arguments; those of the command line by default.
    :return: the exit status.
    """
    parser = argparse.ArgumentParser(
        prog='python -m tools.end_to_end.plain_node', description=__doc__
    )
    parser.add_argument('--model', required=True)
    parser.add_argument('--topic', required=True)
    parser.add_argument('--device', default='auto')
    parser.add_argument('--threads', type=int, default=0)
    options = parser.parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    model = PlainModel(options.model, options.device)
    rclpy.init(args=[])
    node = PlainNode(model, options.topic)
    threading.Thread(target=_serve_requests, args=(node,), daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(node)
    node.destroy_node()
    rclpy.try_shutdown()
    return 0


if __name__ == '__main__':
    sys.exit(main())
