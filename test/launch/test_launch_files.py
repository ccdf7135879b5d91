# SPDX-License-Identifier: Apache-2.0
"""The launch files behave as documented, run with the launch tool of ROS 2 if available."""

import ast
import json
import signal
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import rclpy
import yaml
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import Image
from started import running
from tiny_models import write_tiny_model

from surgseg_ros.bags.writing import START_TIME_NS, write_image_bag
from surgseg_ros.core.parameters import TABLE
from surgseg_ros.messages.serialization import IMAGE, TYPES

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 600.0

SEGMENT = {
    *('image_topic', 'image_transport', 'model', 'device', 'namespace', 'params_file'),
    *('use_sim_time', 'overlay', 'autostart', 'log_level', 'dds_profile', 'respawn', 'name'),
    *('view', 'image_topics', 'camera_names', 'stereo_layout', 'roi', 'cpu_threads'),
}
ARGUMENTS = {'segment': SEGMENT, 'replay': SEGMENT | {'bag', 'rate', 'loop'}}


@pytest.fixture
def launch(launching):
    """Return a function that runs a launch file until it exits."""

    def run(*arguments):
        pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.STDOUT, 'text': True}
        with running(launching(*arguments), **pipes) as process:
            output, _ = process.communicate(timeout=TIMEOUT_S)
            return subprocess.CompletedProcess(process.args, process.returncode, output)

    return run


def note_of(tmp_path, verb='segmenter'):
    return json.loads((tmp_path / f'{verb}.json').read_text())


def test_the_node_has_the_parameters_that_the_launch_file_gives_it():
    tree = ast.parse((ROOT / 'launch/segment.launch.py').read_text())
    tables = [
        statement.value
        for statement in tree.body
        if isinstance(statement, ast.Assign) and statement.targets[0].id == 'NODE_PARAMETERS'
    ]
    given = {key.value: kind.id for key, kind in zip(tables[0].keys, tables[0].values)}
    assert given.pop('use_sim_time') == 'bool'
    kinds = {row.name: type(row.default).__name__ for row in TABLE}
    assert given == {name: kinds[name] for name in given}


SETS = {'SetEnvironmentVariable', 'AppendEnvironmentVariable', 'PushRosNamespace', 'SetParameter'}


@pytest.mark.parametrize('name', ARGUMENTS)
def test_all_actions_of_a_launch_file_are_scoped_and_set_no_configuration(name):
    """Otherwise it would change other nodes of an including file; see also `test_include`."""
    tree = ast.parse((ROOT / f'launch/{name}.launch.py').read_text())
    calls = [x for x in ast.walk(tree) if isinstance(x, ast.Call) and isinstance(x.func, ast.Name)]
    assert not SETS & {call.func.id for call in calls}
    (description,) = [call for call in calls if call.func.id == 'LaunchDescription']
    (entities,) = description.args
    assert [entity.func.id for entity in entities.elts] == ['GroupAction']


@pytest.mark.parametrize('name', ARGUMENTS)
def test_every_argument_is_described(launch, name):
    run = launch(name, '--show-args')
    assert run.returncode == 0, run.stdout
    lines = [line.strip() for line in run.stdout.splitlines()]
    described = {
        line.strip("':"): lines[index + 1]
        for index, line in enumerate(lines)
        if line.startswith("'") and line.endswith("':")
    }
    assert described.keys() == ARGUMENTS[name]
    assert all(len(text) > 10 and 'no description' not in text for text in described.values())


def test_parameters_without_arguments_come_from_the_file(launch, tmp_path):
    parameters = tmp_path / 'my.yaml'
    parameters.write_text('/**: {ros__parameters: {model: mine}}')
    run = launch('segment', f'params_file:={parameters}')
    assert run.returncode == 0, run.stdout
    file, given = note_of(tmp_path)['parameters']
    assert file == parameters.read_text()
    assert yaml.safe_load(given) == {'/segmenter': {'ros__parameters': {}}}
    arguments = note_of(tmp_path)['arguments']
    assert {'__node:=segmenter', '__ns:=/', 'info'} <= set(arguments)
    assert not any(argument.startswith('image:=') for argument in arguments)


