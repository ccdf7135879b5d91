# SPDX-License-Identifier: Apache-2.0
"""Use masks only while they are young and `status` accepts them; see docs/using_masks.md."""

import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.time import Time
from sensor_msgs.msg import Image

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks


class MaskConsumer(Node):
    """For a camera whose stamps are this machine's time."""

    ACCEPTED_CODES = frozenset({'gate_interlaced', 'batching_disabled'})
    """With these the masks are good enough for what this node does; decide it for yours."""

    MAX_AGE = Duration(nanoseconds=200_000_000)

    def __init__(self):
        super().__init__('mask_consumer')
        self.trusted = False
        qos = QoSProfile(
            depth=1,
            deadline=Duration(nanoseconds=1_500_000_000),
            durability=DurabilityPolicy.TRANSIENT_LOCAL,
        )
        missed = SubscriptionEventCallbacks(deadline=self.on_missed_deadline)
        self.create_subscription(
            DiagnosticStatus, 'status', self.on_status, qos, event_callbacks=missed
        )
        self.create_subscription(Image, 'mask', self.on_mask, 1)

    def on_status(self, status):
        """Trust masks that are valid, or degraded for accepted reasons and no others."""
        values = {value.key: value.value for value in status.values}
        codes = set(filter(None, values.get('reason_codes', '').split(',')))
        accepted = bool(codes) and codes <= self.ACCEPTED_CODES
        self.trusted = status.message == 'valid' or (status.message == 'degraded' and accepted)

    def on_missed_deadline(self, event):
        """Trust nothing: the node has died, or cannot be reached."""
        self.trusted = False

    def on_mask(self, mask):
        """Use a mask if it can be trusted and is young."""
        age = self.get_clock().now() - Time.from_msg(mask.header.stamp)
        if self.trusted and Duration() <= age <= self.MAX_AGE:
            self.use(mask)

    def use(self, mask):
        """Act on the mask, which is young and accepted."""


if __name__ == '__main__':
    rclpy.init()
    rclpy.spin(MaskConsumer())
