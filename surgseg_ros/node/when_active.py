# SPDX-License-Identifier: Apache-2.0
"""Runs a command as soon as a lifecycle node is active; used by replay.launch.py."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence

import rclpy
from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import GetState
from rclpy.client import Client
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

RESPONSE_TIMEOUT_S = 1.0
POLL_PERIOD_S = 0.1
REMINDER_PERIOD_S = 10.0
END_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main(argv: Sequence[str] | None = None) -> int:
    """
    Wait for the node, then replace this process with the command.

    :param argv: the arguments; None: those of the command line.
    :return: the exit status if the command was not run.
    """
    parser = argparse.ArgumentParser(prog='when_active', description=__doc__)
    parser.add_argument('node', help='full name of the lifecycle node, such as /segmenter')
    parser.add_argument(
        'command', nargs=argparse.REMAINDER, help='command to run, with its options'
    )
    arguments = parser.parse_args(argv)
    if not arguments.command:
        parser.error('no command: give one after the name of the node')
    # Signals are handled between two requests: rclpy must not be interrupted by one.
    signal.pthread_sigmask(signal.SIG_BLOCK, END_SIGNALS)
    number = wait_until_active(arguments.node)
    if number is not None:
        return 128 + number
    # Blocked signals would stay blocked in the command.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, END_SIGNALS)
    # The command replaces this process, so signals reach it directly.
    os.execvp(arguments.command[0], arguments.command)


def wait_until_active(name: str) -> int | None:
    """
    Request the state of a lifecycle node until it is active, or a signal arrives.

    An event of a transition could be missed; a request cannot.

    :param name: full name of the node.
    :return: the number of the signal, one of END_SIGNALS, which are blocked; None without one.
    """
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node(f'when_active_{os.getpid()}', start_parameter_services=False)
    client = node.create_client(GetState, f'{name}/get_state')
    reminder_s = time.monotonic() + REMINDER_PERIOD_S
    try:
        while (state := ask_state(node, client)) != 'active':
            if time.monotonic() > reminder_s:
                node.get_logger().warning(f'waiting until {name} is active; it is {state}')
                reminder_s += REMINDER_PERIOD_S
            if caught := signal.sigtimedwait(END_SIGNALS, POLL_PERIOD_S):
                return caught.si_signo
        return None
    finally:
        node.destroy_node()
        rclpy.shutdown()


def ask_state(node: Node, client: Client) -> str:
    """
    Request the state of a lifecycle node once.

    :param node: the node that sends the request.
    :param client: its client for the `get_state` service.
    :return: the state's label, or 'not answering'.
    """
    if not client.wait_for_service(timeout_sec=RESPONSE_TIMEOUT_S):
        return 'not answering'
    future = client.call_async(GetState.Request())
    # Not spin_until_future_complete: in rclpy 7.1 it leaves tasks in the global executor, so that
    # each request takes longer than the one before.
    end_s = time.monotonic() + RESPONSE_TIMEOUT_S
    while rclpy.ok() and not future.done() and (left_s := end_s - time.monotonic()) > 0:
        rclpy.spin_once(node, timeout_sec=left_s)
    if not future.done():
        client.remove_pending_request(future)
        return 'not answering'
    state: State = future.result().current_state
    return str(state.label)


if __name__ == '__main__':
    sys.exit(main())
