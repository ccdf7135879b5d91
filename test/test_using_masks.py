# SPDX-License-Identifier: Apache-2.0
"""The example consumer uses masks only as docs/using_masks.md requires."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from surgseg_ros.core.reasons import ReasonCode

DOCS = Path(__file__).resolve().parents[1] / 'docs'
EXAMPLE = DOCS / 'examples' / 'mask_consumer.py'


@pytest.fixture(params=['jazzy', 'humble'])
def example(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import the example with the rclpy of a distribution."""
    pytest.importorskip('rclpy', reason='needs rclpy')
    from rclpy import event_handler

    if request.param == 'humble':  # whose rclpy has the same class in another module
        old = ModuleType('rclpy.qos_event')
        old.SubscriptionEventCallbacks = event_handler.SubscriptionEventCallbacks
        monkeypatch.setitem(sys.modules, 'rclpy.qos_event', old)
        monkeypatch.setitem(sys.modules, 'rclpy.event_handler', None)  # importing it raises
    spec = importlib.util.spec_from_file_location('mask_consumer', EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def consumer(example: ModuleType):
    """Return a consumer that counts the masks it uses."""
    import rclpy

    class Consumer(example.MaskConsumer):
        def __init__(self) -> None:
            self.used = 0
            super().__init__()

        def use(self, mask: object) -> None:
            self.used += 1

    rclpy.init(args=[])
    try:
        made = Consumer()
        yield made
        made.destroy_node()
    finally:
        rclpy.shutdown()


def uses(consumer, age_s: float = 0.0) -> bool:
    """Send a mask of an age; return whether it is used."""
    from rclpy.duration import Duration
    from sensor_msgs.msg import Image

    before, mask = consumer.used, Image()
    mask.header.stamp = (consumer.get_clock().now() - Duration(seconds=age_s)).to_msg()
    consumer.on_mask(mask)
    return consumer.used > before


def status(state: str, codes: str | None = None):
    from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

    values = [] if codes is None else [KeyValue(key='reason_codes', value=codes)]
    return DiagnosticStatus(message=state, values=values)


ACCEPTED = [('valid', ''), ('degraded', 'gate_interlaced'),
            ('degraded', 'batching_disabled,gate_interlaced')]  # fmt: skip

REFUSED = [
    ('degraded', 'gate_smoke'),
    ('degraded', 'gate_interlaced,gate_smoke'),
    ('degraded', 'gate_interlaced,a_code_of_a_later_release'),
    ('degraded', 'gate_'),
    ('degraded', ''),
    ('degraded', None),  # of a node without reason codes
    ('stale', 'gate_interlaced'),
    ('inactive', 'gate_interlaced'),
    ('stale', 'stale_camera'),
    ('', ''),
]


def test_the_consumer_uses_a_mask_only_while_it_is_recent_and_its_status_is_accepted(consumer):
    consumer.MAX_AGE = consumer.MAX_AGE.__class__(seconds=1000)  # for a busy machine
    assert not uses(consumer), 'there was no status yet'
    for accepted in ACCEPTED:
        consumer.on_status(status(*accepted))
        assert uses(consumer), accepted
        assert not uses(consumer, age_s=2000)
        assert not uses(consumer, age_s=-2000), 'it is from the future'
        for refused in REFUSED:
            consumer.on_status(status(*refused))
            assert not uses(consumer), refused
        consumer.on_status(status(*accepted))
        consumer.on_missed_deadline(None)
        assert not uses(consumer)


def test_reason_codes_in_the_example_exist(example):
    assert {code.value for code in ReasonCode} > example.MaskConsumer.ACCEPTED_CODES
    assert example.MaskConsumer.MAX_AGE.nanoseconds == 200_000_000


def test_the_page_shows_the_example_unchanged() -> None:
    page = (DOCS / 'using_masks.md').read_text()
    (shown,) = re.findall(r'```python\n(.*?)```', page, re.DOTALL)
    assert shown == EXAMPLE.read_text()
