# SPDX-License-Identifier: Apache-2.0
"""One camera's output topics."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rclpy.lifecycle import LifecycleNodeMixin
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray, LabelInfo

from surgseg_ros.core.detections import Instrument
from surgseg_ros.core.overlay import draw_overlay
from surgseg_ros.core.segmentation import Segmentation
from surgseg_ros.messages.images import image_to_msg
from surgseg_ros.messages.results import detections_to_msg, label_info_to_msg, to_cdr

LATCHED_QOS: Final = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


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
    """

    def __init__(self, node: LifecycleNodeMixin, camera_name: str, overlay: bool) -> None:
        """Create the publishers; those of results are silent until the node is active."""
        self._node = node
        self._mask = self._create(Image, prefixed(camera_name, 'mask'))
        self._detections = self._create(Detection2DArray, prefixed(camera_name, 'detections'))
        self._confidence = self._create(Image, prefixed(camera_name, 'confidence'))
        self._overlay = self._create(Image, prefixed(camera_name, 'overlay')) if overlay else None
        # An ordinary publisher: a lifecycle one drops what is latched before activation.
        self._label_info = node.create_publisher(
            LabelInfo, prefixed(camera_name, 'label_info'), LATCHED_QOS
        )

    def destroy(self) -> None:
        """Destroy the publishers, the last made first."""
        self._node.destroy_publisher(self._label_info)
        for publisher in (self._overlay, self._confidence, self._detections, self._mask):
            if publisher is not None:
                self._node.destroy_lifecycle_publisher(publisher)

    def announce(self, now_ns: int) -> None:
        """
        Latch the names of the labels.

        :param now_ns: the node's clock.
        """
        self._label_info.publish(to_cdr(label_info_to_msg(now_ns)))

    def publish(
        self,
        header: Any,
        image: NDArray[np.uint8],
        segmentation: Segmentation,
        instruments: Sequence[Instrument],
    ) -> None:
        """
        Publish what is known of a picture, what nobody listens to left out.

        :param header: the picture's, given on untouched.
        :param image: (H, W, 3) uint8 RGB.
        :param segmentation: with confidence.
        :param instruments: what was found in it.
        """
        self._mask.publish(to_cdr(image_to_msg(segmentation.mask, header)))
        self._detections.publish(to_cdr(detections_to_msg(header, instruments)))
        if self._confidence.get_subscription_count() and segmentation.confidence is not None:
            self._confidence.publish(to_cdr(image_to_msg(segmentation.confidence, header)))
        if self._overlay is not None and self._overlay.get_subscription_count():
            drawn = draw_overlay(image, segmentation.mask, instruments)
            self._overlay.publish(to_cdr(image_to_msg(drawn, header)))

    def _create(self, message_type: type, topic: str) -> Publisher:
        return self._node.create_lifecycle_publisher(
            message_type,
            topic,
            QoSProfile(depth=1),  # a new one each time: overriding changes it
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )
