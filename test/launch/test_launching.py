# SPDX-License-Identifier: Apache-2.0
"""The name of the segmenter is the one that launch_ros gives it."""

import pytest

pytest.importorskip('launch_ros', reason='needs launch_ros: a ROS 2 installation')


@pytest.mark.parametrize('base', [None, '/robot', 'robot'])
@pytest.mark.parametrize('namespace', ['', 'left', '/left', 'left/channel'])
def test_name_of_the_node_in_namespaces(prefix, base, namespace):
    from launch import LaunchContext
    from launch_ros.actions import Node, PushRosNamespace

    from surgseg_ros.node.launching import node_name

    context = LaunchContext()
    if base:
        PushRosNamespace(base).execute(context)
    context.launch_configurations.update({'name': 'eye', 'namespace': namespace})
    node = Node(package='surgseg_ros', executable='none', name='eye', namespace=namespace)
    node._perform_substitutions(context)
    assert node_name(context) == node.node_name
