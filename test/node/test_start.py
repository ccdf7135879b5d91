# SPDX-License-Identifier: Apache-2.0
"""Errors at the start are reported, and the process exits or keeps running as it should."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import rclpy
from bench import REPOSITORY, TIMEOUT_S, until
from rclpy.parameter import Parameter

from surgseg_ros.node import entry_points
from surgseg_ros.node.segmenter_node import SegmenterNode

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(scope='module')
def no_model(run_node):
    return run_node(model='/no/such/model')


@pytest.mark.parametrize('number', SIGNALS)
def test_a_signal_during_imports_ends_the_process_cleanly(run_node, model, number):
    node = run_node('-r', f'__node:=importing_{number.name}', model=model)
    status = Path(f'/proc/{node.process.pid}/status')

    def blocks_the_signal():
        blocked = next(line for line in status.read_text().splitlines() if 'SigBlk' in line)
        return int(blocked.split()[1], 16) >> (number - 1) & 1

    until(blocks_the_signal, 'its first statements')
    node.process.send_signal(number)
    assert node.process.wait(TIMEOUT_S) == 0
    assert 'Traceback' not in node.log()


def test_a_signal_during_the_import_of_torch_ends_the_process_cleanly(run_node, model):
    node = run_node('-r', '__node:=importing_torch', model=model)
    node.wait_for_log('importing PyTorch')
    assert node.interrupt() == 0
    assert 'Traceback' not in node.log()
    assert 'loading' not in node.log(), 'the import must still be in progress'


def test_a_signal_during_a_conversion_ends_the_process_cleanly_and_leaves_nothing(
    run_node, model, tmp_path, monkeypatch
):
    pytest.importorskip('openvino', reason='pip install openvino')
    for name in ('XDG_CACHE_HOME', 'TMPDIR'):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    node = run_node('-r', '__node:=converting', model=model)
    node.wait_for_log('exporting the graph')
    assert node.interrupt() == 0
    assert 'Traceback' not in node.log()
    left = [path.name for path in tmp_path.rglob('*') if path.is_file()]
    assert set(left) <= {'lock'}
    assert not list((tmp_path / 'TMPDIR').iterdir())


def test_the_first_start_with_a_model_reports_conversion_and_runtime(
    run_node, model, bench, tmp_path, monkeypatch
):
    pytest.importorskip('openvino', reason='pip install openvino')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    node = run_node('-r', '__node:=first', model=model)
    log = node.wait_for_log(
        'tiny on openvino f32 on CPU, converted from the weights (auto: no CUDA)'
    )
    steps = ('converting the model for', 'exporting the graph', 'comparing', 'converted in ')
    order = [log.index(step) for step in steps]
    assert order == sorted(order)
    assert log.count(steps[0]) == 1
    assert len(list(tmp_path.rglob('*.entry'))) == 1
    assert node.interrupt() == 0


def test_error_names_a_missing_library_at_once(monkeypatch, capsys):
    """Before anything slow is imported, and not only in `configure`."""
    monkeypatch.setattr(entry_points, 'NEEDED_LATER', ('sys', 'no_such_library'))
    assert entry_points._run([], threading.Event(), threading.Event()) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("segmenter: No module named 'no_such_library': this is ")


@pytest.fixture
def usual_interval():
    """Set, and restore, how long threads wait for the GIL: `benchmark` may have changed it."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.005)
    yield 0.005
    sys.setswitchinterval(before)


def test_a_parameter_of_a_wrong_type_ends_the_process_with_one_line(capsys, usual_interval):
    arguments = ['--ros-args', '-p', 'cpu_threads:=many']
    try:
        assert entry_points._run(arguments, threading.Event(), threading.Event()) == 1
    finally:
        rclpy.try_shutdown()
    assert sys.getswitchinterval() < usual_interval / 5  # set for the node from the beginning
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("segmenter: Trying to set parameter 'cpu_threads' to 'many'")


def test_enforced_security_without_keystore_ends_the_process_with_one_line(tmp_path):
    """The node must not run unprotected."""
    enforced = {
        'ROS_SECURITY_ENABLE': 'true',
        'ROS_SECURITY_STRATEGY': 'Enforce',
        'ROS_SECURITY_KEYSTORE': str(tmp_path),
    }
    ran = subprocess.run(
        [sys.executable, '-m', 'surgseg_ros', 'segmenter'],
        cwd=REPOSITORY,
        env={**os.environ, **enforced},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 1
    (line,) = ran.stderr.splitlines()
    assert line.startswith('segmenter: ')
    assert 'SECURITY ERROR' in line


@pytest.mark.parametrize(
    ('name', 'value', 'expected'),
    [
        ('cpu_threads', -1, 'cpu_threads'),
        ('least_area', 2.0, 'least_area'),
        ('image_transport', 'h264', "image_transport is 'h264', expected one of"),
        ('camera_names', ['left', 'right'], 'give one name per topic'),
        ('image_topics', ['not a name'], 'image_topics'),
        ('camera_names', ['not a name'], 'camera_names'),
    ],
)
def test_error_names_an_invalid_parameter(name, value, expected):
    context = rclpy.Context()
    rclpy.init(args=[], context=context)
    try:
        with pytest.raises(Exception, match=expected) as raised:
            SegmenterNode(context=context, parameter_overrides=[Parameter(name, value=value)])
    finally:
        rclpy.shutdown(context=context)
    assert '\n' not in str(raised.value)


def test_without_a_model_the_node_reports_it_and_waits(no_model, bench):
    diagnostics = bench.diagnostics()
    part = diagnostics.wait(lambda part: part.level == b'\x02')
    assert part.message.startswith('inactive: configure failed: /no/such/model')
    assert bench.state() == 'unconfigured'
    assert 'does not exist' in part.message
    assert part.message.removeprefix('inactive: ') in no_model.log()
    name = f'{bench.namespace}/segmenter'
    steps = ' && '.join(f'ros2 lifecycle set {name} {step}' for step in ('configure', 'activate'))
    remedy = f'ros2 param set {name} model FOLDER), then run {steps}'
    assert remedy in no_model.wait_for_log(remedy)


def no_parameter(folder):
    return ''


def truncated_weights(folder):
    weights = folder / 'weights.safetensors'
    weights.write_bytes(weights.read_bytes()[:-1000])
    return folder


def changed_classes(folder):
    spec = json.loads((folder / 'model.json').read_text())
    spec['classes'][1:3] = reversed(spec['classes'][1:3])
    (folder / 'model.json').write_text(json.dumps(spec))
    return folder


@pytest.mark.parametrize(
    ('spoil', 'expected'),
    [
        (no_parameter, "model is '': set the parameter"),
        (truncated_weights, 'the file is truncated'),
        (changed_classes, "is 'tool wrist', expected 'tool clasper'"),
    ],
)
def test_rejects_an_invalid_model(no_model, bench, model, tmp_path, spoil, expected):
    folder = spoil(shutil.copytree(model, tmp_path / 'model'))
    status = bench.status()
    assert bench.set(model=str(folder)).successful
    assert not bench.change('configure')
    assert bench.state() == 'unconfigured'
    assert status.wait(lambda m: expected in m.values[0].value)
    assert expected in no_model.log()


def test_a_valid_model_is_accepted_after_failures(no_model, bench, model):
    """Earlier failures leave no state."""
    diagnostics = bench.diagnostics()
    assert bench.set(model=str(model)).successful
    assert bench.change('configure')
    assert diagnostics.wait(lambda part: part.level != b'\x02')
    assert bench.change('cleanup')
