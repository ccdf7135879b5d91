# SPDX-License-Identifier: Apache-2.0
"""Parameters from ROS parameter files and the command line, as the verbs accept them."""

import argparse

import pytest

from surgseg_ros.core.model_folder import DEFAULT_MODEL, find_model
from surgseg_ros.core.parameters import TABLE
from surgseg_ros.core.params_file import (
    add_parameter_arguments,
    check_value,
    read_node_parameters,
    read_value,
    resolve_parameters,
)
from surgseg_ros.core.segmentation import Roi

ROWS = {row.name: row for row in TABLE}


def test_every_default_passes_the_check():
    refused = []
    for row in TABLE:
        try:
            check_value(row, row.default)
        except ValueError as error:
            refused.append(str(error))
    assert refused == []


@pytest.mark.parametrize(
    ('name', 'value', 'expected'),
    [
        ('min_confidence', 1, 'expected a number with a decimal point: write 1.0'),
        ('min_confidence', '0.6', "is '0.6', expected a number"),
        ('min_confidence', 1.5, 'is 1.5, expected 0 to 1'),
        ('min_confidence', float('nan'), 'is nan, expected 0 to 1'),
        ('steady_frames', 3.0, 'is 3.0, expected a whole number'),
        ('steady_frames', True, 'is True, expected a whole number'),
        ('steady_frames', 61, 'is 61, expected 0 to 60'),
        ('gates.smoke.limit', -0.1, 'gates.smoke.limit is -0.1, expected 0 to 1'),
        ('gates.smoke.action', 'stop', "is 'stop', expected one of"),
        ('gates.smoke.action', False, 'is False, expected one of'),
        ('model', 5, 'is 5, expected text'),
        ('overlay', 'yes', "is 'yes', expected true or false"),
        ('roi', 5, 'is 5, expected a list in brackets, each a whole number'),
        ('roi', [0, 0, 1.5, 2], 'expected a list in brackets, each a whole number'),
        ('roi', ['0'], 'expected a list in brackets, each a whole number'),
    ],
)
def test_error_names_an_invalid_value_and_the_valid_ones(name, value, expected):
    with pytest.raises(ValueError, match=f'^{name} is ') as raised:
        check_value(ROWS[name], value)
    assert expected in str(raised.value)


@pytest.fixture
def resolve(tmp_path):
    """Return a function that resolves parameter files and command-line arguments."""

    def run(*words, files=(), options=None, **more):
        parser = argparse.ArgumentParser()
        add_parameter_arguments(parser)
        for index, text in enumerate(files):
            path = tmp_path / f'{index}.yaml'
            path.write_text(text)
            words = ('--params-file', str(path), *words)
        return resolve_parameters(parser.parse_args(words), options or {}, **more)

    return run


def section(name, parameters='{min_confidence: 0.5}'):
    return f'{name}: {{ros__parameters: {parameters}}}\n'


@pytest.mark.parametrize(
    ('name', 'text', 'value'),
    [
        ('segmenter', section('/**'), 0.5),
        ('segmenter', section('segmenter'), 0.5),
        ('segmenter', section('/segmenter'), 0.5),
        ('segmenter', section('/left/segmenter'), 0.5),
        ('segmenter', 'left: {segmenter: {ros__parameters: {min_confidence: 0.5}}}', 0.5),
        ('left_eye', section('/surgery/left_eye') + section('/other', '{x: 1}'), 0.5),
        ('/left/segmenter', section('/left/*') + section('/right/segmenter', '{x: 1}'), 0.5),
        ('segmenter', section('/**') + section('segmenter', '{min_confidence: 0.7}'), 0.7),
        ('segmenter', section('segmenter', '{min_confidence: 0.7}') + section('/**'), 0.5),
    ],
)
def test_the_sections_of_a_node_are_found_by_its_name(tmp_path, name, text, value):
    path = tmp_path / 'parameters.yaml'
    path.write_text(text)
    assert read_node_parameters(path, name) == {'min_confidence': value}


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        (section('/camera') + section('/left/*'), 'only for /camera, /left/*: choose one'),
        (section('/left/segmenter') + section('/right/segmenter'), 'several nodes, /left/segm'),
        ('{ros__parameters: {min_confidence: 0.5}}', 'only for (no node)'),
        ('{segmenter: {min_confidence: 0.5}}', 'only for no node at all'),
        ('- 1', 'holds list, expected a mapping'),
        ('/**: [', 'is not YAML'),
        ('/**: {ros__parameters: &a {x: *a}}', 'ROS has no aliases'),
        ('[' * 5000, 'is not YAML'),
    ],
)
def test_rejects_a_file_without_parameters_of_the_node(tmp_path, text, expected):
    path = tmp_path / 'parameters.yaml'
    path.write_text(text)
    with pytest.raises(ValueError, match=r'parameters\.yaml') as raised:
        read_node_parameters(path)
    assert expected in str(raised.value)
    assert '\n' not in str(raised.value)


def test_options_override_param_which_overrides_the_last_file(resolve):
    names = ('least_area', 'min_confidence', 'steady_sure', 'steady_frames')
    last = section('/**', '{least_area: 0.1, min_confidence: 0.1, steady_sure: 0.1}')
    first = section('/**', '{steady_sure: 0.2, steady_frames: 2}')
    found = resolve(
        *('--param', 'least_area:=0.3', '--param', 'min_confidence:=0.3'),
        *('--param', 'min_confidence:=0.4'),
        files=(last, first),  # each is placed before those already there
        options={'least_area': 0.5},
    )
    assert [found.values[name] for name in names] == [0.5, 0.4, 0.1, 2]
    assert found.ignored == ()


