# SPDX-License-Identifier: Apache-2.0
"""Parameters are read when their descriptions state; setting the present value is accepted."""

from types import SimpleNamespace

import pytest
from bench import until
from nodes import segmenter_attributes
from rcl_interfaces.msg import Parameter, ParameterEvent
from rcl_interfaces.srv import DescribeParameters, GetParameters, ListParameters, SetParameters

from surgseg_ros.core.parameters import TABLE
from surgseg_ros.core.segmenter import Segmenter

OTHERS = {
    'model': 'another',
    'device': 'auto',
    'cpu_threads': 1,
    'image_topics': ['other'],
    'camera_names': ['left'],
    'camera_info_topics': ['info'],
    'roi': [0, 0, 16, 16],
}


@pytest.fixture
def loads(monkeypatch):
    """Load a fake network; return the list of the loaded folders."""
    folders = []

    def load(folder, *arguments, **more):
        folders.append(str(folder))
        if folder == 'broken':
            raise ValueError('it is broken')
        return SimpleNamespace(**segmenter_attributes(str(folder)))

    monkeypatch.setattr(Segmenter, 'load', load)
    monkeypatch.setattr('surgseg_ros.node.segmenter_node.read_spec', lambda folder: None)
    return folders


@pytest.fixture
def own_node(start_node, loads):
    return start_node(model='one')


def another_value(row, present):
    """Return a valid value other than the present one."""
    if row.name in OTHERS:
        return OTHERS[row.name]
    if row.choices:
        return next(choice for choice in row.choices[::-1] if choice != present)
    if isinstance(present, bool):
        return not present
    low, high = row.span
    between = low + (high - low) / 3
    return between if isinstance(row.default, float) else int(between)


def describe(bench):
    request = DescribeParameters.Request(names=[row.name for row in TABLE])
    answer = bench.call(DescribeParameters, 'segmenter/describe_parameters', request)
    return {reported.name: reported.description for reported in answer.descriptors}


def takes(own_node, row):
    """Return whether another value is accepted and used at once; then restore the old one."""
    before = own_node.node.settings.value_of(row.name)
    other = another_value(row, before)
    assert other != before
    answer = own_node.bench.set(**{row.name: other})
    if not answer.successful:
        assert row.name in answer.reason
        assert own_node.node.settings.value_of(row.name) == before
        return False
    in_use = own_node.node.settings.value_of(row.name)
    assert (list(in_use) if isinstance(in_use, tuple) else in_use) == other
    back = list(before) if isinstance(before, tuple) else before
    assert own_node.bench.set(**{row.name: back}).successful
    return True


def test_descriptions_state_correctly_when_a_parameter_is_read(own_node):
    """Try to set each parameter in each state."""
    rows = [row for row in TABLE if row.name != 'model']  # it has its own test
    active = {row.name: takes(own_node, row) for row in rows}
    assert own_node.bench.change('deactivate')
    assert active == {row.name: takes(own_node, row) for row in rows}
    assert own_node.bench.change('cleanup')
    resting = {row.name: takes(own_node, row) for row in rows}

    reported = describe(own_node.bench)
    for name, text in reported.items():
        if name == 'model':
            continue
        reports = {
            'live': 'takes effect at once' in text,
            'configure': 'Read when the node is configured' in text,
            'start': 'when the process starts' in text,
        }
        found = {
            'live': active[name],
            'configure': resting[name] and not active[name],
            'start': not resting[name],
        }
        assert (name, reports) == (name, found)


def test_parameters_read_at_configure_are_used_after_it(own_node):
    assert own_node.bench.change('deactivate')
    assert own_node.bench.change('cleanup')
    # The first is read at the start, the second excludes a roi, the third makes two cameras.
    others = 'autostart', 'roi_mode', 'stereo_layout'
    rows = [row for row in TABLE if not row.live and row.name not in others]
    present = own_node.node.settings
    wanted = {row.name: another_value(row, present.value_of(row.name)) for row in rows}
    assert own_node.bench.set(**wanted).successful
    assert own_node.bench.change('configure')
    (channel,) = own_node.node._channels
    assert channel.name == 'left'
    assert channel.roi.width_px == 16
    assert 'overlay' not in channel.outputs._topics
    assert own_node.bench.change('activate')
    (subscriber,) = own_node.node._subscribers
    assert subscriber.resolved_topic.endswith('/other/compressed')  # its transport changed too
    assert own_node.bench.change('deactivate')


