# SPDX-License-Identifier: Apache-2.0
"""Plays a bag in a process with a node of its own, until its end or a signal."""

import argparse
import signal
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from surgseg_ros.core.errors import missing_library

if TYPE_CHECKING:
    from surgseg_ros.node.playing import Player

END_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
SIGNAL_POLL_S: Final = 0.1
REMINDER_S: Final = 5.0


def play_bag(options: argparse.Namespace, arguments: list[str]) -> int:
    """
    Play a bag until its end, or until SIGINT or SIGTERM.

    :param options: the parsed options of the verb `bag_player`.
    :param arguments: all arguments, including those of ROS (`--ros-args -r from:=to`).
    :return: the exit status.
    """
    # Signals are blocked here, and so in all later threads, and waited for below. A handler must
    # not set an event: a second signal during the first one's handler would deadlock on its lock.
    signal.pthread_sigmask(signal.SIG_BLOCK, END_SIGNALS)
    # A library's thread that is older than that may get one, which must not end the process.
    received: list[int] = []
    for number in END_SIGNALS:
        signal.signal(number, lambda number, frame: received.append(number))
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        session = pool.submit(_session, options, arguments, stop)
        while not session.done():
            if signal.sigtimedwait(END_SIGNALS, SIGNAL_POLL_S) or received:
                stop.set()
    return session.result()


def _session(options: argparse.Namespace, arguments: list[str], stop: threading.Event) -> int:
    """Create the node, play the bag as the options say, and return the exit status."""
    try:
        # Imported after signals are blocked: the import takes seconds, and NumPy starts threads.
        import rclpy

        from surgseg_ros.bags.reading import Bag
        from surgseg_ros.node.middleware import begin_ros
        from surgseg_ros.node.playing import Player
    except ImportError as error:
        return _fail(missing_library(error))
    try:
        with Bag(options.bag) as bag:
            begin_ros(arguments)
            node = rclpy.create_node('bag_player', start_parameter_services=False)
            try:
                player = Player(
                    node, bag, options.topics, rate=options.rate, clock_hz=options.clock
                )
                return _play(player, options, stop)
            finally:
                node.destroy_node()
                rclpy.shutdown()
    except (ValueError, RuntimeError) as error:  # from the bag, or from ROS about its arguments
        return _fail(str(error))


def _fail(text: str) -> int:
    print(f'bag_player: {text}', file=sys.stderr)
    return 1


def _play(player: 'Player', options: argparse.Namespace, stop: threading.Event) -> int:
    """Wait, play and report; return the exit status."""
    names = ', '.join(player.topic_names)
    if options.wait is not None:
        print(f'bag_player: waiting for subscribers of {names}', flush=True)
        missing = _wait(player, options.wait, stop)
        if missing and not stop.is_set():
            text = f'no subscriber of {", ".join(missing)} after {options.wait:g} s'
            return _fail(f'{text}: {_remedy(missing)}, or wait longer')
    stop.wait(options.delay)
    print(f'bag_player: playing {names}', flush=True)
    try:
        player.play(stop, loop=options.loop)
    finally:
        print(f'bag_player: {player.report()}; {_end(player, stop)}', flush=True)
    return 0


def _wait(player: 'Player', timeout_s: float, stop: threading.Event) -> list[str]:
    """Wait for subscribers, with one reminder; return the topics that have none."""
    missing = player.wait_for_subscribers(stop, min(REMINDER_S, timeout_s))
    if not missing or stop.is_set() or timeout_s <= REMINDER_S:
        return missing
    text = f'still waiting for a subscriber of {", ".join(missing)}'
    print(f'bag_player: {text}: {_remedy(missing)}', flush=True)
    return player.wait_for_subscribers(stop, timeout_s - REMINDER_S)


def _remedy(missing: Sequence[str]) -> str:
    which = 'them' if len(missing) > 1 else 'it'
    return f'start one, or exclude {which}: --topics lists the topics to play'


def _end(player: 'Player', stop: threading.Event) -> str:
    """Describe how playback ended, and for which subscribers."""
    counts = player.subscriber_counts()
    acknowledged = player.wait_until_acknowledged(stop)
    if stop.is_set():
        return 'stopped'
    if not any(counts.values()):
        return 'there was no subscriber'
    subscribers = ', '.join(f'{name} {count}' for name, count in counts.items())
    end = 'acknowledged' if acknowledged else 'not received by all'
    return f'{end} (subscribers: {subscribers})'
