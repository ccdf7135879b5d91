# SPDX-License-Identifier: Apache-2.0
"""
SIGINT and SIGTERM in every state: exit status 0, no traceback, `inactive` as the last status.

A transition takes milliseconds. So the process is stopped (SIGSTOP) when its `transition_event`
reports that one has begun, or its log that another model is being loaded. If the end has not been
reported by then, the signal is sent, and delivered with SIGCONT during the transition. Otherwise
the transition is reversed and tried again. To make transitions take longer, several cameras are
created or destroyed, and a deactivation waits until a large overlay is drawn.

Unconfigured, SIGTERM is sent with the first log message of the node. Finalized, the node gets
SIGINT in `test_lifecycle.py`. A shutdown cannot be tried again: if it ends too soon, this tests
the state finalized.
"""

import contextlib
import itertools
import os
import signal

import pytest
from bench import TIMEOUT_S, image_cdr, make_image, until
from lifecycle_msgs.msg import Transition, TransitionEvent
from lifecycle_msgs.srv import ChangeState
from nodes import NodeProcess
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image
from started import NODE_GIB, end, room_for
from tiny_models import write_tiny_model
from vision_msgs.msg import Detection2DArray

INT, TERM = signal.SIGINT, signal.SIGTERM
CHANGING = 'changing its model'
TRANSITIONS = {
    'unconfigured': (),
    'inactive': ('configure',),
    'active': ('configure', 'activate'),
    'finalized': ('configure', 'activate', 'shutdown'),
    'configuring': (),
    'activating': ('configure',),
    'deactivating': ('configure', 'activate'),
    'cleaningup': ('configure',),
    'shuttingdown': ('configure', 'activate'),
    CHANGING: ('configure', 'activate'),
}
STEPS = {
    'configuring': ('configure', 'cleanup'),
    'activating': ('activate', 'deactivate'),
    'deactivating': ('deactivate', 'activate'),
    'cleaningup': ('cleanup', 'configure'),
    'shuttingdown': ('shutdown', None),
}
"""What starts a transition, and what reverses it; a shutdown cannot be reversed."""
AT_ONCE = ('unconfigured', TERM)
CASES = [
    AT_ONCE,
    ('unconfigured', INT),
    *itertools.product(('inactive', 'active'), (INT, TERM)),
    ('finalized', TERM),
    ('configuring', INT),
    ('activating', TERM),
    ('deactivating', INT),
    ('cleaningup', TERM),
    ('shuttingdown', INT),
    (CHANGING, TERM),
]
CAMERAS = {'activating': 4, 'cleaningup': 8}


