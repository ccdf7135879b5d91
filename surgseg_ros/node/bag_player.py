# SPDX-License-Identifier: Apache-2.0
"""Publishes the images of a bag with the timing of their recording."""

import argparse
import math
import signal
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import rclpy
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args

from surgseg_ros.bags.reading import Bag, BagError
from surgseg_ros.node.playing import Player

CLOCK_HZ: Final = 40.0


def main(argv: Sequence[str] | None = None) -> int:
    """
    Play a bag until its end, or until SIGINT or SIGTERM.

    :param argv: the arguments, those of ROS (`--ros-args -r from:=to`) included.
    :return: the exit status.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    options = _parser().parse_args(remove_ros_args(['bag_player', *arguments])[1:])
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    # A handler runs in this thread, and may not set an event that this thread waits for.
    with ThreadPoolExecutor(1) as pool:
        try:
            return pool.submit(_session, options, arguments, stop).result()
        except BagError as error:
            print(f'bag_player: {error}', file=sys.stderr)
            return 1


def _session(options: argparse.Namespace, arguments: list[str], stop: threading.Event) -> int:
    """Play a bag as the options say, with a node that lives as long."""
    with Bag(options.bag) as bag:
        rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
        node = rclpy.create_node('bag_player', start_parameter_services=False)
        try:
            player = Player(node, bag, options.topics, rate=options.rate, clock_hz=options.clock)
            return _play(player, options, stop)
        finally:
            node.destroy_node()
            rclpy.shutdown()


def _play(player: Player, options: argparse.Namespace, stop: threading.Event) -> int:
    """Wait, play and report; return the exit status."""
    names = ', '.join(player.topic_names)
    if options.wait is not None:
        print(f'bag_player: waiting for subscribers of {names}', flush=True)
        lonely = player.wait_for_subscribers(stop, options.wait)
        if lonely and not stop.is_set():
            text = f'no subscriber of {", ".join(lonely)} after {options.wait:g} s'
            print(f'bag_player: {text}: start one, or wait longer', file=sys.stderr)
            return 1
    stop.wait(options.delay)
    print(f'bag_player: playing {names}', flush=True)
    try:
        player.play(stop, loop=options.loop)
    finally:
        end = 'acknowledged' if player.wait_until_acknowledged(stop) else 'not received by all'
        end = 'stopped' if stop.is_set() else end
        print(f'bag_player: {player.report()}; {end}', flush=True)
    return 0


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
        help='wait until each topic has a subscriber (at most so long, then exit 1)',
    )
    parser.add_argument(
        '--delay', type=_not_negative, default=0.0, metavar='SECONDS', help='wait before playing'
    )
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
