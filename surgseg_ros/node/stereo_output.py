# SPDX-License-Identifier: Apache-2.0
"""The topic `detections_3d`: instruments in 3-D, from the results of two cameras."""

import threading
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.lifecycle import LifecycleNodeMixin
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo
from vision_msgs.msg import Detection3DArray

from surgseg_ros.core.detections import Instrument
from surgseg_ros.core.errors import describe
from surgseg_ros.core.labels import NO_DECISION
from surgseg_ros.core.segmentation import Segmentation
from surgseg_ros.core.stereo import CameraResult, locate_instruments
from surgseg_ros.core.stereo_calibration import StereoCalibration, StereoError
from surgseg_ros.messages.serialization import (
    CAMERA_INFO,
    camera_info_from_msg,
    detections_3d_to_msg,
    from_cdr,
    stamp_ns,
    to_cdr,
)
from surgseg_ros.node.outputs import OUTPUT_POLICIES

DETECTIONS_3D_TOPIC: Final = 'detections_3d'

_INFO_BYTES: Final = 10_000
"""Maximum size of a camera_info; larger messages are ignored."""

_MAX_REPORTED: Final = 20


def camera_info_topics(images: Sequence[str], views: Sequence[str] = ()) -> tuple[str, ...]:
    """
    Return the topics of the cameras' calibrations, named as in image_transport.

    :param images: the full names of the image topics.
    :param views: the names of the cameras, if the images of a single topic have the views of two.
    :return: `camera_info` beside each topic; for two views, `VIEW/camera_info` beside the topic.
    """
    bases = [image.removesuffix('/compressed').rpartition('/')[0] for image in images]
    if views:
        return tuple(f'{bases[0]}/{view}/camera_info' for view in views)
    return tuple(f'{base}/camera_info' for base in bases)


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
        self._reported: set[str] = set()
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
        if reason not in self._reported and len(self._reported) < _MAX_REPORTED:
            self._reported.add(reason)
            self._node.get_logger().warning(f'nothing on detections_3d: {reason} (reported once)')
