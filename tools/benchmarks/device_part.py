# SPDX-License-Identifier: Apache-2.0
"""
Compares the time of an image's whole path on its device with that of the network alone.

    python -m tools.benchmarks.device_part --model DIR --device cuda

All alternate in one process. The path: upload, fit, network, upsampling, argmax, download; one
batch after another, and with batches in flight, as in `evaluate_bag`. The network alone: on CUDA
the replay of its graph. The goal on a GPU: a ratio of at most 1.25, and 120 images of 1920x1080
per second.
"""

import argparse
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from statistics import median
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from surgseg_ros.cli.benchmark import draw
from surgseg_ros.core.segmenter import Segmenter
from tools.benchmarks.machine import describe

_UNTIMED: Final = 5

_BATCHES: Final = 8
"""Number of batches of a measurement in flight."""


class Row(NamedTuple):
    """
    The measurements for one batch size.

    :param images: number of images in one batch.
    :param network_ms: median of the network alone.
    :param whole_ms: median of the whole path.
    :param in_flight_ms: median of the whole path per batch, with batches in flight.
    """

    images: int
    network_ms: float
    whole_ms: float
    in_flight_ms: float


def main(argv: Sequence[str] | None = None) -> int:
    """
    Measure and print a table as markdown.

    :param argv: the arguments; those of the command line by default.
    :return: the exit status.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--model', required=True, metavar='DIR')
    parser.add_argument('--device', default='auto')
    parser.add_argument('--runtime', default='auto')
    parser.add_argument('--precision', default='auto')
    parser.add_argument('--size', default='1920x1080', metavar='WxH')
    parser.add_argument('--rounds', type=int, default=200)
    options = parser.parse_args(argv)
    width, height = (int(side) for side in options.size.split('x'))
    segmenter = Segmenter.load(
        options.model,
        options.device,
        options.runtime,
        precision=options.precision,
        max_batch_size=2,
    )
    images = draw((height, width))
    rows = [measure(segmenter, images[:count], options.rounds) for count in (1, 2)]
    print(table(rows))
    print(f'\n{segmenter.runtime.description}; {options.size}; {options.rounds} rounds')
    print(describe('', ['torch']))
    return 0


def measure(segmenter: Segmenter, images: list[NDArray[np.uint8]], rounds: int) -> Row:
    """
    Time the network, the whole path, and batches in flight, alternating.

    :param segmenter: segmenter on the device.
    :param images: (H, W, 3) uint8 RGB each, in one batch.
    :param rounds: number of measured rounds.
    :return: the medians.
    """
    size = (len(images), *segmenter.spec.input_size, 3)
    inputs = torch.full(size, 127, dtype=torch.uint8, device=segmenter.runtime.device)
    times: tuple[list[float], ...] = ([], [], [])
    segmenter.warm_up((images[0].shape[0], images[0].shape[1]))
    for number in range(_UNTIMED + rounds):
        network = _timed(segmenter, lambda: segmenter.runtime(inputs))
        whole = _timed(segmenter, lambda: segmenter.segment_all(images))
        in_flight = _timed(segmenter, lambda: _fly(segmenter, images)) / _BATCHES
        if number >= _UNTIMED:
            for values, value in zip(times, (network, whole, in_flight)):
                values.append(value)
    return Row(len(images), *(median(of_one) for of_one in times))


def table(rows: Sequence[Row]) -> str:
    """
    Format the medians as Markdown.

    :param rows: the measurements.
    :return: the table.
    """
    lines = [
        '| images in a batch | network, ms | whole path, ms | ratio | in flight, ms | ratio '
        '| images per second |',
        '| --- | --- | --- | --- | --- | --- | --- |',
    ]
    lines += [
        f'| {row.images} | {row.network_ms:.2f} | {row.whole_ms:.2f} '
        f'| {row.whole_ms / row.network_ms:.3f} | {row.in_flight_ms:.2f} '
        f'| {row.in_flight_ms / row.network_ms:.3f} | {1e3 * row.images / row.in_flight_ms:.0f} |'
        for row in rows
    ]
    return '\n'.join(lines)


def _fly(segmenter: Segmenter, images: list[NDArray[np.uint8]]) -> None:
    begun: deque[Callable[[], object]] = deque()
    for _ in range(_BATCHES):
        begun.append(segmenter.begin(images))
        if len(begun) == segmenter.max_in_flight:
            begun.popleft()()
    for results in begun:
        results()


@torch.inference_mode()
def _timed(segmenter: Segmenter, action: Callable[[], object]) -> float:
    """Return the milliseconds until the device is done."""
    started_s = time.perf_counter()
    action()
    if segmenter.runtime.device.type == 'cuda':
        torch.cuda.synchronize(segmenter.runtime.device)
    return 1e3 * (time.perf_counter() - started_s)


if __name__ == '__main__':
    sys.exit(main())
