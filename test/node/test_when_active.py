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

from surgseg_ros.node import when_active

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


def test_requests_leave_no_tasks_for_later_ones(answer, monkeypatch):
    """Each would run during all later requests, which would take longer and longer."""
    created = []

    class Counting(SingleThreadedExecutor):
        def create_task(self, callback, *args, **kwargs):
            created.append(callback)
            return super().create_task(callback, *args, **kwargs)

    monkeypatch.setattr(rclpy.executors, 'SingleThreadedExecutor', Counting)
    monkeypatch.setattr(when_active, 'POLL_PERIOD_S', 0.001)
    requests = 30
    answer(*['configuring'] * requests, 'active')
    assert when_active.wait_until_active('/left/lazy') is None
    # None are counted if another executor is the global one.
    assert requests < len(created) <= 2 * requests


def test_a_request_ends_when_rclpy_is_shut_down(monkeypatch):
    """Otherwise, spinning would return at once, again and again, for a second."""
    spun = []

    class Client:
        def wait_for_service(self, timeout_sec):
            return True

        def call_async(self, request):
            return rclpy.Future()

        def remove_pending_request(self, future):
            pass

    def spin_once(node, timeout_sec):
        spun.append(timeout_sec)
        rclpy.shutdown()

    monkeypatch.setattr(rclpy, 'spin_once', spin_once)
    rclpy.init(args=[])
    assert when_active.ask_state(None, Client()) == 'not answering'
    assert len(spun) == 1


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
        when_active.main(['/segmenter'])
    assert 'no command: give one after' in capsys.readouterr().err
