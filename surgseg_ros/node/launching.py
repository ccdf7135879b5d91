# SPDX-License-Identifier: Apache-2.0
"""Shared code of the launch files; only these import it, because it needs `launch`."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from ament_index_python import has_resource
from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext
from launch.logging import get_logger, launch_config
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.utilities import make_namespace_absolute, prefix_namespace

from surgseg_ros.core.parameters import SPLIT_CAMERAS
from surgseg_ros.core.params_file import effective_value, read_value
from surgseg_ros.core.segmentation import STEREO_LAYOUTS
from surgseg_ros.node.middleware import ProfileChoice, choose_profile
from surgseg_ros.node.parameters import camera_info_topics

CONFIG: Final = Path(get_package_share_directory('surgseg_ros'), 'config')

TRUE: Final = ['true', 'True', 'TRUE', '1']
FLAGS: Final = [*TRUE, 'false', 'False', 'FALSE', '0']
"""Accepted values of a boolean argument."""

DEFAULTS: Final = {
    'name': 'segmenter',
    'namespace': '',
    'params_file': '',
    'dds_profile': str(CONFIG / 'fastdds.xml'),
    'image_topics': '',
    'camera_names': '',
    'stereo_layout': '',
}
"""
Default values of arguments of both launch files.

Arguments of an included launch file are undefined after it has ended.
"""

VIEWERS: Final = {'rviz': 'rviz2', 'foxglove': 'foxglove_bridge'}
"""Values of `view`, each with its package, whose executable has the same name."""

RVIZ_CONFIG: Final = CONFIG / 'rviz' / 'segmenter.rviz'
FOXGLOVE_LAYOUT: Final = CONFIG / 'foxglove' / 'segmenter.json'

VIEWED_OUTPUTS: Final = ('overlay', 'detections', 'status')
"""Outputs of the node in the configuration files of the viewers, besides the input `image`."""


def value_of(name: str, context: LaunchContext) -> str:
    """
    Return the value of an argument.

    :param name: name of the argument, which is declared or one of DEFAULTS.
    :param context: the launch context.
    :return: the value.
    """
    return LaunchConfiguration(name, default=DEFAULTS.get(name)).perform(context)


def node_name(context: LaunchContext) -> str:
    """
    Return the full name that launch_ros gives to the segmenter.

    :param context: with `name` and `namespace`, and the namespace of PushRosNamespace.
    :return: the fully qualified name.
    """
    base = context.launch_configurations.get('ros_namespace')
    namespace = prefix_namespace(base, value_of('namespace', context))
    return prefix_namespace(make_namespace_absolute(namespace), value_of('name', context))


def params_file(context: LaunchContext) -> str:
    """
    Return the path of the parameters file.

    :param context: with `params_file`.
    :return: the path; empty for none.
    :raises FileNotFoundError: if the file does not exist; launch itself would only warn.
    """
    path = value_of('params_file', context)
    if path and not Path(path).is_file():
        raise FileNotFoundError(f'params_file is {path!r}, which does not exist')
    return path


def image_topics(context: LaunchContext) -> list[str]:
    """
    Determine the value that the parameter `image_topics` will have without `image_topic`.

    :param context: with `image_topics`, `params_file`, and the parameters of SetParameter.
    :return: the topics; empty if none of them sets any.
    :raises OSError: if a file is missing or cannot be read.
    :raises ValueError: if a file is not a parameters file.
    """
    return _names('image_topics', context)


def calibration_topics(images: Sequence[str], context: LaunchContext) -> list[str]:
    """
    Determine the `camera_info` topics to which the segmenter will subscribe.

    :param images: the full names of its image topics.
    :param context: with the arguments and parameters.
    :return: the full names; empty unless it has two cameras.
    """
    names = [name for name in _names('camera_names', context) if name]
    views = (names or SPLIT_CAMERAS) if _is_split(context) else ()
    if len(views or images) != len(SPLIT_CAMERAS):
        return []
    given = [name for name in _names('camera_info_topics', context) if name]
    return [_absolute(name, context) for name in given or camera_info_topics(images, views)]


def _is_split(context: LaunchContext) -> bool:
    return _value('stereo_layout', context) not in (None, STEREO_LAYOUTS[0])


def _names(parameter: str, context: LaunchContext) -> list[str]:
    names = _value(parameter, context)
    return [*names] if isinstance(names, (list, tuple)) else []


def _value(parameter: str, context: LaunchContext) -> Any:
    """Return the value that a parameter will have; None for the node's default."""
    if parameter in DEFAULTS and (given := value_of(parameter, context)):
        return read_value(parameter, given)
    sources: list[Any] = [*context.launch_configurations.get('global_params', [])]
    sources += filter(None, [params_file(context)])
    return effective_value(sources, node_name(context), parameter)


