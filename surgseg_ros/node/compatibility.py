# SPDX-License-Identifier: Apache-2.0
"""Differences between ROS distributions, and the start of rclpy."""

import ast
import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from rclpy.subscription import Subscription

__all__ = ['SubscriptionEventCallbacks', 'UnsupportedEventTypeError', 'subscribe', 'with_info']

try:
    from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks, UnsupportedEventTypeError


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
    :param qos: of the subscription.
    :param events: callbacks by their names in SubscriptionEventCallbacks, the most widely
        supported first. Unsupported ones are left out, starting with the last.
    :param options: for rclpy's create_subscription.
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
    Make a callback for create_subscription that gets a message and the information about it.

    In Humble, rclpy passes the message alone. There, the information holds nothing but the
    current time as `received_timestamp`.

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

    :param environment: holds ROS_DISTRO.
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
        # The classes belong to rclpy's native part, and each distribution has them elsewhere.
        kind = type(error).__name__
        if kind == 'UnknownROSArgsError':
            unknown = ' '.join(ast.literal_eval(str(error)))
            raise RosArgumentError(
                f'ROS does not know {unknown} after --ros-args: correct it, or end the arguments '
                'of ROS with --'
            ) from error
        if kind == 'RCLInvalidROSArgsError' or 'parse' in str(error):
            raise RosArgumentError(
                f'ROS does not understand the arguments after --ros-args ({error}): write '
                '-r FROM:=TO, -p NAME:=VALUE or --params-file FILE'
            ) from error
        raise
