# SPDX-License-Identifier: Apache-2.0
"""Launch files of this package, included by another: scoping of configurations and parameters."""

import json

import pytest

# Replaces the segmenter: writes the parameters that rclpy gives to a node.
GETS = """#!{python}
import json, os, pathlib, rclpy, sys
rclpy.init(args=sys.argv)
node = rclpy.create_node('unnamed')
values = {{name: parameter.value for name, parameter in node._parameter_overrides.items()}}
values = {{k: v if isinstance(v, (bool, int, float, str)) else list(v) for k, v in values.items()}}
reported = {{'parameters': values, 'environment': dict(os.environ)}}
name = node.get_fully_qualified_name().replace('/', '-')
pathlib.Path('{folder}', f'node{{name}}.json').write_text(json.dumps(reported))
"""

VARIABLE = 'FASTRTPS_DEFAULT_PROFILES_FILE'


@pytest.fixture(autouse=True)
def _of_jazzy(monkeypatch):
    monkeypatch.setenv('ROS_DISTRO', 'jazzy')


@pytest.fixture
def run(install, include):
    """Return a function that runs an including launch file, which must succeed."""
    install('segmenter', GETS)

    def run(actions):
        ran = include(actions)
        assert ran.returncode == 0, ran.stdout
        return ran

    return run


def reported(folder, name):
    return json.loads((folder / f'{name}.json').read_text())


def parameters(folder, name='segmenter'):
    return reported(folder, f'node-{name}')['parameters']


@pytest.mark.parametrize('actions', ["ours('segment')", "ours('replay', bag='any')"])
def test_an_include_leaves_nothing_in_the_including_file(run, tmp_path, actions):
    run(actions)
    before, after = reported(tmp_path, 'before'), reported(tmp_path, 'after')
    assert after['environment'] == before['environment']
    # An include sets the arguments that it passes, and launch does not reset them.
    passed = {'bag': 'any'} if 'bag' in actions else {}
    assert after['configurations'] == before['configurations'] | passed


def test_the_dds_profile_is_set_only_for_the_node(run, tmp_path):
    before = f"ExecuteProcess(cmd=['sh', '-c', 'echo before=${VARIABLE}.'], output='screen')"
    ran = run(f"{before}, ours('segment'), {before.replace('before', 'after')}")
    assert reported(tmp_path, 'node-segmenter')['environment'][VARIABLE].endswith('fastdds.xml')
    assert 'before=.' in ran.stdout
    assert 'after=.' in ran.stdout


def test_a_parameter_set_around_the_include_reaches_the_node(run, tmp_path):
    run("""GroupAction([
        SetParameter('device', 'cpu'), SetParameter('least_area', 0.25), ours('segment')
    ])""")
    assert parameters(tmp_path) == {'device': 'cpu', 'least_area': 0.25}


def test_an_argument_overrides_a_file_which_overrides_parameters_set_around(run, tmp_path):
    file = tmp_path / 'my.yaml'
    file.write_text('/**: {ros__parameters: {device: cuda, least_area: 0.5, overlay: true}}')
    run(f"""GroupAction([
        SetParameter('device', 'cpu'), SetParameter('precision', 'f32'),
        ours('segment', params_file={str(file)!r}, overlay='0')
    ])""")
    expected = {'device': 'cuda', 'precision': 'f32', 'least_area': 0.5, 'overlay': False}
    assert parameters(tmp_path) == expected


def test_configurations_of_the_including_file_are_inherited_unless_scoped(run, tmp_path):
    outer = "SetLaunchConfiguration('model', 'of another node')"
    run(f"{outer}, ours('segment')")
    assert parameters(tmp_path) == {'model': 'of another node'}
    run(f"""{outer}, GroupAction(
        [ours('segment', model='ours')], scoped=True, forwarding=False
    ), ours('segment', name='other')""")
    assert parameters(tmp_path) == {'model': 'ours'}
    assert parameters(tmp_path, 'other') == {'model': 'of another node'}


def test_a_scoped_include_has_only_the_given_configurations(run, tmp_path):
    run("""SetLaunchConfiguration('model', 'of another node'), SetLaunchConfiguration('rig', 'r'),
    GroupAction(
        [ours('segment', namespace=LaunchConfiguration('rig'))], scoped=True, forwarding=False,
        launch_configurations={'rig': LaunchConfiguration('rig')},
    )""")
    assert parameters(tmp_path, 'r-segmenter') == {}


