# SPDX-License-Identifier: Apache-2.0
"""The node with the rclpy of Humble, simulated by today's with the names of the old module."""

import importlib.util
import sys
from types import ModuleType
from typing import ClassVar

import pytest
from bench import REPOSITORY
from rclpy import event_handler
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image

from surgseg_ros.node import middleware


class CallbacksOfHumble(event_handler.SubscriptionEventCallbacks):
    """Has the signature of rclpy 3.3, without `matched`."""

    made: ClassVar[list['CallbacksOfHumble']] = []

    def __init__(
        self,
        *,
        deadline=None,
        incompatible_qos=None,
        liveliness=None,
        message_lost=None,
        use_default_callbacks=True,
    ):
        super().__init__(
            deadline=deadline,
            incompatible_qos=incompatible_qos,
            liveliness=liveliness,
            message_lost=message_lost,
            use_default_callbacks=use_default_callbacks,
        )
        self.made.append(self)


@pytest.fixture
def humble(monkeypatch):
    """Load the module as on Humble: `rclpy.qos_event`, and callbacks of one argument."""
    old = ModuleType('rclpy.qos_event')
    old.SubscriptionEventCallbacks = CallbacksOfHumble
    old.UnsupportedEventTypeError = event_handler.UnsupportedEventTypeError
    monkeypatch.setitem(sys.modules, 'rclpy.qos_event', old)
    monkeypatch.setitem(sys.modules, 'rclpy.event_handler', None)  # importing it raises
    path = REPOSITORY / 'surgseg_ros/node/middleware.py'
    spec = importlib.util.spec_from_file_location('middleware_of_humble', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, 'Subscription', type('Subscription', (), {}))
    return module


def test_the_old_module_is_used_if_the_new_one_is_missing(humble):
    assert humble.SubscriptionEventCallbacks is CallbacksOfHumble
    assert middleware.SubscriptionEventCallbacks is event_handler.SubscriptionEventCallbacks


def test_with_the_rclpy_of_humble_masks_lack_only_what_it_does_not_report(
    humble, monkeypatch, start_node, model
):
    monkeypatch.setattr('surgseg_ros.node.image_subscriber.subscribe', humble.subscribe)
    monkeypatch.setattr(CallbacksOfHumble, 'made', [])
    own_node = start_node(model=str(model), stale_after_ms=60000)
    own_node.bench.connect(own_node.bench.camera(), own_node.bench.listen(Image, 'mask'))
    assert CallbacksOfHumble.made
    assert all(
        events.message_lost and events.incompatible_qos for events in CallbacksOfHumble.made
    )
    health = own_node.node._reporter.healths[0]
    assert health.counts()['received'] > 0
    assert 'transport' not in health.times_ms()  # it does not report when an image was sent,
    assert health.counts()['missing'] == 0  # nor its sequence number


class NodeOfMiddleware:
    """Creates subscriptions like a middleware that lacks some events."""

    def __init__(self, *lacking):
        self.lacking = lacking

    def create_subscription(self, message_type, topic, callback, qos, *, event_callbacks):
        if any(getattr(event_callbacks, name) for name in self.lacking):
            raise event_handler.UnsupportedEventTypeError('not supported')
        return event_callbacks


@pytest.mark.parametrize(
    ('lacking', 'left'),
    [
        ((), {'matched', 'message_lost', 'incompatible_qos'}),
        (('incompatible_qos',), {'matched', 'message_lost'}),
        (('message_lost', 'incompatible_qos'), {'matched'}),
        (('matched',), set()),
    ],
)
def test_the_node_subscribes_although_the_middleware_lacks_events(lacking, left):
    names = ('matched', 'message_lost', 'incompatible_qos')
    made = middleware.subscribe(
        NodeOfMiddleware(*lacking),
        Image,
        'image',
        lambda message, info: None,
        QoSProfile(depth=1),
        events={name: lambda event: None for name in names},
    )
    assert {name for name in names if getattr(made, name)} == left
    assert not made.use_default_callbacks  # they would log for each camera, and raise here


def test_the_callback_on_humble_gets_the_message_and_its_receipt_time(humble):
    came = []
    humble.with_info(lambda message, info: came.append((message, info)))('an image')
    ((message, info),) = came
    assert message == 'an image'
    assert info.keys() == {'received_timestamp'}
    assert middleware.with_info(print) is print
