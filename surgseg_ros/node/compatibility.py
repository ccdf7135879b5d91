# SPDX-License-Identifier: Apache-2.0
"""What differs between ROS distributions, and how rclpy is started."""

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
    Create a subscription with those events that rclpy and the middleware support.

    :param node: whose subscription it is.
    :param message_type: of its topic.
    :param topic: name of the topic.
    :param callback: gets each message and the information about it; see `with_info`.
    :param qos: of the subscription.
    :param events: callbacks by the names that SubscriptionEventCallbacks gives them, the most
        widely supported first. What is not supported is left out, from the end on.
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
        except UnsupportedEventTypeError:  # it does not say which one
            if not wanted:
                raise
            wanted.popitem()


def with_info(callback: Callable[[Any, Mapping[str, Any]], None]) -> Callable[..., None]:
    """
    Make a subscription's callback that gets a message and the information about it.

    Humble's rclpy hands over the message alone. What it leaves out is not made up: there, the
    information is only that the message has been received now.

    :param callback: gets a message, and information by the names of rmw_message_info_t;
        `source_timestamp` and `received_timestamp` are in nanoseconds of the system's clock.
    :return: what create_subscription takes.
    """
    if hasattr(Subscription, 'CallbackType'):
        return callback
    return lambda message: callback(message, {'received_timestamp': time.time_ns()})


def local_discovery(environment: Mapping[str, str]) -> dict[str, str]:
    """
    Name the environment variables that restrict discovery to this machine.

    :param environment: holds ROS_DISTRO.
    :return: what to set. Humble reads ROS_LOCALHOST_ONLY alone; later distributions call it
        deprecated and let it override ROS_AUTOMATIC_DISCOVERY_RANGE, so it is for Humble only.
    """
    variables = {'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST'}
    if environment.get('ROS_DISTRO') == 'humble':
        variables['ROS_LOCALHOST_ONLY'] = '1'
    return variables


class RosArgumentError(ValueError):
    """Arguments after `--ros-args` that ROS does not take; the message names them."""


def begin_ros(arguments: Sequence[str]) -> None:
    """
    Initialize rclpy, without handlers of signals.

    :param arguments: of the command; those of ROS follow `--ros-args`.
    :raises RosArgumentError: if ROS does not understand one.
    """
    try:
        rclpy.init(args=list(arguments), signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:
        # The classes are those of rclpy's native part, which every distribution keeps elsewhere.
        kind = type(error).__name__
        if kind == 'UnknownROSArgsError':
            what = ' '.join(ast.literal_eval(str(error)))
            raise RosArgumentError(
                f'ROS does not know {what} after --ros-args: check it, or end the arguments of '
                'ROS by --'
            ) from error
        if kind == 'RCLInvalidROSArgsError' or 'parse' in str(error):
            raise RosArgumentError(
                f'ROS does not understand the arguments after --ros-args ({error}): write '
                '-r FROM:=TO, -p NAME:=VALUE or --params-file FILE'
            ) from error
        raise
