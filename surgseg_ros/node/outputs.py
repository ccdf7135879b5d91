# SPDX-License-Identifier: Apache-2.0
"""The output topics of a camera, except `status` (see `reporter`), and those of two in 3-D."""

import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.lifecycle import LifecycleNodeMixin
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, Image
from vision_msgs.msg import Detection2DArray, Detection3DArray, LabelInfo

from surgseg_ros.core.detections import Instrument, instance_image, without_decision
from surgseg_ros.core.errors import describe
from surgseg_ros.core.geometry import Distances, find_geometries, min_distances
from surgseg_ros.core.keypoints import Geometry
from surgseg_ros.core.labels import NO_DECISION
from surgseg_ros.core.overlay import draw_overlay
from surgseg_ros.core.segmentation import Segmentation
from surgseg_ros.core.stereo import CameraResult, locate_instruments
from surgseg_ros.core.stereo_calibration import StereoCalibration, StereoError
from surgseg_ros.messages.images import image_to_msg
from surgseg_ros.messages.serialization import (
    CAMERA_INFO,
    camera_info_from_msg,
    detections_3d_to_msg,
    detections_to_cdr,
    from_cdr,
    keypoints_to_cdr,
    label_info_to_msg,
    stamp_ns,
    to_cdr,
)

LATCHED_QOS: Final = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)

DETECTIONS_3D_TOPIC: Final = 'detections_3d'

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
    :param observe: called with header, segmentation and instruments of each image, after
        they were published.
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

    def publish_label_info(self, now_ns: int) -> None:
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
        self._send_image('mask', mask, header)

    def publish_detections(self, header: Any, instruments: Sequence[Instrument]) -> None:
        """
        Publish the instruments in a mask, after it.

        :param header: header of the image, passed on unchanged.
        :param instruments: the instruments.
        """
        self._send('detections', detections_to_cdr(header, instruments))

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
            self._send_image('confidence', segmentation.confidence, header)
        geometries = self._geometries(segmentation, instruments)
        if self._has_subscriber('overlay'):
            drawn = draw_overlay(image, segmentation.mask, instruments, geometries or ())
            self._send_image('overlay', drawn, header)
        if self._has_subscriber('instances'):
            drawn = instance_image(instruments, segmentation.mask)
            self._send_image('instances', drawn, header)
        if self._has_subscriber('keypoints'):
            size = segmentation.mask.shape
            self._send('keypoints', keypoints_to_cdr(header, instruments, geometries, size))
        if raw is not None and self._has_subscriber('raw_mask'):
            self._send_image('raw_mask', raw, header)
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

    def _send_image(self, topic: str, image: NDArray[np.uint8], header: Any) -> None:
        self._send(topic, to_cdr(image_to_msg(image, header)))

    def _send(self, topic: str, cdr: bytes) -> None:
        self._results[topic].publish(cdr)

    def _has_subscriber(self, topic: str) -> bool:
        publisher = self._results.get(topic)
        return publisher is not None and publisher.get_subscription_count() > 0


_INFO_BYTES: Final = 10_000
"""Maximum size of a camera_info; larger messages are ignored."""

_MAX_LOGGED: Final = 20


class _Result(NamedTuple):
    """The last result of a camera."""

    header: Any
    result: CameraResult


