# SPDX-License-Identifier: Apache-2.0
"""Descriptions of topics in bags are read in all their forms."""

import pytest

from surgseg_ros.bags.definitions import (
    describe_foreign,
    offers_transient_local,
    ros_type_name,
)

LATCHED = [
    '- durability: 1',
    '- durability: transient_local',
    '- {durability: TRANSIENT_LOCAL, depth: 5}',
    '- durability: RMW_QOS_POLICY_DURABILITY_TRANSIENT_LOCAL',
    'durability: transient_local',
    '[{"durability": 1}]',
    '- durability: 1\n- durability: transient_local',
    b'- durability: 1',
    [{'durability': 'transient_local'}],
    {'durability': 1},
]
NOT_LATCHED = [
    '- durability: 2',
    '- durability: volatile',
    'durability: volatile',
    '- durability: 1\n- durability: 2',
    '- durability: sometimes',
    '- durability:',
    '- durability: {a: b}',
    '- depth: 5',
    '[{"depth": 5}]',
    '- durability: true',
]
UNKNOWN = [
    *('', ' ', '0', '3.5', 'null', '~', '[]', '{{', '- [', 'junk', '- junk', '"', '\t', '---'),
    *('2001-99-99', '[' * 5000, '&a [*a, *a]', '!!python/object:os.system {}', '? []\n: 1'),
    *('durability: 1\n' + ' ' * 2**18, b'\xff\xfe\x00', None, 0, 1.5, [], [None], [[]], 'a: b: c'),
]


@pytest.mark.parametrize('profiles', LATCHED)
def test_topics_with_transient_local_durability_are_latched(profiles):
    assert offers_transient_local(profiles) is True


@pytest.mark.parametrize('profiles', NOT_LATCHED)
def test_topics_with_other_profiles_are_not_latched(profiles):
    assert offers_transient_local(profiles) is False


@pytest.mark.parametrize('profiles', UNKNOWN, ids=lambda x: repr(x)[:20])
def test_invalid_profiles_give_no_information(profiles):
    assert offers_transient_local(profiles) is None


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        ('sensor_msgs/msg/Image', 'sensor_msgs/msg/Image'),
        ('sensor_msgs/Image', 'sensor_msgs/msg/Image'),
        ('sensor_msgs::msg::Image', 'sensor_msgs/msg/Image'),
        ('sensor_msgs::msg::dds_::Image_', 'sensor_msgs/msg/Image'),
        ('example/srv/Add_Event', 'example/srv/Add_Event'),
        ('foxglove.RawImage', 'foxglove.RawImage'),
        ('', ''),
        ('/', '/'),
    ],
)
def test_names_of_types_are_those_of_ros_2(name, expected):
    assert ros_type_name(name) == expected


def test_only_cdr_of_a_named_type_is_ros_2():
    assert describe_foreign('cdr', 'ros2msg', 'a/msg/B') == ''
    assert describe_foreign('', '', 'a/msg/B') == ''
    assert 'rosbags-convert' in describe_foreign('ROS1', '', 'a/B')
    assert "in 'xml' of type 'a/B'" in describe_foreign('xml', '', 'a/B')
