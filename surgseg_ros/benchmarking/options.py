# SPDX-License-Identifier: Apache-2.0
"""The command line of the benchmark."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_FRAMES: Final = 100
"""Of a measurement without DDS."""

OUTPUTS: Final = ('detections', 'confidence', 'overlay')
"""What the listener may subscribe to besides the mask; the last two are made only then."""


def read_options(argv: Sequence[str] | None, about: str | None) -> argparse.Namespace:
    """
    Read the arguments; what makes no sense ends the process.

    :param argv: the arguments; those of the command line by default.
    :param about: what the verb does.
    :return: the options; `sizes` are (width, height) in pixels, `frames` those of a measurement,
        which may be cut short where it is `bounded`.
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
    add('--json', required=True, type=Path, metavar='FILE', help='what to write')
    add('--plot', type=_svg, metavar='FILE.svg', help='draw it as well')
    add('--size', type=size_of, metavar='WxH', help='default: 1920x1080')
    add('--sizes', type=size_of, nargs='+', metavar='WxH', help='several, for a table')
    add('--runtime', default='auto', help="default: auto, as the node's")
    add('--device', default='auto', help='auto, cpu, cuda ... (default: auto)')
    add('--threads', type=int, default=0, help="on the CPU (0: torch's choice)")
    add(
        '--frames',
        type=_count,
        help=f'of a measurement (default: {_FRAMES}, or as many as two minutes allow; over DDS '
        'those of --seconds)',
    )


def _add_end_to_end(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add('--end-to-end', action='store_true', help='camera, node and listener')
    add('--rate', type=float, default=30.0, metavar='HZ', help='default: 30')
    add('--seconds', type=float, default=10.0, help='of each run (default: 10)')
    add(
        '--rounds',
        type=_count,
        default=3,
        help='default: %(default)s; fewer where starting the processes takes over two minutes',
    )
    add(
        '--against',
        choices=['plain'],
        help='take turns with a plain node, and with a camera without DDS profile',
    )
    add('--outputs', nargs='+', choices=OUTPUTS, default=[], help='heard besides the mask')
    add('--profile', metavar='XML', help="Fast DDS profile, or none (the package's)")
    add('--logs', metavar='DIR', help='keep what the processes say')


def size_of(text: str) -> tuple[int, int]:
    """
    Read a size.

    :param text: like 1920x1080.
    :return: width, height.
    :raises argparse.ArgumentTypeError: if it is none.
    """
    width, _, height = text.partition('x')
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f'{text!r} is no size: write it like 1920x1080')
    return int(width), int(height)


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f'{text!r} is no whole number above 0')
    return int(text)


def _svg(text: str) -> Path:
    if not text.endswith('.svg'):
        raise argparse.ArgumentTypeError(f'{text!r} does not end in .svg, the format of the plot')
    return Path(text)
