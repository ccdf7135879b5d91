# SPDX-License-Identifier: Apache-2.0
"""
Starts the segmenter on one camera, with the Fast DDS profile for large images.

What is declared here ends with the file: an includer's launch configurations, environment and
other nodes stay as they are. An argument that is not passed takes the includer's launch
configuration of that name, if there is one; docs/launch.md says how to keep them apart.
"""

from typing import Any

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, GroupAction, OpaqueFunction
from launch.logging import get_logger
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from surgseg_ros.node.launching import (
    CONFIG,
    DEFAULTS,
    FLAGS,
    TRUE,
    VIEWERS,
    image_topics,
    params_file,
    profile,
    value_of,
    viewer,
)

ELSE = '; empty: as params_file or SetParameter says'
RESPAWN_DELAY_S = 1.0

ARGUMENTS = [
    DeclareLaunchArgument(
        'image_topic',
        default_value='',
        description="the camera's images; a relative name lies in the namespace" + ELSE,
    ),
    DeclareLaunchArgument('name', default_value=DEFAULTS['name'], description='name of the node'),
    DeclareLaunchArgument(
        'namespace',
        default_value=DEFAULTS['namespace'],
        description='where the node and its topics are; empty: /',
    ),
    DeclareLaunchArgument(
        'params_file',
        default_value=DEFAULTS['params_file'],
        description="YAML file with the node's parameters, a copy of "
        + str(CONFIG / 'segmenter.yaml')
        + ' for example; empty: none',
    ),
    DeclareLaunchArgument(
        'log_level',
        default_value='info',
        description='least severity that the node writes to its log',
        choices=['debug', 'info', 'warn', 'error', 'fatal'],
    ),
    DeclareLaunchArgument(
        'dds_profile',
        default_value=DEFAULTS['dds_profile'],
        description='Fast DDS profile of the node, or "none"; one that the environment names is '
        'kept',
    ),
    DeclareLaunchArgument(
        'image_transport',
        default_value='',
        description='raw: sensor_msgs/Image, compressed: CompressedImage' + ELSE,
        choices=['', 'raw', 'compressed'],
    ),
    DeclareLaunchArgument(
        'model',
        default_value='',
        description='model folder, with model.json and weights.safetensors' + ELSE,
    ),
    DeclareLaunchArgument(
        'device',
        default_value='',
        description='where the network runs: auto, cpu, cuda, cuda:1 ...' + ELSE,
    ),
    DeclareLaunchArgument(
        'overlay',
        default_value='',
        description='whether to offer the overlay topic, for people to look at' + ELSE,
        choices=['', *FLAGS],
    ),
    DeclareLaunchArgument(
        'autostart',
        default_value='',
        description='whether the node configures and activates itself' + ELSE,
        choices=['', *FLAGS],
    ),
    DeclareLaunchArgument(
        'respawn',
        default_value='false',
        description='whether the node is started again where its process dies',
        choices=FLAGS,
    ),
    DeclareLaunchArgument(
        'use_sim_time',
        default_value='',
        description='whether the node takes the time from /clock' + ELSE,
        choices=['', *FLAGS],
    ),
    DeclareLaunchArgument(
        'view',
        default_value='',
        description='viewer to start, for people to look at the results; empty: none',
        choices=['', *VIEWERS],
    ),
]

NODE_PARAMETERS = {
    'image_transport': str,
    'model': str,
    'device': str,
    'overlay': bool,
    'autostart': bool,
    'use_sim_time': bool,
}


def generate_launch_description() -> LaunchDescription:
    """Describe the arguments and the node, in a scope of their own."""
    return LaunchDescription([GroupAction([*ARGUMENTS, OpaqueFunction(function=start_segmenter)])])


def start_segmenter(context: LaunchContext) -> list[Node]:
    """Start the node with the parameters that were given, and the profile in its environment."""
    chosen = profile(context)
    get_logger('dds_profile').log(chosen.severity, chosen.message)
    segmenter = Node(
        package='surgseg_ros',
        executable='segmenter',
        name=LaunchConfiguration('name'),
        namespace=LaunchConfiguration('namespace'),
        parameters=[*filter(None, [params_file(context)]), parameters_given(context)],
        ros_arguments=['--log-level', LaunchConfiguration('log_level')],
        additional_env=chosen.variables,
        output='screen',
        respawn=value_of('respawn', context) in TRUE,
        respawn_delay=RESPAWN_DELAY_S,
    )
    return [segmenter, *viewer(context)]


def parameters_given(context: LaunchContext) -> dict[str, Any]:
    """Gather the parameters that were given as arguments, which go before all others."""
    given: dict[str, Any] = {}
    for name, kind in NODE_PARAMETERS.items():
        if value := value_of(name, context):
            given[name] = value in TRUE if kind is bool else ParameterValue(value, value_type=str)
    if image_topic := value_of('image_topic', context):
        others = image_topics(context)
        if len(others) > 1:
            raise ValueError(
                f'image_topic is {image_topic!r}, and image_topics is {others}, one for each of '
                'several cameras: leave image_topic out, or name one topic in image_topics'
            )
        given['image_topics'] = [image_topic]
    return given
