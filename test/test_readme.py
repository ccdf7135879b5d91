# SPDX-License-Identifier: Apache-2.0
"""What the README shows must be true."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from surgseg_ros.__main__ import VERBS

README = (Path(__file__).resolve().parents[1] / 'README.md').read_text()


def test_every_verb_is_listed() -> None:
    listed = re.findall(r'^\| `(\w+)` \|', README.split('## Commands')[1], re.MULTILINE)
    assert sorted(listed) == sorted(VERBS)


def example_consumer() -> type:
    names: dict[str, type] = {}
    exec(re.search(r'```python\n(.*?)```', README, re.DOTALL).group(1), names)
    return names['MaskConsumer']


def pretend_humble(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have rclpy's event callbacks in another module, as Humble has them."""
    from rclpy import event_handler

    old = ModuleType('rclpy.qos_event')
    old.SubscriptionEventCallbacks = event_handler.SubscriptionEventCallbacks
    monkeypatch.setitem(sys.modules, 'rclpy.qos_event', old)
    monkeypatch.setitem(sys.modules, 'rclpy.event_handler', None)  # an import of it raises


@pytest.mark.parametrize('distribution', ['jazzy', 'humble'])
def test_the_example_consumer_uses_a_mask_only_while_it_is_young_and_the_node_valid(
    distribution: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rclpy = pytest.importorskip('rclpy', reason='needs rclpy')
    from diagnostic_msgs.msg import DiagnosticStatus
    from rclpy.duration import Duration
    from sensor_msgs.msg import Image

    if distribution == 'humble':
        pretend_humble(monkeypatch)

    class Consumer(example_consumer()):
        def __init__(self) -> None:
            self.used = 0
            super().__init__()

        def use(self, mask: Image) -> None:
            self.used += 1

    rclpy.init(args=[])
    try:
        consumer = Consumer()
        young, old = Image(), Image()
        young.header.stamp = consumer.get_clock().now().to_msg()
        old.header.stamp = (consumer.get_clock().now() - Duration(seconds=60)).to_msg()

        consumer.on_mask(young)
        assert consumer.used == 0  # no status yet
        consumer.on_status(DiagnosticStatus(message='valid'))
        consumer.on_mask(old)
        assert consumer.used == 0
        young.header.stamp = consumer.get_clock().now().to_msg()
        consumer.on_mask(young)
        assert consumer.used == 1
        consumer.on_status(DiagnosticStatus(message='stale'))
        consumer.on_mask(young)
        assert consumer.used == 1
        consumer.destroy_node()
    finally:
        rclpy.shutdown()
