# SPDX-License-Identifier: Apache-2.0
"""Mistakes in parameters given at the start are reported, including QoS overrides."""

from types import SimpleNamespace

import pytest
import rclpy
from nodes import segmenter_attributes
from rclpy.parameter import Parameter

from surgseg_ros.core.segmenter import Segmenter
from surgseg_ros.node import parameters
from surgseg_ros.node.parameters import find_misspelled, overridable
from surgseg_ros.node.segmenter_node import SegmenterNode


@pytest.fixture
def reported(context):
    """Return a function that gives what a node in the namespace /rig reports of its overrides."""
    nodes = []

    def reported(given, remap=('a', 'b')):
        node = rclpy.create_node(
            'segmenter',
            namespace='rig',
            context=context,
            cli_args=['--ros-args', '-r', ':='.join(remap)],
            parameter_overrides=[Parameter(name, value=value) for name, value in given.items()],
        )
        nodes.append(node)
        parameters.declare(node)
        return find_misspelled(node, overridable(node, parameters.read(node)))

    yield reported
    for node in nodes:
        node.destroy_node()


RIGHT = {
    'qos_overrides./rig/image.subscription.depth': 3,
    'qos_overrides./rig/image.subscription.history': 'keep_last',
    'qos_overrides./rig/image.subscription.durability': 'TRANSIENT_LOCAL',
    'qos_overrides./rig/mask.publisher.depth': 3,
    'qos_overrides./rig/mask.publisher.history': 'keep_all',
    'qos_overrides./rig/mask.publisher.reliability': 'best_effort',
    'qos_overrides./rig/overlay.publisher.depth': 2,
}


def test_valid_overrides_are_not_reported(reported):
    assert reported(RIGHT) == []


def test_cameras_and_remappings_are_known(reported):
    two = {'image_topics': ['left', '/right/image'], 'camera_names': ['l', 'r']}
    right = {
        'qos_overrides./ecm/left.subscription.depth': 3,
        'qos_overrides./right/image.subscription.depth': 3,
        'qos_overrides./rig/r/detections.publisher.depth': 3,
    }
    assert reported(two | right, remap=('left', '/ecm/left')) == []
    (text,) = reported(two | {'qos_overrides./rig/mask.publisher.depth': 3})
    assert 'did you mean' in text


def test_a_compressed_topic_may_have_either_name(reported):
    given = {
        'image_transport': 'compressed',
        'qos_overrides./rig/image.subscription.depth': 3,
        'qos_overrides./rig/image/compressed.subscription.depth': 3,
    }
    assert reported(given) == []
    remapped = {
        'image_transport': 'compressed',
        'qos_overrides./ecm/image_raw.subscription.depth': 3,
        'qos_overrides./ecm/image_raw/compressed.subscription.depth': 3,
    }
    assert reported(remapped, remap=('image', '/ecm/image_raw')) == []
    assert reported(given, remap=('image', '/ecm/image_raw')) != []


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        # in the topic
        (
            'qos_overrides./rig/maks.publisher.depth',
            "did you mean 'qos_overrides./rig/mask.publisher.depth'?",
        ),
        (
            'qos_overrides./mask.publisher.depth',
            "did you mean 'qos_overrides./rig/mask.publisher.depth'?",
        ),
        (
            'qos_overrides.image.subscription.depth',
            "did you mean 'qos_overrides./rig/image.subscription.depth'?",
        ),
        ('qos_overrides./rig/status.publisher.depth', ''),  # consumers rely on it
        # in what it is
        (
            'qos_overrides./rig/mask.publsher.depth',
            "did you mean 'qos_overrides./rig/mask.publisher.depth'?",
        ),
        (
            'qos_overrides./rig/image.publisher.depth',
            "did you mean 'qos_overrides./rig/image.subscription.depth'?",
        ),
        # in the policy
        (
            'qos_overrides./rig/mask.publisher.detph',
            "of 'qos_overrides./rig/mask.publisher' only depth, history, reliability can be",
        ),
        (
            'qos_overrides./rig/mask.publisher.durability',
            "of 'qos_overrides./rig/mask.publisher' only depth, history, reliability can be",
        ),
        (
            'qos_overrides./rig/image.subscription.reliability',
            'set the parameter `reliability` instead',
        ),
        ('qos_overrides.depth', ''),
        # in an ordinary name
        ('least_are', "did you mean 'least_area'?"),
        ('gates.blak.limit', "did you mean 'gates.black.limit'?"),
    ],
)
def test_a_misspelled_name_is_reported_with_a_suggestion(reported, name, expected):
    value = 'reliable' if name.endswith('reliability') else 3
    value = 'volatile' if name.endswith('durability') else value
    (text,) = reported({name: value})
    assert text.startswith(f'there is no parameter {name!r}')
    assert text.endswith(': it is ignored')
    assert expected in text


@pytest.mark.parametrize(
    ('name', 'value', 'expected'),
    [
        (
            'mask.publisher.reliability',
            'reliabel',
            r"'reliabel', expected .*'reliable'",
        ),
        ('mask.publisher.reliability', 'unknown', "'unknown', expected one of"),
        ('mask.publisher.reliability', True, 'True, expected one of'),
        ('mask.publisher.history', 'keep', r"'keep', expected one of .*'keep_last', 'keep_all'"),
        ('image.subscription.durability', '', "'', expected one of .*'volatile'"),
        ('mask.publisher.depth', 0, '0, expected a whole number from 1 on'),
        ('mask.publisher.depth', -1, '-1, expected a whole number from 1 on'),
        ('image.subscription.depth', '5', "'5', expected a whole number from 1 on"),
        ('image.subscription.depth', 5.0, '5.0, expected a whole number from 1 on'),
        ('image.subscription.depth', True, 'True, expected a whole number from 1 on'),
    ],
)
def test_an_invalid_value_is_named_and_the_process_exits(context, name, value, expected):
    full = f'qos_overrides./{name}'
    with pytest.raises(ValueError, match=f'^{full} is {expected}'):
        SegmenterNode(context=context, parameter_overrides=[Parameter(full, value=value)])


def test_the_node_reports_a_mistake_once(start_node, monkeypatch):
    network = SimpleNamespace(**segmenter_attributes('none'))
    monkeypatch.setattr(Segmenter, 'load', lambda *arguments, **more: network)
    name = 'qos_overrides./no/such.publisher.depth'
    own_node = start_node(model='none', **{name: 3})
    own_node.logs.wait_for_text(name)
    assert own_node.bench.change('deactivate')
    assert own_node.bench.change('cleanup')
    assert own_node.bench.change('configure')
    assert sum(name in line for line in own_node.logs.messages) == 1