def test_without_a_file_the_node_has_its_own_defaults(launch, tmp_path):
    run = launch('segment')
    assert run.returncode == 0, run.stdout
    (given,) = note_of(tmp_path)['parameters']
    assert yaml.safe_load(given) == {'/segmenter': {'ros__parameters': {}}}


def test_given_arguments_reach_the_node_with_their_type(launch, tmp_path):
    run = launch(
        'segment',
        *('image_topic:=/ecm/left/image_raw', 'namespace:=left', 'log_level:=warn', 'model:=2026'),
        'name:=eye',
        *('overlay:=False', 'use_sim_time:=true', 'device:=cpu', 'image_transport:=compressed'),
    )
    assert run.returncode == 0, run.stdout
    note = note_of(tmp_path)
    assert {'__node:=eye', '__ns:=/left', 'warn'} <= set(note['arguments'])
    # As launch_ros writes a list; the parser of ROS ignores the tag.
    written = note['parameters'][-1].replace('!!python/tuple', '')
    (given,) = yaml.safe_load(written).values()
    assert given['ros__parameters'] == {
        'model': '2026',
        'overlay': False,
        'use_sim_time': True,
        'device': 'cpu',
        'image_transport': 'compressed',
        'image_topics': ['/ecm/left/image_raw'],
    }


def test_cameras_roi_and_threads_reach_the_node_as_lists_and_numbers(launch, tmp_path):
    run = launch(
        'segment',
        *('image_topics:=[/left/image_raw, /right/image_raw]', 'camera_names:=[left, right]'),
        *('roi:=[320, 28, 1280, 1024]', 'cpu_threads:=1', 'stereo_layout:=none'),
    )
    assert run.returncode == 0, run.stdout
    written = note_of(tmp_path)['parameters'][-1].replace('!!python/tuple', '')
    (given,) = yaml.safe_load(written).values()
    assert given['ros__parameters'] == {
        'image_topics': ['/left/image_raw', '/right/image_raw'],
        'camera_names': ['left', 'right'],
        'roi': [320, 28, 1280, 1024],
        'cpu_threads': 1,
        'stereo_layout': 'none',
    }


@pytest.mark.parametrize(
    'argument',
    [
        'overlay:=perhaps',
        'stereo_layout:=both',
        'cpu_threads:=many',
        'roi:=all',
        'respawn:=perhaps',
        'log_level:=loud',
        'params_file:=/no/such.yaml',
    ],
)
def test_error_names_an_invalid_value_and_nothing_starts(launch, tmp_path, argument):
    run = launch('segment', argument)
    assert run.returncode == 1
    assert all(word in run.stdout for word in argument.split(':='))
    assert not (tmp_path / 'segmenter.json').exists()


def test_the_node_gets_the_dds_profile_unless_one_is_set(launch, tmp_path, monkeypatch):
    monkeypatch.setenv('ROS_DISTRO', 'jazzy')
    small = tmp_path / 'small.xml'
    small.write_text('<dds/>')
    variable = 'FASTRTPS_DEFAULT_PROFILES_FILE'

    launch('segment', f'dds_profile:={small}')
    assert note_of(tmp_path)['environment'][variable] == str(small)
    launch('segment', 'dds_profile:=none')
    assert variable not in note_of(tmp_path)['environment']
    monkeypatch.setenv(variable, '/mine.xml')
    launch('segment', f'dds_profile:={small}')
    assert note_of(tmp_path)['environment'][variable] == '/mine.xml'


DIES_ONCE = """#!/bin/sh
if mkdir {folder}/died; then kill -9 $$; fi
touch {folder}/lives
exec sleep 100
"""


