# SPDX-License-Identifier: Apache-2.0
"""A command runs when the node has reported that it is active, and not before."""

import signal
import subprocess
import sys
import threading

import pytest
import rclpy
from lifecycle_msgs.srv import GetState
from rclpy.executors import SingleThreadedExecutor
from started import running

from surgseg_ros.node.when_active import main

TIMEOUT_S = 300.0
WHEN_ACTIVE = (sys.executable, '-m', 'surgseg_ros.node.when_active')


class Answers:
    """A node whose `get_state` returns one state after the other, and then always the last."""

    def __init__(self, *states):
        self.states = list(states)
        self.count = 0
        self.asked = threading.Event()
        self._context = rclpy.Context()
        rclpy.init(args=[], context=self._context)
        self._node = rclpy.create_node('lazy', namespace='left', context=self._context)
        self._node.create_service(GetState, '~/get_state', self._answer)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._executor.spin)
        self._thread.start()

    def _answer(self, request, response):
        response.current_state.label = self.states[min(self.count, len(self.states) - 1)]
        self.count += 1
        self.asked.set()
        return response

    def close(self):
        self._executor.shutdown()
        self._thread.join()
        self._node.destroy_node()
        rclpy.shutdown(context=self._context)


@pytest.fixture
def answer():
    nodes = []

    def begin(*states):
        nodes.append(Answers(*states))
        return nodes[-1]

    yield begin
    for node in nodes:
        node.close()


def test_polls_until_active_and_then_executes_the_command(answer):
    node = answer('unconfigured', 'configuring', 'inactive', 'activating', 'active')
    program = 'import sys; print(sys.argv[1:]); sys.exit(3)'
    command = [sys.executable, '-c', program, '--loop', 'a b']
    run = subprocess.run(
        [*WHEN_ACTIVE, '/left/lazy', *command], capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert run.returncode == 3, run.stderr
    assert run.stdout == "['--loop', 'a b']\n"
    assert node.count == len(node.states)


def test_an_interrupt_during_the_wait_ends_it_without_the_command(answer):
    node = answer('inactive')
    command = [sys.executable, '-c', 'print("run")']
    with running(
        [*WHEN_ACTIVE, '/left/lazy', *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert node.asked.wait(TIMEOUT_S)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130, errors
    assert output == ''
    assert 'Traceback' not in errors


def test_reports_a_missing_command(capsys):
    with pytest.raises(SystemExit):
        main(['/segmenter'])
    assert 'no command: give one after' in capsys.readouterr().err
