# SPDX-License-Identifier: Apache-2.0
"""What the launch files share; it needs ROS 2's launch, and nothing else imports it."""

from pathlib import Path
from typing import Any, Final

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext
from launch.substitutions import LaunchConfiguration
from launch_ros.utilities import make_namespace_absolute, prefix_namespace

from surgseg_ros.core.params_file import effective_value
from surgseg_ros.node.dds_profile import ProfileChoice, choose_profile

CONFIG: Final = Path(get_package_share_directory('surgseg_ros'), 'config')

TRUE: Final = ['true', 'True', 'TRUE', '1']
FLAGS: Final = [*TRUE, 'false', 'False', 'FALSE', '0']
"""What a flag may be."""

DEFAULTS: Final = {
    'name': 'segmenter',
    'namespace': '',
    'params_file': '',
    'dds_profile': str(CONFIG / 'fastdds.xml'),
}
"""Of arguments that both launch files read: an included one's are gone when it has ended."""


def value_of(name: str, context: LaunchContext) -> str:
    """
    Find the value of an argument.

    :param name: of the argument, which is declared or one of DEFAULTS.
    :param context: of the launch.
    :return: the value.
    """
    return LaunchConfiguration(name, default=DEFAULTS.get(name)).perform(context)


def node_name(context: LaunchContext) -> str:
    """
    Name the segmenter as launch_ros will.

    :param context: holds `name` and `namespace`, and the namespace of PushRosNamespace.
    :return: the fully qualified name.
    """
    base = context.launch_configurations.get('ros_namespace')
    namespace = prefix_namespace(base, value_of('namespace', context))
    return prefix_namespace(make_namespace_absolute(namespace), value_of('name', context))


def params_file(context: LaunchContext) -> str:
    """
    Find the file of parameters.

    :param context: holds `params_file`.
    :return: its path; empty for none.
    :raises FileNotFoundError: if there is no such file; launch itself would only warn.
    """
    path = value_of('params_file', context)
    if path and not Path(path).is_file():
        raise FileNotFoundError(f'params_file is {path!r}, and there is no such file')
    return path


def image_topics(context: LaunchContext) -> list[str]:
    """
    Find what the segmenter will have in its parameter `image_topics`, arguments aside.

    :param context: holds `params_file`, and the parameters of SetParameter.
    :return: the topics; empty where neither says anything.
    :raises OSError: if a file is missing or cannot be read.
    :raises ValueError: if it is no file of parameters.
    """
    sources: list[Any] = [*context.launch_configurations.get('global_params', [])]
    sources += filter(None, [params_file(context)])
    topics = effective_value(sources, node_name(context), 'image_topics')
    return [*topics] if isinstance(topics, (list, tuple)) else []


def profile(context: LaunchContext) -> ProfileChoice:
    """
    Decide which Fast DDS profile a process of this launch gets.

    :param context: holds `dds_profile` and the environment.
    :return: the variables for the process's `additional_env`, and what to say.
    """
    return choose_profile(value_of('dds_profile', context), context.environment)