@pytest.mark.parametrize('flag', ['true', 'True', '1'])
def test_a_node_that_dies_is_respawned_if_requested(install, launching, tmp_path, flag):
    install('segmenter', DIES_ONCE)
    command = launching('segment', f'respawn:={flag}')
    with running(command, stdin=subprocess.DEVNULL) as run:
        end_s = time.monotonic() + TIMEOUT_S
        while not (tmp_path / 'lives').exists():
            assert run.poll() is None
            assert time.monotonic() < end_s
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        run.wait(TIMEOUT_S)
    assert (tmp_path / 'died').exists()


@pytest.fixture
def stamps_of_masks(prefix):
    """Record the stamps, in nanoseconds, of all published masks."""
    context, stamps = rclpy.Context(), []
    rclpy.init(args=[], context=context)
    node = rclpy.create_node('listener', context=context)

    def keep(cdr):
        stamp = TYPES.deserialize_cdr(bytes(cdr), IMAGE).header.stamp
        stamps.append(stamp.sec * 10**9 + stamp.nanosec)

    node.create_subscription(Image, '/left/mask', keep, 10, raw=True)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin)
    thread.start()
    yield stamps
    executor.shutdown()
    thread.join()
    node.destroy_node()
    rclpy.shutdown(context=context)


@pytest.fixture
def model(tmp_path):
    return write_tiny_model(tmp_path / 'model')


@pytest.mark.timeout(TIMEOUT_S)
@pytest.mark.parametrize('which', ['one of your own', 'the one that ships'])
def test_replay_plays_a_bag_through_the_node_and_ends(
    install, launch, tmp_path, model, stamps_of_masks, which
):
    for verb in ('segmenter', 'bag_player'):
        install(verb)
    image = np.zeros((64, 96, 3), np.uint8)
    stamps_ns = [START_TIME_NS + 10**8 * index for index in range(30)]
    write_image_bag(tmp_path / 'bag', ((stamp, image, None) for stamp in stamps_ns))
    patient = tmp_path / 'patient.yaml'
    patient.write_text('/**: {ros__parameters: {stale_after_ms: 600000}}')
    given = [f'model:={model}'] if which == 'one of your own' else []
    given += ['namespace:=left', f'params_file:={patient}']
    run = launch('replay', f'bag:={tmp_path / "bag"}', *given)
    assert run.returncode == 0, run.stdout
    assert ('(model_synthetic)' in run.stdout) == (which == 'the one that ships')
    assert stamps_of_masks, run.stdout
    assert stamps_of_masks == sorted(set(stamps_ns) & set(stamps_of_masks))


@pytest.mark.timeout(TIMEOUT_S)
def test_the_player_has_the_dds_profile_and_waits_for_the_node_by_its_name(
    install, launch, tmp_path, model, monkeypatch
):
    monkeypatch.setenv('ROS_DISTRO', 'jazzy')
    install('segmenter')  # the player only records its arguments
    small = tmp_path / 'small.xml'
    small.write_text('<dds/>')
    given = (f'model:={model}', 'name:=eye', 'namespace:=left', f'dds_profile:={small}')
    run = launch('replay', 'bag:=any', *given)
    assert run.returncode == 0, run.stdout
    note = note_of(tmp_path, 'bag_player')
    assert note['environment']['FASTRTPS_DEFAULT_PROFILES_FILE'] == str(small)
    assert note['arguments'][0] == 'any'


@pytest.mark.parametrize('name', ['loop', 'use_sim_time'])
def test_error_names_an_invalid_flag_of_replay(launch, name):
    run = launch('replay', 'bag:=any', f'{name}:=perhaps')
    assert run.returncode == 1
    assert f'"{name}" provided value "perhaps"' in run.stdout


def test_replay_fails_if_a_process_fails(install, launch):
    install('segmenter', '#!/bin/sh\nexit 7\n')
    run = launch('replay', 'bag:=any')
    assert run.returncode == 1
    assert 'segmenter-1 failed with exit status 7' in run.stdout
