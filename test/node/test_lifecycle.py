# SPDX-License-Identifier: Apache-2.0
"""The process of the node goes through every state on request, and exits with 0."""

from pathlib import Path

import pytest
from bench import FRAME_ID, until
from rclpy.qos import DurabilityPolicy
from sensor_msgs.msg import Image
from vision_msgs.msg import LabelInfo

LATCHED = DurabilityPolicy.TRANSIENT_LOCAL


@pytest.fixture(scope='module')
def node(run_node, model):
    return run_node(autostart='false', model=model, stale_after_ms=600000)


@pytest.fixture(scope='module')
def status(bench, node):
    return bench.status()


@pytest.fixture(scope='module')
def mask(bench, node):
    return bench.listen(Image, 'mask')


def test_the_node_starts_unconfigured_and_reports_it(bench, status):
    assert status.wait_for_state('inactive').values[0].value == 'not configured yet'
    assert bench.state() == 'unconfigured'


def loaded_libraries(node):
    return Path(f'/proc/{node.process.pid}/maps').read_text()


def test_services_respond_before_torch_is_imported(bench, node):
    """A lifecycle manager waits only for seconds, and importing torch takes as long."""
    assert bench.state() == 'unconfigured'
    assert 'libtorch' not in loaded_libraries(node)


def test_a_missing_folder_is_rejected_without_importing_torch(bench, node, model):
    assert bench.set(model='/no/such/model').successful
    assert not bench.change('configure')
    assert 'does not exist' in node.log()
    assert 'libtorch' not in loaded_libraries(node)
    assert bench.set(model=str(model)).successful


def test_an_invalid_transition_gets_a_response(bench, node):
    assert not bench.change('activate')
    assert not bench.change('no_such_transition')
    assert bench.state() == 'unconfigured'
    assert 'No transition matching activate' in node.log()


def test_services_respond_during_configure(bench, node):
    """The state is requested before the response to configure."""
    future, answered = bench.change_async('configure')
    seen = set()
    while not answered.is_set():
        seen.add(bench.state())
    assert future.result().success
    assert 'configuring' in seen
    assert bench.state() == 'inactive'
    assert 'libtorch' in loaded_libraries(node), 'it must have been imported meanwhile'


def test_an_active_node_publishes_masks_and_latched_labels(bench, status, mask):
    assert bench.change('activate')
    assert bench.state() == 'active'
    status.wait_for_reason('stale', 'no image has arrived yet')
    bench.connect(bench.camera(), mask)
    status.wait_for_state('valid')
    info = bench.listen(LabelInfo, 'label_info', durability=LATCHED).wait()
    assert [c.class_id for c in info.class_map] == [*range(11), 255, *range(20, 37), 60, 61]


def test_a_deactivated_node_publishes_nothing(bench, status, mask):
    heard = len(status.messages)
    assert bench.change('deactivate')
    assert bench.state() == 'inactive'
    status.wait_for_state('inactive', since=heard)
    until(lambda: bench.readers() == [], 'the node has unsubscribed')


def test_the_life_cycle_can_be_repeated(bench, mask):
    camera = bench.camera()
    for _ in range(3):
        assert bench.change('cleanup')
        until(lambda: bench.node.count_publishers('mask') == 0, 'the outputs are gone')
        assert bench.change('configure')
        assert bench.change('activate')
        bench.connect(camera, mask)
        assert mask.messages[-1].header.frame_id == FRAME_ID
        assert bench.change('deactivate')
        assert bench.change('activate')
        bench.connect(camera, mask)
        assert bench.change('deactivate')


def test_shutdown_frees_everything_and_the_process_keeps_running(bench, node, status):
    assert bench.change('activate')
    heard = len(status.messages)
    assert bench.change('shutdown')
    assert bench.state() == 'finalized'
    last = status.wait_for_state('inactive', since=heard)
    assert not bench.change('configure')
    until(lambda: status.messages[-1].values[0].value == 'shut down', 'the reason')
    assert node.is_alive()
    assert last.level == b'\x02'


def test_an_interrupted_node_exits_with_0_and_reports_inactive_last(bench, node, status):
    assert node.interrupt() == 0
    until(lambda: status.messages[-1].values[0].value == 'the process ends', 'the last status')
    assert status.messages[-1].message == 'inactive'
    assert 'Traceback' not in node.log()
