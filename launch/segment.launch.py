# SPDX-License-Identifier: Apache-2.0
"""Starts the segmenter on one camera, with the Fast DDS profile for large images."""

import os
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.logging import get_logger
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from surgseg_ros.node.dds_profile import choose_profile

CONFIG = Path(get_package_share_directory('surgseg_ros'), 'config')
AS_IN_FILE = '; empty: as params_file says'
RESPAWN_DELAY_S = 1.0
FLAGS = ['', 'true', 'false', 'True', 'False']

ARGUMENTS = [
    DeclareLaunchArgument(
        'image_topic',
        default_value='image',
        description="the camera's images; a relative name lies in the namespace",
    ),
    DeclareLaunchArgument(
        'namespace', default_value='', description='where the node and its topics are; empty: /'
    ),
    DeclareLaunchArgument(
        'params_file',
        default_value=str(CONFIG / 'segmenter.yaml'),
        description="YAML file with the node's parameters",
    ),
    DeclareLaunchArgument(
        'log_level',
        default_value='info',
        description='least severity that the node writes to its log',
        choices=['debug', 'info', 'warn', 'error', 'fatal'],
    ),
    DeclareLaunchArgument(
        'dds_profile',
        default_value=str(CONFIG / 'fastdds.xml'),
        description='Fast DDS profile, or "none"; a profile that is set already goes before it',
    ),
    DeclareLaunchArgument(
        'image_transport',
        default_value='',
        description='raw: sensor_msgs/Image, compressed: CompressedImage' + AS_IN_FILE,
        choices=['', 'raw', 'compressed'],
    ),
    DeclareLaunchArgument(
        'model',
        default_value='',
        description='model folder, with model.json and weights.safetensors' + AS_IN_FILE,
    ),
    DeclareLaunchArgument(
        'device',
        default_value='',
        description='where the network runs: auto, cpu, cuda, cuda:1 ...' + AS_IN_FILE,
    ),
    DeclareLaunchArgument(
        'overlay',
        default_value='',
        description='whether to offer the overlay topic, for people to look at' + AS_IN_FILE,
        choices=FLAGS,
    ),
    DeclareLaunchArgument(
        'autostart',
        default_value='',
        description='whether the node configures and activates itself' + AS_IN_FILE,
        choices=FLAGS,
    ),
    DeclareLaunchArgument(
        'respawn',
        default_value='false',
        description='whether the node is started anew where its process dies',
        choices=['true', 'false'],
    ),
    DeclareLaunchArgument(
        'use_sim_time',
        default_value='',
        description='whether the node takes the time from /clock' + AS_IN_FILE,
        choices=FLAGS,
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
    """Describe the arguments, the profile and the node."""
    steps = [OpaqueFunction(function=set_dds_profile), OpaqueFunction(function=start_segmenter)]
    return LaunchDescription([*ARGUMENTS, *steps])


def set_dds_profile(context: LaunchContext) -> list[SetEnvironmentVariable]:
    """Give Fast DDS the profile, where it can be used, and say what was decided."""
    choice = choose_profile(LaunchConfiguration('dds_profile').perform(context), os.environ)
    get_logger('dds_profile').log(choice.severity, choice.message)
    return [SetEnvironmentVariable(*item) for item in choice.variables.items()]


def start_segmenter(context: LaunchContext) -> list[Node]:
    """Start the node; a parameter that was given as an argument goes before params_file."""
    params_file = LaunchConfiguration('params_file').perform(context)
    if not Path(params_file).is_file():  # launch itself would only warn, and the node run without
        raise FileNotFoundError(f'params_file is {params_file!r}, and there is no such file')
    given = {
        name: ParameterValue(LaunchConfiguration(name), value_type=value_type)
        for name, value_type in NODE_PARAMETERS.items()
        if LaunchConfiguration(name).perform(context)
    }
    segmenter = Node(
        package='surgseg_ros',
        executable='segmenter',
        name='segmenter',
        namespace=LaunchConfiguration('namespace'),
        remappings=[('image', LaunchConfiguration('image_topic'))],
        parameters=[params_file, given],
        ros_arguments=['--log-level', LaunchConfiguration('log_level')],
        output='screen',
        respawn=LaunchConfiguration('respawn').perform(context) == 'true',
        respawn_delay=RESPAWN_DELAY_S,
    )
    return [segmenter]
