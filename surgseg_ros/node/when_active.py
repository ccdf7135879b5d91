# SPDX-License-Identifier: Apache-2.0
"""Runs a command once a lifecycle node answers that it is active; so a bag starts in time."""

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

ANSWER_TIMEOUT_S = 1.0
POLL_PERIOD_S = 0.1
REMINDER_PERIOD_S = 10.0
END_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main(argv: Sequence[str] | None = None) -> int:
    """
    Wait for the node, then become the command.

    :param argv: the arguments; the process's own where None.
    :return: the exit status where the command was not run.
    """
    parser = argparse.ArgumentParser(prog='when_active', description=__doc__)
    parser.add_argument('node', help='full name of the lifecycle node, /segmenter say')
    parser.add_argument('command', nargs=argparse.REMAINDER, help='what to run, with its options')
    arguments = parser.parse_args(argv)
    if not arguments.command:
        parser.error('there is no command; give one after the name of the node')
    # Signals are looked for between two questions: one that broke into rclpy would leave a mess.
    signal.pthread_sigmask(signal.SIG_BLOCK, END_SIGNALS)
    number = wait_until_active(arguments.node)
    if number is not None:
        return 128 + number
    # What is blocked now would stay blocked in the command.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, END_SIGNALS)
    # The command takes this process's place, so that a signal to it needs no passing on.
    os.execvp(arguments.command[0], arguments.command)


def wait_until_active(name: str) -> int | None:
    """
    Ask a lifecycle node for its state until it says that it is active, or a signal comes.

    The event of its activation can pass before anyone listens; the answer cannot.

    :param name: the node's full name.
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
    Ask a lifecycle node once for its state.

    :param node: the node that asks.
    :param client: its client of the other's `get_state`.
    :return: the state's label, or 'not answering'.
    """
    if not client.wait_for_service(timeout_sec=ANSWER_TIMEOUT_S):
        return 'not answering'
    future = client.call_async(GetState.Request())
    rclpy.spin_until_future_complete(node, future, timeout_sec=ANSWER_TIMEOUT_S)
    if not future.done():
        client.remove_pending_request(future)
        return 'not answering'
    state: State = future.result().current_state
    return str(state.label)


if __name__ == '__main__':
    sys.exit(main())
