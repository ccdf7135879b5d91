# SPDX-License-Identifier: Apache-2.0
"""Messages of results, field by field."""

import importlib
import math
from typing import Any

import numpy as np
import pytest

from surgseg_ros.core.detections import Instrument, OrientedBox, without_decision
from surgseg_ros.core.keypoints import Geometry, Keypoint, KeypointKind
from surgseg_ros.core.stereo import LocatedInstrument
from surgseg_ros.core.stereo_calibration import CameraInfo
from surgseg_ros.messages.images import image_to_msg
from surgseg_ros.messages.serialization import (
    CAMERA_INFO,
    DETECTIONS,
    DETECTIONS_3D,
    IMAGE,
    LABEL_INFO,
    TYPES,
    camera_info_from_msg,
    camera_info_to_msg,
    detections_3d_to_msg,
    detections_to_cdr,
    from_cdr,
    header,
    keypoints_to_cdr,
    label_info_to_msg,
    stamp_ns,
    to_cdr,
)

HEADER = header(12 * 10**9 + 34, 'endoscope')


def test_a_header_keeps_its_nanoseconds() -> None:
    assert (HEADER.stamp.sec, HEADER.stamp.nanosec, HEADER.frame_id) == (12, 34, 'endoscope')
    assert stamp_ns(HEADER) == 12_000_000_034


def test_every_field_of_a_detection_is_set() -> None:
    box = OrientedBox(1.0, 2.0, 30.0, 4.0, math.pi / 3)
    sent = detections_to_cdr(HEADER, [Instrument(10, 0.75, box, 99, track_id=12)])

    message = from_cdr(sent, 'vision_msgs/msg/Detection2DArray')

    assert message.header == HEADER
    (detection,) = message.detections
    assert detection.header == HEADER
    assert detection.id == '12'
    center = detection.bbox.center
    assert (center.position.x, center.position.y, center.theta) == (1.0, 2.0, math.pi / 3)
    assert (detection.bbox.size_x, detection.bbox.size_y) == (30.0, 4.0)
    (result,) = detection.results
    assert (result.hypothesis.class_id, result.hypothesis.score) == ('10', 0.75)
    assert result.pose.pose.orientation.w == 1.0
    assert not np.any(result.pose.covariance)


def test_every_field_of_a_3d_detection_is_set() -> None:
    box = OrientedBox(1.0, 2.0, 30.0, 4.0, 0.0)
    covariance = np.arange(36.0).reshape(6, 6)
    axis = np.array([0.0, 0.6, 0.8])
    located = LocatedInstrument(
        Instrument(10, 0.75, box, 99, track_id=7),
        0.5,
        np.array([0.01, -0.02, 0.1]),
        axis,
        covariance,
    )

    message = from_cdr(to_cdr(detections_3d_to_msg(HEADER, [located])), DETECTIONS_3D)

    assert message.header == HEADER
    (detection,) = message.detections
    assert (detection.header, detection.id) == (HEADER, '7')
    (result,) = detection.results
    assert (result.hypothesis.class_id, result.hypothesis.score) == ('10', 0.5)
    pose = result.pose.pose
    assert (pose.position.x, pose.position.y, pose.position.z) == (0.01, -0.02, 0.1)
    x, y, z, w = (getattr(pose.orientation, name) for name in 'xyzw')
    direction = [1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)]
    np.testing.assert_allclose(direction, axis, atol=1e-12)
    np.testing.assert_array_equal(result.pose.covariance, np.arange(36.0))
    assert detection.bbox.center == pose
    size = detection.bbox.size
    assert (size.x, size.y, size.z) == (0.0, 0.0, 0.0)


def test_a_calibration_is_read_back() -> None:
    p = np.arange(12.0).reshape(3, 4)
    info = CameraInfo((1080, 1920), 'plumb_bob', np.arange(5.0), p[:, :3], p[:, 1:], p)
    message = from_cdr(to_cdr(camera_info_to_msg(HEADER, info)), CAMERA_INFO)
    assert message.header == HEADER
    found = camera_info_from_msg(message)
    assert (found.size, found.model, found.is_part) == ((1080, 1920), 'plumb_bob', False)
    for name in 'dkrp':
        np.testing.assert_array_equal(getattr(found, name), getattr(info, name))


@pytest.mark.parametrize(
    ('binning', 'roi', 'is_part'),
    [
        ((0, 0), (0, 0, 0, 0), False),
        ((1, 1), (0, 0, 1080, 1920), False),
        ((2, 2), (0, 0, 0, 0), True),
        ((0, 0), (320, 28, 1024, 1280), True),
    ],
)
def test_binning_and_roi_of_a_calibration_are_detected(
    binning: tuple[int, int], roi: tuple[int, int, int, int], is_part: bool
) -> None:
    info = CameraInfo((1080, 1920), '', np.zeros(0), np.eye(3), np.eye(3), np.zeros((3, 4)))
    message = camera_info_to_msg(HEADER, info)
    message.binning_x, message.binning_y = binning
    message.roi = type(message.roi)(*roi, False)
    assert camera_info_from_msg(message).is_part == is_part


def test_no_decision_is_a_detection_of_the_whole_image() -> None:
    sent = detections_to_cdr(HEADER, without_decision((48, 64)))
    (detection,) = from_cdr(sent, DETECTIONS).detections
    assert detection.id == ''

    hypothesis, box = detection.results[0].hypothesis, detection.bbox
    assert (hypothesis.class_id, hypothesis.score) == ('255', 0.0)
    assert (box.center.position.x, box.center.position.y) == (31.5, 23.5)
    assert (box.size_x, box.size_y) == (64.0, 48.0)


