# SPDX-License-Identifier: Apache-2.0
"""SIGINT and SIGTERM in every state: exit status 0, no traceback, `inactive` as the last word."""

import signal

import pytest
from bench import TIMEOUT_S, until
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from nodes import NodeProcess

WAYS = {
    'unconfigured': (),
    'inactive': ('configure',),
    'active': ('configure', 'activate'),
    'finalized': ('configure', 'activate', 'shutdown'),
}
SIGNALS = (signal.SIGINT, signal.SIGTERM)
CASES = [(state, number) for state in (*WAYS, 'configuring') for number in SIGNALS]


@pytest.fixture(scope='module')
def processes(tmp_path_factory, bench, model):
    """Start all at once: most of a start is waiting for imports."""
    started = {}
    for state, number in CASES:
        namespace = f'{bench.namespace}/{state}_{number.name.lower()}'
        log = tmp_path_factory.mktemp('node') / 'log'
        node = NodeProcess(log, namespace, autostart='false', model=model, cpu_threads=1)
        started[state, number] = (node, namespace)
    topics = [f'{namespace}/status' for _, namespace in started.values()]
    until(lambda: all(map(bench.node.count_publishers, topics)), 'all of them')
    yield started
    for node, _ in started.values():
        if node.lives():
            node.process.kill()


def change_soon(bench, namespace, label):
    request = ChangeState.Request(transition=Transition(label=label))
    return bench.call_soon(ChangeState, f'{namespace}/segmenter/change_state', request)


@pytest.mark.parametrize(('state', 'number'), CASES)
def test_it_ends_well_and_says_inactive_last(processes, bench, state, number):
    node, namespace = processes[state, number]
    status = bench.status(f'{namespace}/status')
    for label in WAYS.get(state, ()):
        future, answered = change_soon(bench, namespace, label)
        assert answered.wait(TIMEOUT_S)
        assert future.result().success
    if state == 'configuring':
        change_soon(bench, namespace, 'configure')
        status.wait(lambda m: m.values[0].value == 'configuring')
    else:
        assert status.wait()

    node.process.send_signal(number)

    assert node.process.wait(TIMEOUT_S) == 0
    until(lambda: status.messages[-1].values[0].value == 'the process ends', 'the last word')
    assert status.messages[-1].message == 'inactive'
    assert 'Traceback' not in node.log()
