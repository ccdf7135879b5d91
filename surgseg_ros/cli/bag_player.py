# SPDX-License-Identifier: Apache-2.0
"""Publishes the images of a bag with the timing of their recording."""

import argparse
import math
import sys
from collections.abc import Sequence
from typing import Final

from surgseg_ros.node.bag_player import play_bag

CLOCK_HZ: Final = 40.0


def main(argv: Sequence[str] | None = None) -> int:
    """
    Play a bag until its end, or until SIGINT or SIGTERM.

    :param argv: the arguments, those of ROS (`--ros-args -r from:=to`) included.
    :return: the exit status.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    return play_bag(_parser().parse_args(arguments), arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='surgseg_ros bag_player',
        description=__doc__,
        epilog='Topics are renamed as those of any node: --ros-args -r from:=to',
    )
    parser.add_argument('bag', metavar='BAG', help='a folder, a .mcap or a .db3 file')
    parser.add_argument(
        '--topics', nargs='+', metavar='T', help='topics of any type (default: all images)'
    )
    parser.add_argument(
        '--rate', type=_positive, default=1.0, metavar='R', help='speed (default: %(default)s)'
    )
    parser.add_argument('--loop', action='store_true', help='play again and again')
    parser.add_argument(
        '--clock',
        type=_positive,
        nargs='?',
        const=CLOCK_HZ,
        metavar='HZ',
        help=f'publish the time of the bag on /clock (so often; {CLOCK_HZ:g} if not said)',
    )
    parser.add_argument(
        '--wait',
        type=_positive,
        nargs='?',
        const=math.inf,
        metavar='SECONDS',
        help='wait until each topic that is played (see --topics) has a subscriber (at most so '
        'long, then exit 1)',
    )
    parser.add_argument(
        '--delay', type=_not_negative, default=0.0, metavar='SECONDS', help='wait before playing'
    )
    parser.add_argument('--ros-args', nargs=argparse.REMAINDER, help='arguments for ROS')
    return parser


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f'{text!r} is no number above 0')
    return number


def _not_negative(text: str) -> float:
    return 0.0 if text == '0' else _positive(text)