class StereoOutput:
    """
    Joins the results of two cameras, and publishes instruments that are visible in both.

    :param node: the node that publishes and subscribes.
    :param info_topics: topics of camera_info, one per camera.
    :param rectified: whether the images are rectified.
    :param tolerance_ms: the largest difference between the stamps of both images.
    """

    def __init__(
        self,
        node: LifecycleNodeMixin,
        info_topics: Sequence[str],
        rectified: bool,
        tolerance_ms: float,
    ) -> None:
        """Store the arguments; nothing is created yet."""
        self._node = node
        self._info_topics = tuple(info_topics)
        self._rectified = rectified
        self._tolerance_ns = tolerance_ms * 1e6
        self._publisher: Publisher | None = None
        self._subscriptions: list[Subscription] = []
        self._lock = threading.Lock()
        self._infos: list[bytes | None] = [None, None]
        self._cameras: list[_Result | None] = [None, None]
        self._logged_reasons: set[str] = set()
        self.state = 'no pair of images yet'
        """`published`, or the reason why nothing is published."""

    def create(self) -> None:
        """Create the publisher, and subscribe to the calibrations."""
        group = MutuallyExclusiveCallbackGroup()
        self._publisher = self._node.create_lifecycle_publisher(
            Detection3DArray,
            DETECTIONS_3D_TOPIC,
            QoSProfile(depth=1),
            callback_group=group,
            qos_overriding_options=QoSOverridingOptions(OUTPUT_POLICIES),
        )
        for camera, topic in enumerate(self._info_topics):
            self._subscriptions.append(self._subscribe(camera, topic, group))

    def _subscribe(self, camera: int, topic: str, group: Any) -> Subscription:
        def store(cdr: bytes) -> None:
            with self._lock:
                self._infos[camera] = cdr if len(cdr) <= _INFO_BYTES else None

        qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)  # fits any publisher
        return self._node.create_subscription(
            CameraInfo, topic, store, qos, callback_group=group, raw=True
        )

    def destroy(self) -> None:
        """Destroy everything that `create` created, and drop the calibrations."""
        while self._subscriptions:
            self._node.destroy_subscription(self._subscriptions.pop())
        if self._publisher is not None:
            self._node.destroy_lifecycle_publisher(self._publisher)
        self._publisher = None
        self._infos = [None, None]
        self.forget()

    def forget(self) -> None:
        """Drop the last results, which must not be joined with later ones."""
        self._cameras = [None, None]

    def receive(
        self,
        camera: int,
        header: Any,
        segmentation: Segmentation,
        instruments: Sequence[Instrument],
    ) -> None:
        """
        Store the result of a camera; publish if that of the other camera is available.

        :param camera: 0 or 1.
        :param header: std_msgs/Header of the image.
        :param segmentation: its result.
        :param instruments: the instruments in it.
        """
        if self._publisher is None or not self._publisher.get_subscription_count():
            self.state = 'no subscriber'
            return self.forget()
        undecided = any(instrument.label == NO_DECISION for instrument in instruments)
        seen = CameraResult(segmentation.mask, instruments, segmentation.roi)
        self._cameras[camera] = None if undecided else _Result(header, seen)
        if undecided:
            self.state = 'no decision on an image'
        first, second = self._cameras
        if first is None or second is None:
            return
        if not self._have_same_time(first.header, second.header):
            return
        self.forget()
        try:
            located = locate_instruments(self._calibration(), first.result, second.result)
            self._publisher.publish(to_cdr(detections_3d_to_msg(first.header, located)))
            self.state = 'published'
        except StereoError as error:
            self._report(str(error))
        except Exception as error:  # one image must never end the stream
            self._report(describe(error))

    def _have_same_time(self, first: Any, second: Any) -> bool:
        """Compare stamps; zero stamps match only for one image with both views."""
        stamps = stamp_ns(first), stamp_ns(second)
        known = first is second or all(stamps)
        return known and abs(stamps[0] - stamps[1]) <= self._tolerance_ns

    def _calibration(self) -> StereoCalibration:
        """Return the calibration from the last camera_info messages."""
        if len(set(self._info_topics)) == 1:
            raise StereoError(
                f'both cameras have the camera_info {self._info_topics[0]!r}: set '
                'camera_info_topics'
            )
        with self._lock:
            infos = tuple(self._infos)
        first, second = infos
        if first is None or second is None:
            missing = self._info_topics[0 if first is None else 1]
            raise StereoError(
                f'no camera_info on {missing!r}: publish it, or set camera_info_topics'
            )
        read = (camera_info_from_msg(from_cdr(cdr, CAMERA_INFO)) for cdr in (first, second))
        return StereoCalibration((next(read), next(read)), self._rectified)

    def _report(self, reason: str) -> None:
        """Log a reason once, and store it for the diagnostics."""
        self.state = reason
        if reason not in self._logged_reasons and len(self._logged_reasons) < _MAX_LOGGED:
            self._logged_reasons.add(reason)
            self._node.get_logger().warning(
                f'detections_3d is not published: {reason} (reported once)'
            )
