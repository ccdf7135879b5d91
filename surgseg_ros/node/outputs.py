# SPDX-License-Identifier: Apache-2.0
"""The output topics of one camera, except `status`, which `reporter` publishes."""

from collections.abc import Callable, Sequence
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

from surgseg_ros.core.detections import Instrument, instance_image, without_decision
from surgseg_ros.core.errors import describe
from surgseg_ros.core.geometry import Distances, find_geometries, min_distances
from surgseg_ros.core.keypoints import Geometry
from surgseg_ros.core.labels import NO_DECISION
from surgseg_ros.core.overlay import draw_overlay
from surgseg_ros.core.segmentation import Segmentation
from surgseg_ros.messages.images import image_to_msg
from surgseg_ros.messages.serialization import (
    detections_to_msg,
    keypoints_to_msg,
    label_info_to_msg,
    to_cdr,
)

LATCHED_QOS: Final = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)

OUTPUT_POLICIES: Final = (QoSPolicyKind.DEPTH, QoSPolicyKind.HISTORY, QoSPolicyKind.RELIABILITY)
"""QoS policies of the publishers that can be overridden."""

_WITH_POINTS: Final = ('keypoints', 'overlay')

RESULTS: Final = {
    'mask': Image,
    'detections': Detection2DArray,
    'confidence': Image,
    'overlay': Image,
    'instances': Image,
    'keypoints': Detection2DArray,
    'raw_mask': Image,
}
"""Topics of results, which are only published while the node is active, and their types."""

Observer = Callable[[Any, Segmentation, Sequence[Instrument]], None]


def prefixed(camera_name: str, topic: str) -> str:
    """
    Return the name of an output topic of a camera.

    :param camera_name: the prefix; empty for none.
    :param topic: name of the topic, for example `mask`.
    :return: the relative name.
    """
    return f'{camera_name}/{topic}' if camera_name else topic


