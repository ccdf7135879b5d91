# SPDX-License-Identifier: Apache-2.0
"""Plays the images of a bag through the segmenter, once it is active; ends with the bag."""

import sys
from pathlib import Path

from ament_index_python import has_resource
from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
    TimerAction,
)
from launch.conditions import IfCondition
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.events.process import ProcessExited
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.substitutions import ExecutableInPackage

SEGMENT = str(Path(__file__).with_name('segment.launch.py'))

# Each: the program, and what makes it play alone and from the first image on. `ros2 bag play` can
# not wait for subscribers, and DDS may take two seconds to bring them together.
ROS2_BAG = (['ros2', 'bag', 'play'], ['--disable-keyboard-controls', '--delay', '2'])
BAG_PLAYER = ([ExecutableInPackage('bag_player', 'surgseg_ros')], ['--wait'])

LAST_FRAME_S = 3.0
"""How long the segmenter may take for what it has in hand when the bag has ended."""


def generate_launch_description() -> LaunchDescription:
    """Describe the arguments, the segmenter and the player."""
    return LaunchDescription(
        [
            DeclareLaunchArgument('bag', description='the bag: a folder, or an MCAP file'),
            DeclareLaunchArgument(
                'image_topic',
                default_value='/camera/image_raw',
                description="the images' topic in the bag; nothing else of the bag is played",
            ),
            DeclareLaunchArgument('rate', default_value='1.0', description='speed of the bag'),
            DeclareLaunchArgument('loop', default_value='false', description='play it for ever'),
            DeclareLaunchArgument(
                'use_sim_time',
                default_value='true',
                description="whether the node takes the time from /clock, which is the bag's",
            ),
            RegisterEventHandler(OnProcessExit(on_exit=end)),
            IncludeLaunchDescription(PythonLaunchDescriptionSource(SEGMENT)),
            OpaqueFunction(function=start_player),
        ]
    )


def start_player(context: LaunchContext) -> list[ExecuteProcess]:
    """Start the player behind a process that waits until the segmenter is active."""
    loop = IfCondition(LaunchConfiguration('loop')).evaluate(context)
    namespace = LaunchConfiguration('namespace').perform(context).strip('/')
    program, options = ROS2_BAG if has_resource('packages', 'ros2bag') else BAG_PLAYER
    player = ExecuteProcess(
        name='player',
        cmd=[
            *(sys.executable, '-m', 'surgseg_ros.node.when_active'),
            f'/{namespace}/segmenter'.replace('//', '/'),
            *program,
            LaunchConfiguration('bag'),
            *options,
            *('--topics', LaunchConfiguration('image_topic')),
            *('--rate', LaunchConfiguration('rate')),
            *(['--loop'] if loop else []),
            '--clock',
        ],
        output='screen',
    )
    return [player]


def end(event: ProcessExited, context: LaunchContext) -> TimerAction | None:
    """End the launch when the bag has been played or the segmenter has ended."""
    if context.is_shutdown:
        return None
    if event.returncode:  # raised, so that ros2 launch too ends with an exit status that tells
        raise RuntimeError(f'{event.process_name} failed with exit status {event.returncode}')
    shutdown = EmitEvent(event=Shutdown(reason=f'{event.process_name} has ended'))
    return TimerAction(period=LAST_FRAME_S, actions=[shutdown])