def test_every_field_of_a_keypoint_is_set() -> None:
    tip = Keypoint(KeypointKind.TIP, 3.0, 4.0, 0.5, 20.0)
    entry = tip._replace(kind=KeypointKind.SHAFT_ENTRY, is_hidden=True, is_beyond=True)
    box = OrientedBox(1.0, 2.0, 30.0, 4.0, 0.0)
    tools = [Instrument(10, 0.75, box, 99, track_id=number) for number in (3, 12)]
    sent = keypoints_to_cdr(HEADER, tools, [Geometry(), Geometry((tip, entry))], (48, 64))

    first, second = from_cdr(sent, 'vision_msgs/msg/Detection2DArray').detections

    assert (first.header, first.id, second.id) == (HEADER, '12', '12')
    center = first.bbox.center
    assert (center.position.x, center.position.y, center.theta) == (3.0, 4.0, 0.5)
    assert (first.bbox.size_x, first.bbox.size_y) == (40.0, 40.0)
    results = [
        [(r.hypothesis.class_id, r.hypothesis.score) for r in p.results] for p in (first, second)
    ]
    assert results == [[('20', 0.5)], [('25', 0.0), ('60', 1.0), ('61', 1.0)]]


def _results(point: Any) -> list[tuple[str, float]]:
    return [(r.hypothesis.class_id, r.hypothesis.score) for r in point.results]


def test_keypoints_of_no_decision_equal_the_detections() -> None:
    undecided = detections_to_cdr(HEADER, without_decision((48, 64)))
    assert keypoints_to_cdr(HEADER, [], None, (48, 64)) == undecided
    assert from_cdr(keypoints_to_cdr(HEADER, [], [], (48, 64)), DETECTIONS).detections == []


@pytest.mark.parametrize('frame_id', ['', 'a', 'ab', 'abc', 'schräg'])
def test_boxes_are_serialized_as_by_rosbags(frame_id: str) -> None:
    """Ids of all lengths, since numbers are aligned after them."""
    head = header(2**60 + 5, frame_id)
    box = OrientedBox(1.5, -2.25, 30.0, 4.0, -0.1)
    found = [
        Instrument(label, 1 / 3, box, 99, track_id=number)
        for number in (0, 7, 12, 123, 1234, 12345)
        for label in (4, 10, 255)
    ]
    point = Keypoint(KeypointKind.TIP, 3.1, 4.1, 0.5, 20.1)
    points = [point._replace(is_hidden=n > 1, is_beyond=n % 2 == 1) for n in range(4)]
    geometries = [Geometry(tuple(points))] * len(found)
    for count in (0, 1, len(found)):
        for cdr in (
            detections_to_cdr(head, found[:count]),
            keypoints_to_cdr(head, found[:count], geometries[:count], (48, 64)),
        ):
            message = from_cdr(cdr, DETECTIONS)
            assert message.header == head
            assert bytes(TYPES.serialize_cdr(message, DETECTIONS)) == cdr


@pytest.mark.parametrize(
    ('label', 'name'),
    [(0, 'background'), (4, 'suturing needle'), (10, 'robotic tool'), (255, 'no decision')],
)
def test_label_info_names_every_class_id(label: int, name: str) -> None:
    message = from_cdr(to_cdr(label_info_to_msg(5)), 'vision_msgs/msg/LabelInfo')

    names = {entry.class_id: entry.class_name for entry in message.class_map}
    assert list(names) == [*range(11), 255, *range(20, 37), 60, 61]
    assert names[label] == name
    assert stamp_ns(message.header) == 5
    assert message.header.frame_id == ''


@pytest.mark.parametrize('time_ns', [0, 1, 999_999_999, 10**9, 2**60, -1, -(10**9)])
def test_a_stamp_is_read_back(time_ns: int) -> None:
    made = header(time_ns)
    assert stamp_ns(made) == time_ns
    assert 0 <= made.stamp.nanosec < 10**9


@pytest.mark.parametrize('frame_id', ['', '/left', 'Endoskop, schräg', 'a' * 3000])
def test_a_header_is_unchanged_by_cdr(frame_id: str) -> None:
    mask = image_to_msg(np.zeros((3, 5), np.uint8), header(2**60, frame_id))
    assert from_cdr(to_cdr(mask), IMAGE).header == mask.header


@pytest.mark.parametrize('frame_id', ['', 'a', 'ab', 'abc', 'abcd'])
@pytest.mark.parametrize('shape', [(1, 1), (3, 5), (2, 7, 3)])
def test_an_image_is_serialized_as_by_rosbags(frame_id: str, shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    message = image_to_msg(pixels, header(5, frame_id))
    expected = bytes(TYPES.serialize_cdr(message, IMAGE))
    found = to_cdr(message)
    assert isinstance(found, bytes)
    assert found == expected
    assert to_cdr(from_cdr(found, IMAGE)) == expected  # its data is a view, not an array


@pytest.mark.parametrize(
    ('type_name', 'sent'),
    [
        (DETECTIONS, detections_to_cdr(HEADER, without_decision((48, 64)) * 2)),
        (LABEL_INFO, to_cdr(label_info_to_msg(5))),
        (IMAGE, to_cdr(image_to_msg(np.arange(15, dtype=np.uint8).reshape(3, 5), HEADER))),
    ],
)
def test_ros_reads_the_same_bytes(type_name: str, sent: bytes) -> None:
    serialization = pytest.importorskip('rclpy.serialization', reason='there is no ROS 2 here')
    package, _, name = type_name.split('/')
    ros_type = getattr(importlib.import_module(f'{package}.msg'), name)
    read = serialization.deserialize_message(sent, ros_type)
    again = from_cdr(serialization.serialize_message(read), type_name)
    assert to_cdr(again) == sent