class Outputs:
    """
    The publishers of one camera's results; they exist from configure to cleanup.

    :param node: the node that publishes.
    :param camera_name: prefix of the topics.
    :param overlay: whether to offer the overlay.
    :param raw_mask: whether to offer the mask before the temporal filter.
    :param observe: called with header, segmentation and instruments of each image, after the
        others.
    :param measure: called with distances between instruments in each mask; None without a
        decision.
    """

    def __init__(
        self,
        node: LifecycleNodeMixin,
        camera_name: str,
        overlay: bool,
        raw_mask: bool = False,
        observe: Observer | None = None,
        measure: Callable[[Distances | None], None] | None = None,
    ) -> None:
        """Store the arguments; nothing is created yet."""
        self._node = node
        self._observe, self._measure = observe, measure
        self._camera_name = camera_name
        offered = {'overlay': overlay, 'raw_mask': raw_mask}
        self._topics = [topic for topic in RESULTS if offered.get(topic, True)]
        self._results: dict[str, Publisher] = {}
        self._label_info: Publisher | None = None

    def create(self) -> None:
        """Create the publishers; results are published only while the node is active."""
        # A new group each time: the node's default group keeps destroyed entities.
        group = MutuallyExclusiveCallbackGroup()
        for topic in self._topics:
            self._results[topic] = self._node.create_lifecycle_publisher(
                RESULTS[topic],
                prefixed(self._camera_name, topic),
                QoSProfile(depth=1),  # a new profile each time: overriding changes it
                callback_group=group,
                qos_overriding_options=QoSOverridingOptions(OUTPUT_POLICIES),
            )
        # An ordinary publisher: a lifecycle publisher would drop latched messages before
        # activation.
        self._label_info = self._node.create_publisher(
            LabelInfo,
            prefixed(self._camera_name, 'label_info'),
            LATCHED_QOS,
            callback_group=group,
        )

    def topics(self) -> list[str]:
        """List the relative names of the output topics, except `status`."""
        return [prefixed(self._camera_name, topic) for topic in (*self._topics, 'label_info')]

    def destroy(self) -> None:
        """Destroy the publishers, the last one first."""
        if self._label_info is not None:
            self._node.destroy_publisher(self._label_info)
        self._label_info = None
        while self._results:
            self._node.destroy_lifecycle_publisher(self._results.popitem()[1])

    def announce(self, now_ns: int) -> None:
        """
        Publish the names of the labels once; the topic is latched.

        :param now_ns: time of the node's clock.
        """
        if self._label_info is not None:
            self._label_info.publish(to_cdr(label_info_to_msg(now_ns)))

    def publish_mask(self, header: Any, mask: NDArray[np.uint8]) -> None:
        """
        Publish the mask of an image.

        :param header: header of the image, passed on unchanged.
        :param mask: (H, W) uint8.
        """
        self._send('mask', image_to_msg(mask, header))

    def publish_detections(self, header: Any, instruments: Sequence[Instrument]) -> None:
        """
        Publish the instruments in a mask, after it.

        :param header: header of the image, passed on unchanged.
        :param instruments: the instruments.
        """
        self._send('detections', detections_to_msg(header, instruments))

    def publish_others(
        self,
        header: Any,
        image: NDArray[np.uint8],
        segmentation: Segmentation,
        instruments: Sequence[Instrument],
        raw: NDArray[np.uint8] | None = None,
    ) -> None:
        """
        Publish on the other topics that have subscribers, after mask and detections.

        :param header: header of the image, passed on unchanged.
        :param image: (H, W, 3) uint8 RGB.
        :param segmentation: with confidence, if `wants_confidence`.
        :param instruments: the instruments in it.
        :param raw: (H, W) uint8, the mask before the temporal filter; None without a filter.
        """
        if self._has_subscriber('confidence') and segmentation.confidence is not None:
            self._send('confidence', image_to_msg(segmentation.confidence, header))
        geometries = self._geometries(segmentation, instruments)
        if self._has_subscriber('overlay'):
            drawn = draw_overlay(image, segmentation.mask, instruments, geometries or ())
            self._send('overlay', image_to_msg(drawn, header))
        if self._has_subscriber('instances'):
            self._send(
                'instances', image_to_msg(instance_image(instruments, segmentation.mask), header)
            )
        if self._has_subscriber('keypoints'):
            size = segmentation.mask.shape
            self._send('keypoints', keypoints_to_msg(header, instruments, geometries, size))
        if raw is not None and self._has_subscriber('raw_mask'):
            self._send('raw_mask', image_to_msg(raw, header))
        if self._observe is not None:
            self._observe(header, segmentation, instruments)
        if self._measure is not None:
            found = None if geometries is None else min_distances(instruments, geometries)
            self._measure(found)

    def publish_no_decision(self, header: Any, image: NDArray[np.uint8]) -> None:
        """
        Publish on every topic that there is no decision.

        :param header: header of the image, or of the fail-safe.
        :param image: (H, W, 3) uint8 RGB.
        """
        size = image.shape[0], image.shape[1]
        unknown, instruments = Segmentation.undecided(size), without_decision(size)
        self.publish_mask(header, unknown.mask)
        self.publish_detections(header, instruments)
        self.publish_others(header, image, unknown, instruments)

    def _geometries(
        self, segmentation: Segmentation, instruments: Sequence[Instrument]
    ) -> list[Geometry] | None:
        """Find keypoints; None without a decision, a subscriber, or if it fails."""
        wanted = self._measure is not None or any(map(self._has_subscriber, _WITH_POINTS))
        if not wanted or any(instrument.label == NO_DECISION for instrument in instruments):
            return None
        try:
            return find_geometries(instruments, segmentation.mask, segmentation.roi)
        except Exception as error:  # one image must never end the stream
            text = f'no keypoints for an image: {describe(error)} (reported once)'
            self._node.get_logger().error(text, once=True)
            return None

    def wants_confidence(self) -> bool:
        """Return whether the topic with the confidence of each pixel has a subscriber."""
        return self._has_subscriber('confidence')

    def _send(self, topic: str, message: Any) -> None:
        self._results[topic].publish(to_cdr(message))

    def _has_subscriber(self, topic: str) -> bool:
        publisher = self._results.get(topic)
        return publisher is not None and publisher.get_subscription_count() > 0
