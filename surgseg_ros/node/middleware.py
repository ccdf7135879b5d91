# SPDX-License-Identifier: Apache-2.0
"""
Differences between ROS distributions and their middleware, and the initialization of rclpy.

It also decides whether Fast DDS can use the profile for large images, and which variable selects
it.
"""

import ast
import contextlib
import inspect
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

import rclpy
from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from rclpy.subscription import Subscription

__all__ = ['SubscriptionEventCallbacks', 'UnsupportedEventTypeError', 'subscribe', 'with_info']

try:
    from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks, UnsupportedEventTypeError

NO_PROFILE: Final = 'none'
"""Value instead of a file: use Fast DDS with its own settings."""

OLD_VARIABLE: Final = 'FASTRTPS_DEFAULT_PROFILES_FILE'
NEW_VARIABLE: Final = 'FASTDDS_DEFAULT_PROFILES_FILE'

READ_OLD_VARIABLE: Final = ('humble', 'iron', 'jazzy')
"""Distributions with Fast DDS 2; Kilted and later have Fast DDS 3, which reads the new name."""

PARTICIPANTS: Final = 3
"""Number of processes whose shared memory must fit: camera driver, node and one viewer."""


def subscribe(
    node: Node,
    message_type: type,
    topic: str,
    callback: Callable[[Any, Mapping[str, Any]], None],
    qos: QoSProfile,
    *,
    events: Mapping[str, Callable[[Any], None]],
    **options: Any,
) -> Subscription:
    """
    Create a subscription with the events that rclpy and the middleware support.

    :param node: the node that subscribes.
    :param message_type: message type of the topic.
    :param topic: name of the topic.
    :param callback: called with each message and the information about it; see `with_info`.
    :param qos: QoS of the subscription.
    :param events: callbacks by their names in SubscriptionEventCallbacks, the most widely
        supported first; unsupported events are left out, starting with the last.
    :param options: further arguments of rclpy's create_subscription.
    :return: the subscription.
    """
    known = inspect.signature(SubscriptionEventCallbacks).parameters  # Humble lacks `matched`
    wanted = {name: callback for name, callback in events.items() if name in known}
    while True:
        try:
            return node.create_subscription(
                message_type,
                topic,
                with_info(callback),
                qos,
                event_callbacks=SubscriptionEventCallbacks(**wanted, use_default_callbacks=False),
                **options,
            )
        except UnsupportedEventTypeError:  # it does not name the event
            if not wanted:
                raise
            wanted.popitem()


def with_info(callback: Callable[[Any, Mapping[str, Any]], None]) -> Callable[..., None]:
    """
    Create a callback for create_subscription that gets a message and the information about it.

    In Humble, rclpy passes only the message. There, the information only contains the current time
    as `received_timestamp`.

    :param callback: called with a message, and its information by the field names of
        rmw_message_info_t; `source_timestamp` and `received_timestamp` are in nanoseconds of the
        system clock.
    :return: the callback for create_subscription.
    """
    if hasattr(Subscription, 'CallbackType'):
        return callback
    return lambda message: callback(message, {'received_timestamp': time.time_ns()})


def local_discovery(environment: Mapping[str, str]) -> dict[str, str]:
    """
    Return the environment variables that restrict discovery to this machine.

    :param environment: with ROS_DISTRO.
    :return: the variables to set. Humble reads only ROS_LOCALHOST_ONLY; later distributions
        deprecate it and let it override ROS_AUTOMATIC_DISCOVERY_RANGE, so it is for Humble only.
    """
    variables = {'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST'}
    if environment.get('ROS_DISTRO') == 'humble':
        variables['ROS_LOCALHOST_ONLY'] = '1'
    return variables


class RosArgumentError(ValueError):
    """Arguments after `--ros-args` that ROS does not accept; the message names them."""


