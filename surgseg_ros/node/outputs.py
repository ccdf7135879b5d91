# SPDX-License-Identifier: Apache-2.0
"""One camera's output topics."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.lifecycle import LifecycleNodeMixin
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSPolicyKind, QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray, LabelInfo

from surgseg_ros.core.detections import Instrument, draw_overlay
from surgseg_ros.core.segmentation import Segmentation
from surgseg_ros.messages.images import image_to_msg
from surgseg_ros.messages.results import detections_to_msg, label_info_to_msg, to_cdr

LATCHED_QOS: Final = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)

OUTPUT_POLICIES: Final = (QoSPolicyKind.DEPTH, QoSPolicyKind.HISTORY, QoSPolicyKind.RELIABILITY)
"""Of each result's publisher, that can be overridden."""

RESULTS: Final = {
    'mask': Image,
    'detections': Detection2DArray,
    'confidence': Image,
    'overlay': Image,
    'raw_mask': Image,
}
"""Topics that speak only while the node is active, and their types."""


def prefixed(camera_name: str, topic: str) -> str:
    """
    Name an output topic of a camera.

    :param camera_name: the prefix; empty for none.
    :param topic: `mask` for example.
    :return: relative name.
    """
    return f'{camera_name}/{topic}' if camera_name else topic


class Outputs:
    """
    Publishers from configure to cleanup.

    :param node: whose publishers they are.
    :param camera_name: prefix of the topics.
    :param overlay: whether the overlay is offered.
    :param raw_mask: whether the mask before it is filtered is offered.
    """

    def __init__(
        self, node: LifecycleNodeMixin, camera_name: str, overlay: bool, raw_mask: bool = False
    ) -> None:
        """Keep what is needed; nothing is created yet."""
        self._node = node
        self._camera_name = camera_name
        offered = {'overlay': overlay, 'raw_mask': raw_mask}
        self._topics = [topic for topic in RESULTS if offered.get(topic, True)]
        self._results: dict[str, Publisher] = {}
        self._label_info: Publisher | None = None

    def create(self) -> None:
        """Create the publishers; those of results are silent until the node is active."""
        # A new one each time; the node's default group keeps what was destroyed.
        group = MutuallyExclusiveCallbackGroup()
        for topic in self._topics:
            self._results[topic] = self._node.create_lifecycle_publisher(
                RESULTS[topic],
                prefixed(self._camera_name, topic),
                QoSProfile(depth=1),  # a new one each time: overriding changes it
                callback_group=group,
                qos_overriding_options=QoSOverridingOptions(OUTPUT_POLICIES),
            )
        # An ordinary publisher: a lifecycle one drops what is latched before activation.
        self._label_info = self._node.create_publisher(
            LabelInfo,
            prefixed(self._camera_name, 'label_info'),
            LATCHED_QOS,
            callback_group=group,
        )

    def topics(self) -> list[str]:
        """Name the topics that are offered, `status` apart; relative names."""
        return [prefixed(self._camera_name, topic) for topic in (*self._topics, 'label_info')]

    def destroy(self) -> None:
        """Destroy those that were created, the last made first."""
        if self._label_info is not None:
            self._node.destroy_publisher(self._label_info)
        self._label_info = None
        while self._results:
            self._node.destroy_lifecycle_publisher(self._results.popitem()[1])

    def announce(self, now_ns: int) -> None:
        """
        Latch the names of the labels.

        :param now_ns: the node's clock.
        """
        if self._label_info is not None:
            self._label_info.publish(to_cdr(label_info_to_msg(now_ns)))

    def publish(
        self,
        header: Any,
        image: NDArray[np.uint8],
        segmentation: Segmentation,
        instruments: Sequence[Instrument],
        raw: NDArray[np.uint8] | None = None,
    ) -> None:
        """
        Publish what is known of an image; what is for people, only if somebody listens.

        :param header: the image's, given on untouched.
        :param image: (H, W, 3) uint8 RGB.
        :param segmentation: with confidence, where that is wanted.
        :param instruments: what was found in it.
        :param raw: (H, W) uint8, the mask before it was filtered; None if it was not.
        """
        self._send('mask', image_to_msg(segmentation.mask, header))
        self._send('detections', detections_to_msg(header, instruments))
        if self._is_heard('confidence') and segmentation.confidence is not None:
            self._send('confidence', image_to_msg(segmentation.confidence, header))
        if self._is_heard('overlay'):
            drawn = draw_overlay(image, segmentation.mask, instruments)
            self._send('overlay', image_to_msg(drawn, header))

        if raw is not None and self._is_heard('raw_mask'):
            self._send('raw_mask', image_to_msg(raw, header))

    def wants_confidence(self) -> bool:
        """Tell whether somebody listens to the confidence of each pixel."""
        return self._is_heard('confidence')

    def _send(self, topic: str, message: Any) -> None:
        self._results[topic].publish(to_cdr(message))

    def _is_heard(self, topic: str) -> bool:
        publisher = self._results.get(topic)
        return publisher is not None and publisher.get_subscription_count() > 0
