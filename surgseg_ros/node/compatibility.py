# SPDX-License-Identifier: Apache-2.0
"""The one place that knows how Humble's rclpy differs from that of later distributions."""

import inspect
import time
from collections.abc import Callable, Mapping
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.subscription import Subscription

try:
    from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks, UnsupportedEventTypeError

__all__ = ['SubscriptionEventCallbacks', 'UnsupportedEventTypeError', 'subscribe', 'with_info']


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