def test_another_model_folder_is_used_when_its_description_states(own_node, loads):
    assert 'If set while configured, the new model is loaded' in describe(own_node.bench)['model']
    assert own_node.bench.set(model='two').successful
    until(lambda: loads == ['one', 'two'], 'the other folder is loaded')


def dump(bench):
    """Read all parameters, as `ros2 param dump` does."""
    listed = bench.call(ListParameters, 'segmenter/list_parameters', ListParameters.Request())
    names = listed.result.names
    got = bench.call(GetParameters, 'segmenter/get_parameters', GetParameters.Request(names=names))
    return dict(zip(names, got.values))


def load(bench, values):
    """Set parameters one by one, as `ros2 param load` does; return the reasons of rejections."""
    parameters = [Parameter(name=name, value=value) for name, value in values.items()]
    request = SetParameters.Request(parameters=parameters)
    results = bench.call(SetParameters, 'segmenter/set_parameters', request).results
    return [result.reason for result in results if not result.successful]


@pytest.mark.parametrize('state', ['active', 'inactive', 'unconfigured'])
def test_an_unchanged_dump_is_accepted_and_nothing_changes(own_node, loads, state):
    for step, reached in (('deactivate', 'inactive'), ('cleanup', 'unconfigured')):
        if state in (reached, 'unconfigured'):
            assert own_node.bench.change(step)
        if state == reached:
            break
    assert own_node.bench.state() == state
    values = dump(own_node.bench)
    assert any(name.startswith('qos_overrides.') for name in values)  # those are read-only
    events = own_node.bench.listen(ParameterEvent, '/parameter_events')
    until(lambda: own_node.bench.node.count_publishers('/parameter_events') > 1, 'its publisher')
    settings = own_node.node.settings
    assert load(own_node.bench, values) == []
    assert own_node.node.settings is settings
    assert loads == ['one']
    assert dump(own_node.bench) == values
    name = f'{own_node.bench.namespace}/segmenter'
    assert own_node.bench.set(least_area=0.125).successful
    change = events.wait(lambda event: event.node == name)  # the first event
    assert [parameter.name for parameter in change.changed_parameters] == ['least_area']


def test_in_an_edited_dump_only_the_edited_line_changes_a_parameter(own_node, loads):
    values = dump(own_node.bench)
    values['least_area'].double_value = 0.125
    values['overlay'].bool_value = False
    read_only = next(name for name in values if name.endswith('mask.publisher.depth'))
    values[read_only].integer_value = 7
    reasons = load(own_node.bench, values)
    assert len(reasons) == 2
    assert any(reason.startswith('overlay: can only be changed while') for reason in reasons)
    assert any(read_only in reason for reason in reasons)
    assert own_node.node.settings.least_area == 0.125
    assert loads == ['one']


def test_when_all_are_set_atomically_unchanged_parameters_do_not_prevent_a_change(own_node):
    assert own_node.bench.set(least_area=0.125, overlay=True, device='cpu').successful
    assert own_node.node.settings.least_area == 0.125
    refused = own_node.bench.set(least_area=0.25, overlay=False)
    assert not refused.successful
    assert own_node.node.settings.least_area == 0.125


def test_a_value_of_another_type_is_a_change(own_node):
    """An integer is not a double, and true is not 1."""
    assert not own_node.bench.set(least_area=1).successful
    assert not own_node.bench.set(cpu_threads=False).successful


def test_a_folder_that_failed_can_be_set_again(own_node, loads):
    assert own_node.bench.set(model='broken').successful  # it is checked later
    until(lambda: own_node.node._models.degraded_reasons(), 'the failure')
    until(lambda: not own_node.node._models._loading.locked(), 'the end of it')
    assert own_node.bench.set(model='broken').successful
    until(lambda: loads == ['one', 'broken', 'broken'], 'the second try')