def begin_ros(arguments: Sequence[str]) -> None:
    """
    Initialize rclpy, without signal handlers.

    :param arguments: command-line arguments; those of ROS follow `--ros-args`.
    :raises RosArgumentError: if ROS does not accept one.
    """
    try:
        rclpy.init(args=list(arguments), signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:
        # The classes are in rclpy's native part, at a different place in each distribution.
        kind = type(error).__name__
        if kind == 'UnknownROSArgsError':
            unknown = ' '.join(ast.literal_eval(str(error)))
            raise RosArgumentError(
                f'unknown after --ros-args: {unknown}; correct it, or end ROS arguments with --'
            ) from error
        if kind == 'RCLInvalidROSArgsError' or 'parse' in str(error):
            raise RosArgumentError(
                f'ROS does not understand the arguments after --ros-args ({error}): write '
                '-r FROM:=TO, -p NAME:=VALUE or --params-file FILE'
            ) from error
        raise


@dataclass(frozen=True)
class ProfileChoice:
    """
    The decision about a profile, with a message for the log of a launch file.

    :param message: the decision and its reason, with the remedy if something is wrong.
    :param severity: log level of the message, as in `logging`.
    :param variables: the environment variables to set; empty if the profile is not used.
    """

    message: str
    severity: int = logging.INFO
    variables: dict[str, str] = field(default_factory=dict)


def choose_profile(
    profile: str, environment: Mapping[str, str], shared_memory: Path = Path('/dev/shm')
) -> ProfileChoice:
    """
    Decide whether Fast DDS gets a profile, and through which variable.

    :param profile: path of the XML file, or NO_PROFILE.
    :param environment: the environment that the nodes will inherit.
    :param shared_memory: the folder of the system's shared memory.
    :return: the variables to set and the message to log.
    """
    variable = profile_variable(environment)
    if profile == NO_PROFILE:
        return ProfileChoice('Fast DDS gets no profile, as requested; large images may be lost')
    if environment.get(variable):
        return ProfileChoice(f'Fast DDS keeps the profile of {variable}={environment[variable]}')
    try:
        needed = PARTICIPANTS * segment_bytes(Path(profile))
    except (OSError, ElementTree.ParseError) as error:
        return ProfileChoice(
            f'Fast DDS gets no profile: {profile!r} cannot be read ({error}); '
            f'give an XML file of profiles, or {NO_PROFILE!r}',
            logging.ERROR,
        )
    free = free_bytes(shared_memory)
    if free < needed:
        return ProfileChoice(_no_room(shared_memory, free, needed), logging.WARNING)
    return ProfileChoice(f'Fast DDS gets the profile {profile}', variables={variable: profile})


def shipped_profile() -> Path:
    """Find the profile that comes with the package, in the checkout or where it is installed."""
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / 'package.xml').is_file():
        return checkout / 'config' / 'fastdds.xml'
    share = Path(sys.prefix, 'share', 'surgseg_ros')
    with contextlib.suppress(PackageNotFoundError, OSError):  # without ROS's environment
        share = Path(get_package_share_directory('surgseg_ros'))
    return share / 'config' / 'fastdds.xml'


def advice_to_sender(middleware: str, environment: Mapping[str, str]) -> str:
    """
    Advise how to start the sender of large images so that fewer are lost.

    :param middleware: the identifier of the RMW implementation.
    :param environment: with ROS_DISTRO.
    :return: a sentence without a full stop.
    """
    if 'fastrtps' not in middleware:
        return f'docs/transport.md lists the settings for {middleware}'
    return (
        'the sender needs more shared memory: before the camera driver is started, '
        f'"export {profile_variable(environment)}={shipped_profile()}" in its shell, or launch it '
        'with that variable; from another machine, see docs/transport.md'
    )


def profile_variable(environment: Mapping[str, str]) -> str:
    """
    Return the variable that selects the profile of the distribution's Fast DDS.

    :param environment: with ROS_DISTRO; without it, Jazzy is assumed.
    :return: the variable's name.
    """
    old = environment.get('ROS_DISTRO', 'jazzy') in READ_OLD_VARIABLE
    return OLD_VARIABLE if old else NEW_VARIABLE


def segment_bytes(profile: Path) -> int:
    """
    Return how much shared memory a profile needs in each process.

    :param profile: the XML file.
    :return: the sum of its segments; 0 if it has none.
    :raises ElementTree.ParseError: if it is not XML.
    """
    elements = ElementTree.parse(profile).getroot().iter()
    return sum(int(e.text or 0) for e in elements if e.tag.rpartition('}')[2] == 'segment_size')


def free_bytes(folder: Path) -> int:
    """
    Return the free space of a file system.

    :param folder: a folder in it.
    :return: the free bytes; 0 if the folder does not exist.
    """
    if not folder.is_dir():
        return 0
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def _no_room(shared_memory: Path, free: int, needed: int) -> str:
    free_mib, needed_mib = free >> 20, needed >> 20
    return (
        f'Fast DDS gets no profile: {shared_memory} has {free_mib} MiB free and the profile needs '
        f'{needed_mib} MiB, so large images may be lost. In a container, start it with '
        f'--shm-size={2 * needed_mib}m or --ipc=host; elsewhere, '
        f'"mount -o remount,size={2 * needed_mib}m {shared_memory}". '
        '"fastdds shm clean" removes what killed processes left there'
    )
