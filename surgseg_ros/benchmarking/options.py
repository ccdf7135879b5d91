# SPDX-License-Identifier: Apache-2.0
"""The command line of the benchmark."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_FRAMES: Final = 100
"""Default number for a measurement without DDS."""

OUTPUTS: Final = ('detections', 'confidence', 'overlay')
"""Outputs that the listener can subscribe to besides the mask; the last two need a subscriber."""


def read_options(argv: Sequence[str] | None, about: str | None) -> argparse.Namespace:
    """
    Read the arguments; invalid ones exit the process.

    :param argv: the arguments; those of the command line by default.
    :param about: description of the verb.
    :return: the options; `sizes` are (width, height) in pixels, `frames` those of a measurement,
        which may be shortened if it is `bounded`.
    """
    parser = argparse.ArgumentParser(prog='surgseg_ros benchmark', description=about)
    _add_measurement(parser)
    alone = parser.add_argument_group('stage by stage, without DDS')
    alone.add_argument(
        '--cameras', type=_count, nargs='+', default=[1], metavar='N', help='default: 1'
    )
    _add_end_to_end(parser.add_argument_group('over DDS'))
    options = parser.parse_args(argv)
    options.bounded = options.frames is None
    given = round(options.rate * options.seconds) if options.end_to_end else _FRAMES
    options.frames = options.frames or max(1, given)
    options.sizes = options.sizes or [options.size or (1920, 1080)]
    if options.end_to_end and (len(options.sizes) > 1 or options.cameras != [1]):
        parser.error('--end-to-end takes one --size and one camera; run it for each')
    if options.against and not options.end_to_end:
        parser.error('--against is for --end-to-end')
    if not (options.rate > 0 and options.seconds > 0):
        parser.error(f'--rate {options.rate} and --seconds {options.seconds} must be above 0')
    return options


def _add_measurement(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add('--model', required=True, metavar='DIR', help='model folder')
    add('--json', required=True, type=Path, metavar='FILE', help='result file')
    add('--plot', type=_svg, metavar='FILE.svg', help='plot of the result')
    add('--size', type=size_of, metavar='WxH', help='default: 1920x1080')
    add('--sizes', type=size_of, nargs='+', metavar='WxH', help='several sizes, for a table')
    add('--runtime', default='auto', help='as the parameter of the node (default: auto)')
    add('--device', default='auto', help='auto, cpu, cuda ... (default: auto)')
    add('--threads', type=int, default=0, help="CPU threads (0: torch's default)")
    add(
        '--frames',
        type=_count,
        help=f'frames of a measurement (default: {_FRAMES}, or as many as two minutes allow; over '
        'DDS those of --seconds)',
    )


def _add_end_to_end(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add('--end-to-end', action='store_true', help='measure from camera to listener over DDS')
    add('--rate', type=float, default=30.0, metavar='HZ', help='default: 30')
    add('--seconds', type=float, default=10.0, help='duration of each run (default: 10)')
    add(
        '--rounds',
        type=_count,
        default=3,
        help='default: %(default)s; fewer if starting the processes takes over two minutes',
    )
    add(
        '--against',
        choices=['plain'],
        help='alternate with a plain node, and with a camera without the DDS profile',
    )
    add('--outputs', nargs='+', choices=OUTPUTS, default=[], help='further topics to subscribe to')
    add('--profile', metavar='XML', help="Fast DDS profile, or none (default: the package's)")
    add('--logs', metavar='DIR', help='folder for the logs of the processes')


def size_of(text: str) -> tuple[int, int]:
    """
    Read a size.

    :param text: like 1920x1080.
    :return: width, height.
    :raises argparse.ArgumentTypeError: if it is not a size.
    """
    width, _, height = text.partition('x')
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f'{text!r} is not a size: write it like 1920x1080')
    return int(width), int(height)


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number above 0')
    return int(text)


def _svg(text: str) -> Path:
    if not text.endswith('.svg'):
        raise argparse.ArgumentTypeError(f'{text!r} does not end in .svg, the format of the plot')
    return Path(text)