def profile(context: LaunchContext) -> ProfileChoice:
    """
    Decide which Fast DDS profile a process of this launch gets.

    :param context: with `dds_profile` and the environment.
    :return: the variables for the process's `additional_env`, and a message for the log.
    """
    return choose_profile(value_of('dds_profile', context), context.environment)


def viewer(context: LaunchContext) -> list[Node]:
    """
    Create the node of the viewer in `view`.

    :param context: with `view`, and the names of the segmenter and its topics.
    :return: the node; empty if `view` is empty.
    :raises RuntimeError: if the viewer is not installed.
    """
    view = value_of('view', context)
    if not view:
        return []
    package = VIEWERS[view]
    if not has_resource('packages', package):
        debian = f'ros-{os.environ.get("ROS_DISTRO", "jazzy")}-{package.replace("_", "-")}'
        raise RuntimeError(
            f'view is {view!r}, and the package {package!r} is not installed: '
            f'"sudo apt install {debian}", or leave view out'
        )
    sim_time = value_of('use_sim_time', context)
    parameters = [{'use_sim_time': sim_time in TRUE}] if sim_time else []
    options = _rviz(context) if view == 'rviz' else _foxglove(context)
    return [
        Node(
            package=package,
            executable=package,
            parameters=[*parameters, *options.pop('parameters', [])],
            additional_env=profile(context).variables,
            output='screen',
            **options,
        )
    ]


def _rviz(context: LaunchContext) -> dict[str, Any]:
    names = viewed_topics(context)
    renamed = [(default, name) for default, name in names.items() if default != name]
    return {'arguments': ['-d', str(RVIZ_CONFIG)], 'remappings': renamed}


def _foxglove(context: LaunchContext) -> dict[str, Any]:
    get_logger('view').info(
        'in Foxglove, open the WebSocket connection ws://localhost:8765 and import the layout '
        f'{foxglove_layout(context)}'
    )
    # With Foxglove's defaults, every machine that reaches the port could see images of patients,
    # publish, call services and set parameters.
    return {'parameters': [{'address': '127.0.0.1', 'capabilities': ['connectionGraph']}]}


def viewed_topics(context: LaunchContext) -> dict[str, str]:
    """
    Map the topics in the configuration files of the viewers to those of this launch.

    :param context: with the names of the segmenter and its topics, including SetRemap.
    :return: absolute names, by the names of a segmenter with its defaults; with several cameras,
        those of the first.
    """
    given = value_of('image_topic', context)
    image = given or next(iter(image_topics(context)), 'image')
    camera = _camera(context)
    outputs = {topic: f'{camera}/{topic}' if camera else topic for topic in VIEWED_OUTPUTS}
    topics = {'image': image, **outputs}
    return {f'/{default}': _remapped(name, context) for default, name in topics.items()}


def foxglove_layout(context: LaunchContext) -> Path:
    """
    Find or write the layout for Foxglove, which cannot remap topics.

    :param context: with the names of the segmenter and its topics.
    :return: the shipped file, or a copy in the log folder with the names of this launch.
    """
    status = node_name(context).lstrip('/')  # the name of the node's status in /diagnostics
    status += f': {_camera(context)}' if _camera(context) else ''
    shipped = FOXGLOVE_LAYOUT.read_text()
    topics = viewed_topics(context)
    named = re.sub(
        r'"(/\w+)(?=[".])', lambda match: '"' + topics.get(match[1], match[1]), shipped
    ).replace(f"'{DEFAULTS['name']}'", f"'{status}'")
    if named == shipped:
        return FOXGLOVE_LAYOUT
    path = Path(launch_config.log_dir, f'foxglove{node_name(context).replace("/", "_")}.json')
    path.write_text(named)
    return path


def _camera(context: LaunchContext) -> str:
    names = _names('camera_names', context)
    return next(iter(SPLIT_CAMERAS if _is_split(context) and not any(names) else names), '')


def _remapped(topic: str, context: LaunchContext) -> str:
    """Resolve a name as rcl does for the segmenter: the first matching rule applies."""
    name = _absolute(topic, context)
    for source, target in context.launch_configurations.get('ros_remaps', []):
        if _absolute(source, context) == name:
            return _absolute(target, context)
    return name


def _absolute(topic: str, context: LaunchContext) -> str:
    node = node_name(context)
    topic = topic.replace('~', node, 1)
    return topic if topic.startswith('/') else f'{node.rpartition("/")[0]}/{topic}'