@pytest.mark.parametrize(
    ('name', 'value', 'expected'),
    [
        ('steady_sure', 2.0, 'expected 0.01 to 1'),
        ('steady_sure', float('nan'), 'expected 0.01 to 1'),
        ('steady_frames', 61, 'expected 0 to 60'),
        ('cpu_threads', 257, 'expected 0 to 256'),
        ('precision', 'fp16', 'expected one of auto, f32, bf16, f16, int8'),
    ],
)
def test_options_have_the_ranges_of_the_parameters(resolve, name, value, expected):
    with pytest.raises(ValueError, match=f'^{name} is {value!r}, {expected}$'):
        resolve(options={name: value})


def test_a_value_that_an_option_overrides_may_be_invalid(resolve):
    found = resolve('--param', 'least_area:=7', options={'least_area': 0.5})
    assert found.values['least_area'] == 0.5


def test_nested_and_dotted_names_are_equivalent(resolve):
    nested = section('/**', '{gates: {smoke: {action: no_decision}, black.limit: 0.5}}')
    gates = resolve('--param', 'gates.black.action:=none', files=[nested]).pipeline.gates
    assert gates['smoke'].action == 'no_decision'
    assert (gates['black'].action, gates['black'].limit) == ('none', 0.5)


def test_defaults_are_those_of_the_node_unless_the_verb_has_others(resolve):
    defaults = {'runtime': 'torch', 'precision': 'f32'}
    found = resolve('--param', 'precision:=bf16', defaults=defaults).values
    assert (found['runtime'], found['precision'], found['device']) == ('torch', 'bf16', 'auto')


def test_reports_parameters_that_do_not_apply_whatever_their_value(resolve):
    text = section(
        '/**', '{overlay: 3, use_sim_time: true, qos_overrides: {/image: {depth: 1}}, roi: [1]}'
    )
    found = resolve('--param', 'least_area:=0.1', files=[text], applicable={'model'})
    assert found.ignored == (
        *('overlay', 'use_sim_time', 'qos_overrides./image.depth', 'roi', 'least_area'),
    )
    assert found.values == {'model': DEFAULT_MODEL}
    assert found.ignored_line().endswith(': ' + ', '.join(found.ignored))
    assert resolve().ignored_line() == ''


@pytest.mark.parametrize(
    ('word', 'expected'),
    [
        ('min_confidance:=0.5', "no parameter 'min_confidance' (did you mean 'min_confidence'?)"),
        ('gates.smok.action:=warn', "did you mean 'gates.smoke.action'?"),
        ('min_confidence:=2.0', 'min_confidence is 2.0, expected 0 to 1'),
        ('min_confidence=2.0', 'expected NAME:=VALUE'),
        (':=1', 'expected NAME:=VALUE'),
        ('roi:=[1', 'is not YAML'),
    ],
)
def test_error_names_an_invalid_argument(resolve, word, expected):
    with pytest.raises(ValueError, match='--param') as raised:
        resolve('--param', word)
    assert repr(word) in str(raised.value)
    assert expected in str(raised.value)
    assert '\n' not in str(raised.value)


def test_model_and_roi_are_resolved(resolve):
    found = resolve('--param', 'model:=models/mine', '--param', 'roi:=[1, 2, 3, 4]')
    assert (str(found.model), found.roi) == ('models/mine', Roi(1, 2, 3, 4))
    assert (resolve().model, resolve().roi) == (find_model(DEFAULT_MODEL), None)
    assert resolve('--param', "model:=''").model is None
    with pytest.raises(
        ValueError, match=r"choose the one of these images, --param 'roi:=\[0, 0, 5"
    ):
        assert resolve('--param', 'roi:=[0, 0, 5, 5, 5, 0, 5, 5]').roi
    with pytest.raises(ValueError, match='expected x, y, width, height'):
        assert resolve('--param', 'roi:=[1, 2, 3]').roi


@pytest.mark.parametrize('in_file', [True, False])
def test_rejects_stereo_images_and_names_how_to_select_one_view(resolve, in_file):
    layout = 'stereo_layout: side_by_side'
    given = {'files': [section('/**', f'{{{layout}}}')]} if in_file else {}
    words = () if in_file else ('--param', 'stereo_layout:=side_by_side')
    with pytest.raises(ValueError, match="stereo_layout is 'side_by_side'") as raised:
        resolve(*words, **given)
    assert '--param stereo_layout:=none' in str(raised.value)
    chosen = ('--param', 'stereo_layout:=none', '--param', 'roi:=[0, 0, 960, 1080]')
    assert resolve(*chosen, **given).roi == Roi(0, 0, 960, 1080)


@pytest.mark.parametrize(
    ('name', 'text', 'value'),
    [
        ('cpu_threads', '2', 2),
        ('roi', '[320, 28, 1280, 1024]', [320, 28, 1280, 1024]),
        ('image_topics', '[/left/image, /right/image]', ['/left/image', '/right/image']),
        ('model', '2026', '2026'),
    ],
)
def test_a_value_given_as_text_has_the_type_of_its_parameter(name, text, value):
    assert read_value(name, text) == value


@pytest.mark.parametrize(('name', 'text'), [('cpu_threads', 'many'), ('roi', '320')])
def test_error_names_invalid_text(name, text):
    with pytest.raises(ValueError, match=f'{name} is .*{text}.*, expected'):
        read_value(name, text)


def test_error_names_a_list_without_closing_bracket():
    with pytest.raises(ValueError, match=r'^image_topics: the value is not YAML'):
        read_value('image_topics', '[/a, /b')
