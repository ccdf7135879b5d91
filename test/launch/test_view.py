# SPDX-License-Identifier: Apache-2.0
"""`view` starts a viewer for the topics of the launched segmenter, or reports what is missing."""

import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RVIZ = ROOT / 'config/rviz/segmenter.rviz'
FOXGLOVE = ROOT / 'config/foxglove/segmenter.json'
PACKAGES = {'rviz': 'rviz2', 'foxglove': 'foxglove_bridge'}
TIMEOUT_S = 200.0


@pytest.fixture
def launch(launching):
    """Return a function that runs a launch file until it exits."""

    def launch(*arguments):
        return subprocess.run(
            launching(*arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
        )

    return launch


@pytest.fixture
def view(install, launch, tmp_path):
    """Return a function that launches with a viewer that records its arguments."""

    def view(viewer, *arguments, name='segment'):
        install(PACKAGES[viewer], package=PACKAGES[viewer])
        run = launch(name, f'view:={viewer}', *arguments)
        assert run.returncode == 0, run.stdout
        return note_of(tmp_path, viewer), run.stdout

    return view


def note_of(folder, viewer):
    return json.loads((folder / f'{PACKAGES[viewer]}.json').read_text())


def remaps(note):
    """Return the remapping rules of a process, except names and namespaces."""
    pairs = zip(note['arguments'], note['arguments'][1:])
    return {rule for flag, rule in pairs if flag == '-r' and not rule.startswith('__')}


def layout_named(output):
    (path,) = re.findall(r'import the layout (\S+)', output)
    return Path(path)


@pytest.mark.parametrize('viewer', PACKAGES)
def test_error_for_a_viewer_that_is_not_installed_names_the_remedy(
    launch, prefix, tmp_path, monkeypatch, viewer
):
    monkeypatch.setenv('AMENT_PREFIX_PATH', str(prefix))  # the machine may have it
    monkeypatch.setenv('ROS_DISTRO', 'jazzy')
    run = launch('segment', f'view:={viewer}')
    assert run.returncode == 1
    assert f"view is '{viewer}'" in run.stdout
    assert f'sudo apt install ros-jazzy-{PACKAGES[viewer].replace("_", "-")}' in run.stdout
    assert not (tmp_path / 'segmenter.json').exists()


def test_rviz_uses_the_shipped_file_without_remappings_by_default(view, prefix):
    note, _ = view('rviz')
    path = note['arguments'][note['arguments'].index('-d') + 1]
    assert Path(path).read_text() == RVIZ.read_text()
    assert path.startswith(str(prefix))
    assert remaps(note) == set()


def test_rviz_shows_the_topics_of_the_launch(view, tmp_path):
    parameters = tmp_path / 'my.yaml'
    parameters.write_text('/**: {ros__parameters: {camera_names: [left]}}')
    given = ('image_topic:=ecm/image', 'namespace:=rig', f'params_file:={parameters}')
    note, _ = view('rviz', *given, 'use_sim_time:=true')
    assert remaps(note) == {
        '/image:=/rig/ecm/image',
        *(f'/{x}:=/rig/left/{x}' for x in ('overlay', 'detections', 'status')),
    }
    assert 'use_sim_time: true' in note['parameters'][-1]


def test_replay_shows_the_topic_of_the_bag(view, install):
    install('segmenter', '#!/bin/sh\nexit 0\n')
    note, _ = view('rviz', 'bag:=any', name='replay')
    assert remaps(note) == {'/image:=/camera/image_raw'}


def test_the_shipped_layout_of_foxglove_is_named_if_topics_have_default_names(view):
    _, output = view('foxglove')
    assert layout_named(output).parts[-3:] == ('config', 'foxglove', 'segmenter.json')
    assert layout_named(output).read_text() == FOXGLOVE.read_text()
    assert 'ws://localhost:8765' in output


def test_foxglove_bridge_listens_only_locally_and_is_read_only(view):
    note, _ = view('foxglove')
    given = '\n'.join(note['parameters'])
    assert 'address: 127.0.0.1' in given
    assert re.search(r'capabilities:\s*(!!\S+)?\s*- connectionGraph\n(?!\s*-)', given), given


def test_the_layout_of_foxglove_has_the_topics_of_the_launch(view):
    _, output = view('foxglove', 'name:=eye', 'namespace:=rig', 'image_topic:=/camera/image_raw')
    text = layout_named(output).read_text()
    panels = json.loads(text)['configById']
    images = [panels[f'Image!{x}']['imageMode']['imageTopic'] for x in ('input', 'overlay')]
    assert images == ['/camera/image_raw', '/rig/overlay']
    assert panels['Indicator!status']['path'] == '/rig/status.message'
    assert panels['RawMessages!detections']['topicPath'] == '/rig/detections.detections'
    assert panels['DiagnosticSummary!diagnostics']['topicToRender'] == '/diagnostics'
    assert text.count("{name=='rig/eye'}") == FOXGLOVE.read_text().count("{name=='segmenter'}")


def test_the_viewer_has_the_dds_profile(view, tmp_path, monkeypatch):
    monkeypatch.setenv('ROS_DISTRO', 'jazzy')
    small = tmp_path / 'small.xml'
    small.write_text('<dds/>')
    note, _ = view('rviz', f'dds_profile:={small}')
    assert note['environment']['FASTRTPS_DEFAULT_PROFILES_FILE'] == str(small)


def test_remappings_around_an_include_apply_to_the_viewer(install, include, tmp_path):
    install('rviz2', package='rviz2')
    ran = include("""GroupAction([
        PushRosNamespace('rig'), SetRemap('image', '/camera'), SetRemap('overlay', 'drawn'),
        ours('segment', view='rviz'),
    ])""")
    assert ran.returncode == 0, ran.stdout
    assert remaps(note_of(tmp_path, 'rviz')) >= {'/image:=/camera', '/overlay:=/rig/drawn'}
