# SPDX-License-Identifier: Apache-2.0
"""
Plays the images of a bag through the segmenter, once it is active; ends with the bag.

The end is that of the whole launch, an includer's too, and so is a failure of one of the two.
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

from surgseg_ros.node.launching import FLAGS, TRUE, image_topics, node_name, profile, value_of

SEGMENT = str(Path(__file__).with_name('segment.launch.py'))

# Each: the program, and what makes it play alone and from the first image on. `ros2 bag play` can
# not wait for subscribers, and DDS may take two seconds to bring them together.
ROS2_BAG = (['ros2', 'bag', 'play'], ['--disable-keyboard-controls', '--delay', '2'])
BAG_PLAYER = ([ExecutableInPackage('bag_player', 'surgseg_ros')], ['--wait'])

LAST_FRAME_S = 3.0
"""How long the segmenter may take for what it has in hand when the bag has ended."""

IMAGE_TOPIC = '/camera/image_raw'

ARGUMENTS = [
    DeclareLaunchArgument('bag', description='the bag: a folder, or an MCAP file'),
    DeclareLaunchArgument(
        'image_topic',
        default_value='',
        description="the images' topic in the bag; nothing else of the bag is played; empty: "
        'as params_file or SetParameter says, else ' + IMAGE_TOPIC,
    ),
    DeclareLaunchArgument('rate', default_value='1.0', description='speed of the bag'),
    DeclareLaunchArgument(
        'loop', default_value='false', description='whether to play it for ever', choices=FLAGS
    ),
    DeclareLaunchArgument(
        'use_sim_time',
        default_value='true',
        description="whether the node takes the time from /clock, which is the bag's",
        choices=['', *FLAGS],
    ),
]


def generate_launch_description() -> LaunchDescription:
    """Describe the arguments, the segmenter and the player, in a scope of their own."""
    segmenter = IncludeLaunchDescription(PythonLaunchDescriptionSource(SEGMENT))
    steps = [OpaqueFunction(function=name_topic), segmenter, OpaqueFunction(function=start_player)]
    return LaunchDescription([GroupAction([*ARGUMENTS, *steps])])


def name_topic(context: LaunchContext) -> list[Action]:
    """Name the topic that is usual in bags, where nobody has named any."""
    named = value_of('image_topic', context) or image_topics(context)
    return [] if named else [SetLaunchConfiguration('image_topic', IMAGE_TOPIC)]


def start_player(context: LaunchContext) -> list[Action]:
    """Start the player behind a process that waits until the segmenter is active."""
    program, options = ROS2_BAG if has_resource('packages', 'ros2bag') else BAG_PLAYER
    segmenter = node_name(context)
    player = ExecuteProcess(
        name='player',
        cmd=[
            *(sys.executable, '-m', 'surgseg_ros.node.when_active', segmenter),
            *program,
            LaunchConfiguration('bag'),
            *options,
            *('--topics', *topics_to_play(context)),
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
    """Name the images' topics as they are in the bag."""
    if image_topic := value_of('image_topic', context):
        return [image_topic]
    namespace = node_name(context).rpartition('/')[0]
    return [x if x.startswith('/') else f'{namespace}/{x}' for x in image_topics(context)]


def ending_with(
    player: ExecuteProcess, segmenter: str
) -> Callable[[ProcessExited, LaunchContext], TimerAction | None]:
    """Make a handler that ends the launch with one of the two; other processes may end."""

    def end(event: ProcessExited, context: LaunchContext) -> TimerAction | None:
        is_segmenter = isinstance(event.action, Node) and event.action.node_name == segmenter
        if context.is_shutdown or not (is_segmenter or event.action is player):
            return None
        if event.returncode:  # raised, so that ros2 launch too ends with an exit status that tells
            raise RuntimeError(f'{event.process_name} failed with exit status {event.returncode}')
        shutdown = EmitEvent(event=Shutdown(reason=f'{event.process_name} has ended'))
        return TimerAction(period=LAST_FRAME_S, actions=[shutdown])

    return end
