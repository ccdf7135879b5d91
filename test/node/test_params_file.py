# SPDX-License-Identifier: Apache-2.0
"""Parameter files are read as rclpy reads them, including wildcards and nested names."""

import pytest
import rclpy

from surgseg_ros.core.params_file import effective_value, read_node_parameters, read_parameter

NAME = '/left/segmenter'

FILES = [
    '/**: {ros__parameters: {topics: [a]}}',
    '/left/segmenter: {ros__parameters: {topics: [a]}}',
    'left: {segmenter: {ros__parameters: {topics: [a]}}}',
    '/left/*: {ros__parameters: {topics: [a]}}',
    '/*/segmenter: {ros__parameters: {topics: [a]}}',
    '/**/segmenter: {ros__parameters: {topics: [a]}}',
    '/*: {ros__parameters: {topics: [a]}}',
    '/segmenter: {ros__parameters: {topics: [a]}}',
    'segmenter: {ros__parameters: {topics: [a]}}',
    '/right/segmenter: {ros__parameters: {topics: [a]}}',
    '/**: {ros__parameters: {other: 1}}',
    '/**: {ros__parameters: {topics: [a]}}\n/left/segmenter: {ros__parameters: {topics: [b, c]}}',
    '/left/segmenter: {ros__parameters: {topics: [b, c]}}\n/**: {ros__parameters: {topics: [a]}}',
    '/**: {ros__parameters: {topics: [a]}}\n/right/segmenter: {ros__parameters: {topics: [b]}}',
]


@pytest.mark.parametrize('text', FILES)
def test_values_are_those_that_a_node_of_that_name_gets(context, tmp_path, text):
    path = tmp_path / 'parameters.yaml'
    path.write_text(text + '\n')
    node = rclpy.create_node(
        'segmenter',
        namespace='left',
        context=context,
        cli_args=['--ros-args', '--params-file', str(path)],
        automatically_declare_parameters_from_overrides=True,
    )
    truth = node.get_parameter_or('topics').value
    node.destroy_node()
    assert read_parameter(path, NAME, 'topics') == truth


WORDS = [
    *('2e-4', '1E3', '.5', '5.', '-0.5', '08', 'inf', '-.inf', '1.0', '1e', '.', '1_000'),
    *('0', '-7', '+3', '010', '0x1F', '0b11', '2001-01-01', '~', 'null'),
    *('on', 'Yes', 'yEs', 'OFF', 'n', 'true', 'a b', '"1"', "'on'"),
    *('[1, 2]', '[0.5, 2e1]', '[a, b]', '[true, off]'),
]


def test_values_have_the_types_that_rclpy_gives_them(context, tmp_path):
    path = tmp_path / 'parameters.yaml'
    given = ''.join(f'    p{index}: {word}\n' for index, word in enumerate(WORDS))
    path.write_text(f'/**:\n  ros__parameters:\n{given}')
    node = rclpy.create_node(
        'segmenter',
        context=context,
        cli_args=['--ros-args', '--params-file', str(path)],
        automatically_declare_parameters_from_overrides=True,
    )
    truths = [node.get_parameter(f'p{index}').value for index in range(len(WORDS))]
    node.destroy_node()
    ours = read_node_parameters(path)
    for index, (word, truth) in enumerate(zip(WORDS, truths, strict=True)):
        found = ours[f'p{index}']
        expected = truth if isinstance(truth, (str, bool, int, float)) else list(truth)
        assert (word, found, type(found)) == (word, expected, type(expected))


@pytest.mark.parametrize('text', ['{gates.black.limit: 0.5}', '{gates: {black: {limit: 0.5}}}'])
def test_nested_and_dotted_names_are_found(tmp_path, text):
    path = tmp_path / 'parameters.yaml'
    path.write_text(f'/**: {{ros__parameters: {text}}}')
    assert read_parameter(path, NAME, 'gates.black.limit') == 0.5
    assert read_parameter(path, NAME, 'gates.black.action') is None


def test_the_last_source_with_a_value_has_precedence(tmp_path):
    file, silent = tmp_path / 'a.yaml', tmp_path / 'b.yaml'
    file.write_text('/**: {ros__parameters: {topics: [a]}}')
    silent.write_text('/**: {ros__parameters: {other: 1}}')
    single = ('topics', ('b',))
    assert effective_value([single, str(file), str(silent)], NAME, 'topics') == ['a']
    assert effective_value([str(file), ('other', 2), single], NAME, 'topics') == ('b',)
    assert effective_value([('other', 2)], NAME, 'topics') is None


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'/**: [', 'is not YAML'),
        (b'/**: \xff', 'is not YAML'),
        (b'just text', 'holds str, expected a mapping'),
        (b'', 'holds NoneType, expected a mapping'),
    ],
)
def test_error_names_a_file_that_is_not_a_parameter_file(tmp_path, content, message):
    path = tmp_path / 'parameters.yaml'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        read_parameter(path, NAME, 'topics')
    assert str(path) in str(raised.value)
    assert '\n' not in str(raised.value)
