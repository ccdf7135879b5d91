# SPDX-License-Identifier: Apache-2.0
"""
Plays the images of a bag through the segmenter once it is active; shuts down after the bag.

The end of the bag, or a failure of the player or the segmenter, shuts down the whole launch, that
of an including file, too.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from ament_index_python import has_resource
from launch import LaunchContext, LaunchDescription
from launch.action import Action
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    GroupAction,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
    SetLaunchConfiguration,
    TimerAction,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.events.process import ProcessExited
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.substitutions import ExecutableInPackage

from surgseg_ros.node.launching import (
    FLAGS,
    TRUE,
    calibration_topics,
    image_topics,
    node_name,
    profile,
    value_of,
)

SEGMENT = str(Path(__file__).with_name('segment.launch.py'))

# Each: the program, and the options to play without a keyboard, from the first image on. As
# `ros2 bag play` cannot wait for subscribers, it is delayed: DDS discovery may take two seconds.
# It leaves out topics that the bag lacks; ours does so with those after `--also`.
ROS2_BAG = (['ros2', 'bag', 'play'], ['--disable-keyboard-controls', '--delay', '2'], [])
BAG_PLAYER = ([ExecutableInPackage('bag_player', 'surgseg_ros')], ['--wait'], ['--also'])

LAST_FRAME_S = 3.0
"""Time for the segmenter to process its last image after the end of the bag."""

IMAGE_TOPIC = '/camera/image_raw'

ARGUMENTS = [
    DeclareLaunchArgument('bag', description='the bag to play: a folder, or an MCAP file'),
    DeclareLaunchArgument(
        'image_topic',
        default_value='',
        description='topic of the images in the bag; only this topic is played, and camera_info '
        'of two cameras; empty: from params_file or SetParameter, else ' + IMAGE_TOPIC,
    ),
    DeclareLaunchArgument('rate', default_value='1.0', description='playback rate of the bag'),
    DeclareLaunchArgument(
        'loop', default_value='false', description='whether to play it in a loop', choices=FLAGS
    ),
    DeclareLaunchArgument(
        'use_sim_time',
        default_value='true',
        description='whether the node uses the time of the bag, from /clock',
        choices=['', *FLAGS],
    ),
]


def generate_launch_description() -> LaunchDescription:
    """Describe the arguments, the segmenter and the player, in a separate scope."""
    segmenter = IncludeLaunchDescription(PythonLaunchDescriptionSource(SEGMENT))
    steps = [OpaqueFunction(function=name_topic), segmenter, OpaqueFunction(function=start_player)]
    return LaunchDescription([GroupAction([*ARGUMENTS, *steps])])


def name_topic(context: LaunchContext) -> list[Action]:
    """Set the topic to its default if none is given."""
    named = value_of('image_topic', context) or image_topics(context)
    return [] if named else [SetLaunchConfiguration('image_topic', IMAGE_TOPIC)]


def start_player(context: LaunchContext) -> list[Action]:
    """Start the player through a process that waits until the segmenter is active."""
    program, options, also = ROS2_BAG if has_resource('packages', 'ros2bag') else BAG_PLAYER
    segmenter, images = node_name(context), topics_to_play(context)
    calibrations = calibration_topics(images, context)
    player = ExecuteProcess(
        name='player',
        cmd=[
            *(sys.executable, '-m', 'surgseg_ros.node.when_active', segmenter),
            *program,
            LaunchConfiguration('bag'),
            *options,
            *('--topics', *images),
            *((*also, *calibrations) if calibrations else ()),
            *('--rate', LaunchConfiguration('rate')),
            *(['--loop'] if value_of('loop', context) in TRUE else []),
            '--clock',
        ],
        additional_env=profile(context).variables,
        output='screen',
    )
    end = ending_with(player, segmenter)
    return [RegisterEventHandler(OnProcessExit(on_exit=end)), player]


def topics_to_play(context: LaunchContext) -> list[str]:
    """Return the image topics as they are named in the bag."""
    if image_topic := value_of('image_topic', context):
        return [image_topic]
    namespace = node_name(context).rpartition('/')[0]
    return [x if x.startswith('/') else f'{namespace}/{x}' for x in image_topics(context)]


def ending_with(
    player: ExecuteProcess, segmenter: str
) -> Callable[[ProcessExited, LaunchContext], TimerAction | None]:
    """Make a handler that shuts down the launch when one of the two exits, and no other."""

    def end(event: ProcessExited, context: LaunchContext) -> TimerAction | None:
        is_segmenter = isinstance(event.action, Node) and event.action.node_name == segmenter
        if context.is_shutdown or not (is_segmenter or event.action is player):
            return None
        if event.returncode:  # raised, so that ros2 launch exits with an error status, too
            raise RuntimeError(f'{event.process_name} failed with exit status {event.returncode}')
        shutdown = EmitEvent(event=Shutdown(reason=f'{event.process_name} has ended'))
        return TimerAction(period=LAST_FRAME_S, actions=[shutdown])

    return end
