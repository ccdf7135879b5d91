# SPDX-License-Identifier: Apache-2.0
"""Publishes the images of a bag with the timing of their recording."""

import argparse
import math
import sys
from collections.abc import Sequence
from typing import Final

from surgseg_ros.cli.arguments import non_negative_float, positive_float
from surgseg_ros.node.entry_points import play_bag

CLOCK_HZ: Final = 40.0


def main(argv: Sequence[str] | None = None) -> int:
    """
    Play a bag until its end, or until SIGINT or SIGTERM.

    :param argv: the arguments, including those of ROS (`--ros-args -r from:=to`).
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
    add = parser.add_argument
    # fmt: off
    add('bag', metavar='BAG', help='a folder, a .mcap or a .db3 file')
    add('--topics', nargs='+', metavar='T', help='topics of any type (default: all images)')
    add('--also', nargs='+', default=(), metavar='T',
        help='topics to play too where the bag has them, such as camera_info; --wait does not '
        'wait for their subscribers')
    add('--rate', type=positive_float, default=1.0, metavar='R',
        help='speed (default: %(default)s)')
    add('--loop', action='store_true', help='play again and again')
    add('--clock', type=positive_float, nargs='?', const=CLOCK_HZ, metavar='HZ',
        help=f'publish the time of the bag on /clock, HZ times a second (default: {CLOCK_HZ:g})')
    add('--wait', type=positive_float, nargs='?', const=math.inf, metavar='SECONDS',
        help='wait until each topic that is played (see --topics) has a subscriber (at most '
        'SECONDS, then exit with 1)')
    add('--delay', type=non_negative_float, default=0.0, metavar='SECONDS',
        help='wait before playing')
    add('--ros-args', nargs=argparse.REMAINDER, help='arguments for ROS')
    # fmt: on
    return parser
