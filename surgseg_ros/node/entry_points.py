# SPDX-License-Identifier: Apache-2.0
"""Entry points of the segmenter node and the bag player: signals, start and exit status."""

import argparse
import importlib.util
import os
import signal
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from surgseg_ros.core.errors import missing_library
from surgseg_ros.core.files import remove_unfinished
from surgseg_ros.core.processes import (
    importing,
    kill_children,
    limit_arenas,
    limit_spinning,
    limit_waiting,
)

if TYPE_CHECKING:
    from rclpy.executors import Executor
    from rclpy.node import Node

    from surgseg_ros.node.bag_player import Player

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

NEEDED_LATER: Final = ('torch', 'segmentation_models_pytorch', 'safetensors')
"""Libraries imported only when the first model is loaded, but checked on startup."""

SIGNAL_POLL_S: Final = 0.1
REMINDER_S: Final = 5.0


def run_segmenter(argv: Sequence[str] | None = None) -> int:
    """
    Run the node until SIGINT or SIGTERM.

    :param argv: arguments without the name of the program; ROS arguments follow `--ros-args`.
    :return: the exit status; in practice, the process exits here.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    _parser().parse_args(arguments)
    # Blocked for `sigwait`, in later threads as well: rclpy's handlers would shut the context down
    # before the last status is published, and a handler that sets an Event can deadlock.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    begun, stopped = threading.Event(), threading.Event()
    threading.Thread(target=_wait_for_signal, args=(begun, stopped), daemon=True).start()
    status = _run(arguments, begun, stopped)
    sys.stdout.flush()
    sys.stderr.flush()
    # A thread may be converting a model.
    kill_children()
    remove_unfinished()
    # Daemon threads inside native code would race with the shutdown of the interpreter.
    os._exit(status)


def _wait_for_signal(begun: threading.Event, stopped: threading.Event) -> None:
    signal.sigwait(SIGNALS)
    if not begun.is_set():
        os._exit(0)  # the node has not been visible yet
    stopped.set()


def _run(arguments: list[str], begun: threading.Event, stopped: threading.Event) -> int:
    limit_spinning()  # only in this process, not in others of the same launch file
    try:
        _check_installed(NEEDED_LATER)
        with importing():  # after signals are blocked: it takes a second
            from surgseg_ros.node.lifecycle import ServiceThreadExecutor
            from surgseg_ros.node.middleware import begin_ros
            from surgseg_ros.node.segmenter_node import SegmenterNode

        limit_arenas()
        limit_waiting()
        begin_ros(arguments)
        begun.set()  # from now on, the node must publish a last status
        node = SegmenterNode()
    except ImportError as error:
        print(f'segmenter: {missing_library(error)}', file=sys.stderr)
        return 1
    except Exception as error:  # a value of the wrong type, an unreadable file, no middleware
        print(f'segmenter: {error}', file=sys.stderr)
        return 1
    executor = ServiceThreadExecutor()
    executor.add_node(node)
    threading.Thread(target=spin, args=(executor, node, stopped), daemon=True).start()
    if node.settings.autostart:
        threading.Thread(target=node.start_by_itself, daemon=True).start()
    stopped.wait()
    node.stop()
    return 0


def _check_installed(libraries: Sequence[str]) -> None:
    """Raise ModuleNotFoundError for the first missing library; nothing is imported."""
    for name in libraries:
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)


def spin(executor: 'Executor', node: 'Node', stopped: threading.Event) -> None:
    """
    Spin until stopped, even if a callback raises.

    :param executor: the executor of the node.
    :param node: the node, whose logger reports errors.
    :param stopped: checked at least once a second.
    """
    from rclpy.exceptions import InvalidHandle

    while not stopped.is_set():
        try:
            executor.spin_once(timeout_sec=1.0)
        except InvalidHandle:  # a subscription was replaced while the executor handled it
            continue
        except Exception as error:  # an exception in a callback would end `spin`
            if not stopped.is_set():
                node.get_logger().error(f'callback failed: {type(error).__name__}: {error}')


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='surgseg_ros segmenter',
        description='The segmenter node: images in, class masks and detections out.',
        epilog='Example: segmenter --ros-args -p model:=FOLDER -r image:=/camera/image_raw. '
        'All parameters: config/segmenter.yaml, or `ros2 param describe /segmenter NAME`.',
    )
    parser.add_argument('--ros-args', nargs=argparse.REMAINDER, help='arguments for ROS')
    return parser


def play_bag(options: argparse.Namespace, arguments: list[str]) -> int:
    """
    Play a bag until its end, or until SIGINT or SIGTERM.

    :param options: the parsed options of the verb `bag_player`.
    :param arguments: all arguments, including those of ROS (`--ros-args -r from:=to`).
    :return: the exit status.
    """
    # Signals are blocked here, and so in all later threads, and waited for below. A handler must
    # not set an event: a second signal during the first one's handler would deadlock on its lock.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    # A signal may be delivered to an older thread of a library, and must not end the process.
    received: list[int] = []
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: received.append(number))
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        session = pool.submit(_session, options, arguments, stop)
        while not session.done():
            if signal.sigtimedwait(SIGNALS, SIGNAL_POLL_S) or received:
                stop.set()
    return session.result()


def _session(options: argparse.Namespace, arguments: list[str], stop: threading.Event) -> int:
    """Create the node, play the bag according to the options, and return the exit status."""
    try:
        # Imported after signals are blocked: the import takes seconds, and NumPy starts threads.
        import rclpy

        from surgseg_ros.bags.reading import Bag
        from surgseg_ros.node.bag_player import Player
        from surgseg_ros.node.middleware import begin_ros
    except ImportError as error:
        return _fail(missing_library(error))
    try:
        with Bag(options.bag) as bag:
            begin_ros(arguments)
            node = rclpy.create_node('bag_player', start_parameter_services=False)
            try:
                how = {'rate': options.rate, 'clock_hz': options.clock}
                player = Player(node, bag, options.topics, options.also, **how)
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
    if not stop.is_set():
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