class NodeUnderTest:
    """The process of the node, with its service clients and recorders."""

    def __init__(self, bench, name, log, model, cameras=1):
        self._bench, self._namespace = bench, f'{bench.namespace}/{name}'
        self.status = bench.status(f'{self._namespace}/status')
        topic = f'{self._namespace}/segmenter/transition_event'
        self._events = bench.listen(TransitionEvent, topic)
        more = [f'camera_{number}' for number in range(1, cameras)]
        topics, names = (str([first, *more]).replace(' ', '') for first in ('image', ''))
        self.node = NodeProcess(
            log,
            self._namespace,
            autostart='false',
            model=model,
            cpu_threads=1,
            stale_after_ms=600_000,
            image_topics=topics,
            camera_names=names,
        )

    def send(self, number):
        self.node.process.send_signal(number)

    def change_async(self, label):
        request = ChangeState.Request(transition=Transition(label=label))
        name = f'{self._namespace}/segmenter/change_state'
        return self._bench.call_async(ChangeState, name, request)

    def change(self, label):
        future, answered = self.change_async(label)
        assert answered.wait(TIMEOUT_S), f'no response to {label}'
        return future.result().success

    def stop_in(self, state):
        """Stop the process during a transition."""
        step, back = STEPS[state]
        while True:
            if state in ('deactivating', 'shuttingdown'):
                self._draw()
            heard = len(self._events.messages)
            _, answered = self.change_async(step)
            assert self._events.wait(lambda m: m.goal_state.label == state, since=heard)
            self._stop()
            # Messages sent before it was stopped still arrive.
            over = self._events.wait(lambda m: m.start_state.label == state, 0.1, heard)
            if not over or not back:
                return
            self.send(signal.SIGCONT)
            assert answered.wait(TIMEOUT_S)
            assert self.change(back)

    def stop_in_change_of_model(self, *folders):
        """Stop the active process while it loads another model."""
        for tries, folder in enumerate(itertools.cycle(folders), 1):
            until(lambda folder=folder: self._set_model(folder), 'the change to be accepted')
            until(
                lambda tries=tries: self.node.log().count("loading '") > tries, 'the load to start'
            )
            self._stop()
            if self.node.log().count('the model is now') < tries:
                return
            self.send(signal.SIGCONT)

    def _draw(self):
        """Wait until it draws a large overlay: the results published before it have arrived."""
        found = self._bench.listen(Detection2DArray, f'{self._namespace}/detections')
        overlay = self._bench.listen(Image, f'{self._namespace}/overlay')
        camera = self._bench.camera(f'{self._namespace}/image')
        for recorder in (found, overlay):
            self._bench.connect(camera, recorder)
        sent_ns = self._bench.new_stamp_ns()
        camera.publish(image_cdr(make_image(height=1440, width=2560), sent_ns))
        found.wait_for_stamp(sent_ns)

    def _set_model(self, folder):
        changes = [Parameter('model', value=str(folder)).to_parameter_msg()]
        request = SetParametersAtomically.Request(parameters=changes)
        name = f'{self._namespace}/segmenter/set_parameters_atomically'
        return self._bench.call(SetParametersAtomically, name, request).result.successful

    def _stop(self):
        self.send(signal.SIGSTOP)
        os.waitid(os.P_PID, self.node.process.pid, os.WSTOPPED)


class StartedNodes:
    """Starts the process for each test, and the next ones in advance while cores are free."""

    def __init__(self, cases, start):
        self._cases, self._start = cases, start
        self._started = {}
        self._maximum = room_for(NODE_GIB)

    def __getitem__(self, case):
        for wanted in self._cases[self._cases.index(case) :]:
            if wanted not in self._started:
                living = sum(under_test.node.is_alive() for under_test in self._started.values())
                if wanted != case and living >= self._maximum:
                    break
                self._started[wanted] = self._start(*wanted)
        return self._started[case]


@pytest.fixture(scope='module')
def started_nodes(request, tmp_path_factory, bench, model):
    items = [item for item in request.session.items if item.module is request.module]
    cases = [tuple(item.callspec.params[name] for name in ('state', 'number')) for item in items]
    with contextlib.ExitStack() as started:

        def start(state, number):
            name = f'{state}_{number.name}'.lower().replace(' ', '_')
            log = tmp_path_factory.mktemp('node') / 'log'
            under_test = NodeUnderTest(bench, name, log, model, CAMERAS.get(state, 1))
            started.callback(end, under_test.node.process)
            return under_test

        yield StartedNodes(cases, start)


@pytest.mark.parametrize(('state', 'number'), CASES)
def test_a_signal_ends_the_node_with_0_and_inactive_as_last_status(
    started_nodes, model, tmp_path, state, number
):
    under_test = started_nodes[state, number]
    assert under_test.status.wait()
    if (state, number) == AT_ONCE:
        under_test.send(number)
    for step in TRANSITIONS[state]:
        assert under_test.change(step)
    if state in STEPS:
        under_test.stop_in(state)
    elif state == CHANGING:
        under_test.stop_in_change_of_model(write_tiny_model(tmp_path / 'other', seed=7), model)

    if (state, number) != AT_ONCE:
        under_test.send(number)
        under_test.send(signal.SIGCONT)

    assert under_test.node.process.wait(TIMEOUT_S) == 0
    status = under_test.status
    until(lambda: status.messages[-1].values[0].value == 'the process ends', 'the last status')
    assert status.messages[-1].message == 'inactive'
    assert 'Traceback' not in under_test.node.log()
