# SPDX-License-Identifier: Apache-2.0
"""
Times the steps around the network on a CPU, in comparison with plain implementations.

python -m tools.benchmarks.surroundings [--images 1920x1080 …] [--inputs 640x512 …] [--json FILE]

No network is run: the logits are created from a scene's truth, with soft borders and some noise.
Our implementation and the plain one alternate in one process with one thread; CPU time is
measured. The floor is the number of bytes that a step must read and write, divided by the rate of
copies. Prints a table in Markdown.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

import cv2
import numpy as np
import torch

from tools.benchmarks.machine import describe
from tools.benchmarks.surrounding_steps import Step, steps

_SIZES: Final = ((640, 480), (1280, 720), (1920, 1080), (3840, 2160))
_INPUTS: Final = ((192, 128), (320, 192), (640, 512))
_PACKAGES: Final = ('torch', 'numpy', 'opencv-python-headless')
_COPIED_BYTES: Final = 1 << 26


class Row(NamedTuple):
    """
    The measurements of a step.

    :param image: size of the image, width x height.
    :param step: name of the step.
    :param ours_ms: median.
    :param plain_ms: median.
    :param floor_ms: the time for memory access alone.
    """

    image: str
    step: str
    ours_ms: float
    plain_ms: float
    floor_ms: float

    @property
    def ratio(self) -> float:
        """Speed-up of our implementation."""
        return self.plain_ms / self.ours_ms


def main(argv: Sequence[str] | None = None) -> int:
    """
    Time the steps, print the table, and write the results.

    :param argv: the arguments; those of the command line by default.
    :return: the exit status.
    """
    options = _parser().parse_args(argv)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    rate = copy_rate()
    machine = f'{describe("one thread", _PACKAGES)}; memory copies at {rate / 1e9:.1f} GB/s'
    print(machine, end='\n\n')
    print('| image | step | ours, ms | plain, ms | times as fast | floor, ms |')
    print('| --- | --- | --- | --- | --- | --- |')
    rows = []
    inputs = [(height, width) for width, height in options.inputs]
    for width, height in options.images:
        for step in steps((height, width), inputs):
            rows.append(measure(f'{width}x{height}', step, options.repeats, rate))
            print(line(rows[-1]), flush=True)
    if options.json:
        table = [{**row._asdict(), 'ratio': row.ratio} for row in rows]
        options.json.write_text(json.dumps({'machine': machine, 'rows': table}, indent=2) + '\n')
    return 0


def measure(image: str, step: Step, repeats: int, bytes_per_s: float) -> Row:
    """
    Time both implementations of a step, alternating.

    :param image: size of the image.
    :param step: the step.
    :param repeats: number of repetitions, after a warm-up.
    :param bytes_per_s: rate at which memory is copied.
    :return: the medians.
    """
    times_ms: tuple[list[float], list[float]] = ([], [])
    for _ in range(1 + repeats):
        for variant, found in zip((step.ours, step.plain), times_ms):
            found.append(_time_ms(variant))
    ours_ms, plain_ms = (median(found[1:]) for found in times_ms)
    return Row(image, step.name, ours_ms, plain_ms, 1e3 * step.min_bytes / bytes_per_s)


def copy_rate() -> float:
    """
    Measure the speed of memory.

    :return: bytes read and written per second while a large array is copied.
    """
    source = np.ones(_COPIED_BYTES, np.uint8)
    target = source.copy()
    times_ms = [_time_ms(lambda: np.copyto(target, source)) for _ in range(9)]
    return 2e3 * _COPIED_BYTES / median(times_ms)


def line(row: Row) -> str:
    """
    Format a row of the table.

    :param row: the measurements.
    :return: Markdown.
    """
    times = f'{row.ours_ms:.2f} | {row.plain_ms:.2f} | {row.ratio:.1f} | {row.floor_ms:.2f}'
    return f'| {row.image} | {row.step} | {times} |'


def _time_ms(variant: Callable[[], object]) -> float:
    started_s = time.process_time()
    variant()
    return 1e3 * (time.process_time() - started_s)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='tools.benchmarks.surroundings',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        '--images',
        '--pictures',
        type=_size,
        nargs='+',
        default=_SIZES,
        metavar='WxH',
        help='480p to 4K',
    )
    add('--inputs', type=_size, nargs='+', default=_INPUTS, metavar='WxH', help="the network's")
    add('--repeats', type=int, default=15, help='of each step (default: %(default)s)')
    add('--json', type=Path, metavar='FILE', help='where to write the numbers')
    return parser


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition('x')
    if not (width.isdecimal() and height.isdecimal() and min(int(width), int(height)) >= 64):
        raise argparse.ArgumentTypeError(f'{text!r} is not a size from 64x64 on, like 1920x1080')
    return int(width), int(height)


if __name__ == '__main__':
    sys.exit(main())