def test_two_includes_are_two_nodes_with_different_names(run, tmp_path):
    left = "ours('segment', name='left', image_topic='/left/image', device='cpu')"
    right = "ours('segment', name='right', image_topic='/right/image')"
    run(f'GroupAction([{left}]), GroupAction([{right}])')
    assert parameters(tmp_path, 'left') == {'image_topics': ['/left/image'], 'device': 'cpu'}
    assert parameters(tmp_path, 'right') == {'image_topics': ['/right/image']}


@pytest.fixture
def set_around(tmp_path):
    """Return a function that makes the action which sets topics for all nodes."""

    def set_around(topics, section='/**'):
        file = tmp_path / 'around.yaml'
        file.write_text(f'{section}: {{ros__parameters: {{image_topics: {topics}}}}}')
        return f'SetParametersFromFile({str(file)!r})'

    return set_around


def test_a_given_topic_overrides_a_single_topic_set_around(run, tmp_path, set_around):
    run(f"{set_around('[one]')}, ours('segment')")
    assert parameters(tmp_path) == {'image_topics': ['one']}
    run(f"{set_around('[one]')}, ours('segment', image_topic='other')")
    assert parameters(tmp_path) == {'image_topics': ['other']}


@pytest.mark.parametrize('section', ['/**', '/a/segmenter', '/*/segmenter'])
@pytest.mark.parametrize('given_by', ['params_file', 'around'])
def test_rejects_one_topic_in_place_of_two(
    install, include, tmp_path, set_around, section, given_by
):
    install('segmenter', GETS)
    set_both = set_around('[one, two]', section)
    given = '' if given_by == 'around' else f', params_file={str(tmp_path / "around.yaml")!r}'
    around = "PushRosNamespace('a')" + (f', {set_both}' if given_by == 'around' else '')
    ran = include(f"{around}, ours('segment', image_topic='/image_of_one'{given})")
    assert ran.returncode == 1
    assert "image_topic is '/image_of_one', but image_topics is ['one', 'two']" in ran.stdout
    assert not [*tmp_path.glob('node-*')]


def test_one_topic_in_a_file_overrides_two_set_around(run, tmp_path, set_around):
    file = tmp_path / 'my.yaml'
    file.write_text('/**: {ros__parameters: {image_topics: [single]}}')
    around = set_around('[one, two]')
    run(f"{around}, ours('segment', image_topic='/other', params_file={str(file)!r})")
    assert parameters(tmp_path) == {'image_topics': ['/other']}


@pytest.mark.parametrize(
    ('section', 'topics'),
    [('/**', '[one]'), ('/other/segmenter', '[one, two]'), ('/another_name', '[one, two]')],
)
def test_accepts_one_topic_in_place_of_one_or_of_those_of_another_node(
    run, tmp_path, section, topics
):
    file = tmp_path / 'my.yaml'
    file.write_text(f'{section}: {{ros__parameters: {{image_topics: {topics}}}}}')
    run(f"ours('segment', image_topic='/image_of_one', params_file={str(file)!r})")
    assert parameters(tmp_path) == {'image_topics': ['/image_of_one']}


def test_replay_plays_the_topics_of_several_cameras(run, tmp_path, set_around):
    """As in the command line of the player: `/a`, and relative names in the namespace."""
    ran = run(f"{set_around('[/a, b]')}, ours('replay', bag='any', namespace='rig')")
    assert '--topics /a /rig/b --also /camera_info /rig/camera_info --rate' in ran.stdout
    assert parameters(tmp_path, 'rig-segmenter')['image_topics'] == ['/a', 'b']


def test_replay_plays_the_calibrations_of_stereo_images(run):
    ran = run("ours('replay', bag='any', image_topic='/rig/image', stereo_layout='side_by_side')")
    also = '/rig/left/camera_info /rig/right/camera_info'
    assert f'--topics /rig/image --also {also} --rate' in ran.stdout


def test_replay_of_one_camera_plays_only_its_images(run):
    ran = run("ours('replay', bag='any', image_topic='/rig/image')")
    assert '--topics /rig/image --rate' in ran.stdout


def test_replay_does_not_end_with_other_processes(run):
    """Another process fails before the segmenter exits; only that ends the launch."""
    ran = run("ExecuteProcess(cmd=['sh', '-c', 'exit 3']), ours('replay', bag='any')")
    assert 'exit code 3' in ran.stdout
    assert '[segmenter-2]: process has finished cleanly' in ran.stdout
