# SPDX-License-Identifier: Apache-2.0
"""
Starts the segmenter on one or several cameras, with the Fast DDS profile for large images.

Launch configurations and environment variables are scoped to this file: those of an including
file, and its other nodes, are not changed. An argument that is not passed takes the launch
configuration of that name of the including file, if there is one; docs/launch.md explains how to
avoid that.
"""

from typing import Any

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, GroupAction, OpaqueFunction
from launch.logging import get_logger
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from surgseg_ros.core.params_file import read_value
from surgseg_ros.core.segmentation import STEREO_LAYOUTS
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

ELSE = '; empty: from params_file or SetParameter'
RESPAWN_DELAY_S = 1.0

ARGUMENTS = [
    DeclareLaunchArgument(
        'image_topic',
        default_value='',
        description="topic of the camera's images; a relative name is resolved in the namespace"
        + ELSE,
    ),
    DeclareLaunchArgument(
        'image_topics',
        default_value='',
        description='topics of several cameras, "[/left/image, /right/image]" for example, which '
        'need camera_names' + ELSE,
    ),
    DeclareLaunchArgument(
        'camera_names',
        default_value='',
        description='prefixes of the outputs, one per camera: "[left, right]"' + ELSE,
    ),
    DeclareLaunchArgument(
        'stereo_layout',
        default_value='',
        description='how each image holds the views of two cameras' + ELSE,
        choices=['', *STEREO_LAYOUTS],
    ),
    DeclareLaunchArgument(
        'roi',
        default_value='',
        description='part of the image that the endoscope fills, "[x, y, width, height]" in '
        'pixels, once or for each camera' + ELSE,
    ),
    DeclareLaunchArgument('name', default_value=DEFAULTS['name'], description='name of the node'),
    DeclareLaunchArgument(
        'namespace',
        default_value=DEFAULTS['namespace'],
        description='namespace of the node and its topics; empty: /',
    ),
    DeclareLaunchArgument(
        'params_file',
        default_value=DEFAULTS['params_file'],
        description="YAML file with the node's parameters, for example a copy of "
        + str(CONFIG / 'segmenter.yaml')
        + '; empty: none',
    ),
    DeclareLaunchArgument(
        'log_level',
        default_value='info',
        description='minimum severity of the log messages of the node',
        choices=['debug', 'info', 'warn', 'error', 'fatal'],
    ),
    DeclareLaunchArgument(
        'dds_profile',
        default_value=DEFAULTS['dds_profile'],
        description='Fast DDS profile of the node, or "none"; a profile that is set in the '
        'environment is kept',
    ),
    DeclareLaunchArgument(
        'image_transport',
        default_value='',
        description='raw: sensor_msgs/Image, compressed: sensor_msgs/CompressedImage' + ELSE,
        choices=['', 'raw', 'compressed'],
    ),
    DeclareLaunchArgument(
        'model',
        default_value='',
        description='model folder, with model.json and weights.safetensors'
        + ELSE
        + ', else the model that ships',
    ),
    DeclareLaunchArgument(
        'device',
        default_value='',
        description='device that runs the network: auto, cpu, cuda, cuda:1 ...' + ELSE,
    ),
    DeclareLaunchArgument(
        'cpu_threads',
        default_value='',
        description="number of CPU threads of torch and openvino; 0: torch's default" + ELSE,
    ),
    DeclareLaunchArgument(
        'overlay',
        default_value='',
        description='whether to publish the overlay topic, for viewers' + ELSE,
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
        description='whether the node is restarted if its process dies',
        choices=FLAGS,
    ),
    DeclareLaunchArgument(
        'use_sim_time',
        default_value='',
        description='whether the node uses the time from /clock' + ELSE,
        choices=['', *FLAGS],
    ),
    DeclareLaunchArgument(
        'view',
        default_value='',
        description='viewer to start; empty: none',
        choices=['', *VIEWERS],
    ),
]

NODE_PARAMETERS = {
    'image_transport': str,
    'model': str,
    'device': str,
    'cpu_threads': int,
    'image_topics': list,
    'camera_names': list,
    'stereo_layout': str,
    'roi': list,
    'overlay': bool,
    'autostart': bool,
    'use_sim_time': bool,
}


def generate_launch_description() -> LaunchDescription:
    """Describe the arguments and the node, in a separate scope."""
    return LaunchDescription([GroupAction([*ARGUMENTS, OpaqueFunction(function=start_segmenter)])])


def start_segmenter(context: LaunchContext) -> list[Node]:
    """Start the node with the given parameters, and the DDS profile in its environment."""
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
    """Collect the parameters that were given as arguments, which override all others."""
    given: dict[str, Any] = {}
    for name, kind in NODE_PARAMETERS.items():
        if value := value_of(name, context):
            given[name] = parameter_value(name, value, kind)
    if image_topic := value_of('image_topic', context):
        others = image_topics(context)
        if len(others) > 1:
            raise ValueError(
                f'image_topic is {image_topic!r}, but image_topics is {others}, one per camera: '
                'leave image_topic out, or set image_topics to a single topic'
            )
        given['image_topics'] = [image_topic]
    return given


def parameter_value(name: str, value: str, kind: type) -> Any:
    """Convert the value of an argument to that of the parameter of its name."""
    if kind is bool:
        return value in TRUE
    return ParameterValue(value, value_type=str) if kind is str else read_value(name, value)
