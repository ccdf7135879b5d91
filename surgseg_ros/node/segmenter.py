# SPDX-License-Identifier: Apache-2.0
"""The process around the segmenter node: arguments, signals, executor, exit status."""

import argparse
import importlib.util
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from surgseg_ros.core.errors import missing_library
from surgseg_ros.core.processes import importing, limit_arenas, limit_spinning

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

NEEDED_LATER: Final = ('torch', 'segmentation_models_pytorch', 'safetensors')
"""Imported only when the first model is loaded, but checked on startup."""

if TYPE_CHECKING:
    from rclpy.executors import Executor
    from rclpy.node import Node


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the node until SIGINT or SIGTERM.

    :param argv: arguments without the program's name; ROS arguments follow `--ros-args`.
    :return: the exit status; in fact the process exits with it here.
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
    # Daemon threads inside native code would race with the interpreter's shutdown.
    os._exit(status)


def _wait_for_signal(begun: threading.Event, stopped: threading.Event) -> None:
    signal.sigwait(SIGNALS)
    if not begun.is_set():
        os._exit(0)  # the node has not been visible yet
    stopped.set()


def _run(arguments: list[str], begun: threading.Event, stopped: threading.Event) -> int:
    limit_spinning()  # in this process only, not in all that a launch file starts
    try:
        _check_installed(NEEDED_LATER)
        with importing():  # after signals are blocked: it takes a second
            from surgseg_ros.node.lifecycle import PatientExecutor
            from surgseg_ros.node.middleware import begin_ros
            from surgseg_ros.node.segmenter_node import SegmenterNode

        limit_arenas()
        begin_ros(arguments)
        begun.set()  # the node publishes as soon as it exists, so it must publish a last status
        node = SegmenterNode()
    except ImportError as error:
        print(f'segmenter: {missing_library(error)}', file=sys.stderr)
        return 1
    except Exception as error:  # a value of the wrong type, an unreadable file, no middleware
        print(f'segmenter: {error}', file=sys.stderr)
        return 1
    executor = PatientExecutor()
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


if __name__ == '__main__':
    sys.exit(main())
