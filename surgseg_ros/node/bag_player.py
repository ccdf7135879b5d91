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

    :param options: of the verb `bag_player`.
    :param arguments: all of the verb's, those of ROS (`--ros-args -r from:=to`) included.
    :return: the exit status.
    """
    # Blocked here, and so in all threads to come, a signal is a value to wait for. A handler may
    # not set an event: a second signal, amid the first one's handler, would find its lock taken.
    signal.pthread_sigmask(signal.SIG_BLOCK, END_SIGNALS)
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        session = pool.submit(_session, options, arguments, stop)
        while not session.done():
            if signal.sigtimedwait(END_SIGNALS, SIGNAL_POLL_S):
                stop.set()
    return session.result()


def _session(options: argparse.Namespace, arguments: list[str], stop: threading.Event) -> int:
    """Play a bag as the options say, with a node that lives as long; return the exit status."""
    try:
        # Imported here, once signals are blocked: it takes seconds, and numpy starts threads.
        import rclpy

        from surgseg_ros.bags.reading import Bag
        from surgseg_ros.node.compatibility import begin_ros
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
    except (ValueError, RuntimeError) as error:  # of the bag, and of ROS over its arguments
        return _fail(str(error))


def _fail(text: str) -> int:
    print(f'bag_player: {text}', file=sys.stderr)
    return 1


def _play(player: 'Player', options: argparse.Namespace, stop: threading.Event) -> int:
    """Wait, play and report; return the exit status."""
    names = ', '.join(player.topic_names)
    if options.wait is not None:
        print(f'bag_player: waiting for subscribers of {names}', flush=True)
        lonely = _wait(player, options.wait, stop)
        if lonely and not stop.is_set():
            text = f'no subscriber of {", ".join(lonely)} after {options.wait:g} s'
            return _fail(f'{text}: {_remedy(lonely)}, or wait longer')
    stop.wait(options.delay)
    print(f'bag_player: playing {names}', flush=True)
    try:
        player.play(stop, loop=options.loop)
    finally:
        print(f'bag_player: {player.report()}; {_end(player, stop)}', flush=True)
    return 0


def _wait(player: 'Player', timeout_s: float, stop: threading.Event) -> list[str]:
    """Wait for subscribers, and say once what keeps it; return the topics without any."""
    lonely = player.wait_for_subscribers(stop, min(REMINDER_S, timeout_s))
    if not lonely or stop.is_set() or timeout_s <= REMINDER_S:
        return lonely
    text = f'still waiting for a subscriber of {", ".join(lonely)}'
    print(f'bag_player: {text}: {_remedy(lonely)}', flush=True)
    return player.wait_for_subscribers(stop, timeout_s - REMINDER_S)


def _remedy(lonely: Sequence[str]) -> str:
    leave = 'them' if len(lonely) > 1 else 'it'
    return f'start one, or leave {leave} out: --topics names what is played'


def _end(player: 'Player', stop: threading.Event) -> str:
    """Say how the playing ended, and for whom."""
    counts = player.subscriber_counts()
    acknowledged = player.wait_until_acknowledged(stop)
    if stop.is_set():
        return 'stopped'
    if not any(counts.values()):
        return 'nobody subscribed'
    heard = ', '.join(f'{name} {count}' for name, count in counts.items())
    end = 'acknowledged' if acknowledged else 'not received by all'
    return f'{end} (subscribers: {heard})'
