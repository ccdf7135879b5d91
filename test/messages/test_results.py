# SPDX-License-Identifier: Apache-2.0
"""Tests of what results become, field by field."""

import math

import numpy as np
import pytest

from surgseg_ros.core.detections import Instrument, OrientedBox, without_decision
from surgseg_ros.messages.results import (
    detections_to_msg,
    from_cdr,
    header,
    label_info_to_msg,
    stamp_ns,
    to_cdr,
)

HEADER = header(12 * 10**9 + 34, 'endoscope')


def test_a_header_keeps_its_nanoseconds() -> None:
    assert (HEADER.stamp.sec, HEADER.stamp.nanosec, HEADER.frame_id) == (12, 34, 'endoscope')
    assert stamp_ns(HEADER) == 12_000_000_034


def test_every_field_of_a_detection_is_where_it_belongs() -> None:
    box = OrientedBox(1.0, 2.0, 30.0, 4.0, math.pi / 3)
    sent = detections_to_msg(HEADER, [Instrument(10, 0.75, box, 99)])

    message = from_cdr(to_cdr(sent), 'vision_msgs/msg/Detection2DArray')

    assert message.header == HEADER
    (detection,) = message.detections
    assert detection.header == HEADER
    assert detection.id == ''
    center = detection.bbox.center
    assert (center.position.x, center.position.y, center.theta) == (1.0, 2.0, math.pi / 3)
    assert (detection.bbox.size_x, detection.bbox.size_y) == (30.0, 4.0)
    (result,) = detection.results
    assert (result.hypothesis.class_id, result.hypothesis.score) == ('10', 0.75)
    assert result.pose.pose.orientation.w == 1.0
    assert not np.any(result.pose.covariance)


def test_no_decision_is_said_of_the_whole_picture() -> None:
    (detection,) = detections_to_msg(HEADER, without_decision((48, 64))).detections

    hypothesis, box = detection.results[0].hypothesis, detection.bbox
    assert (hypothesis.class_id, hypothesis.score) == ('255', 0.0)
    assert (box.center.position.x, box.center.position.y) == (31.5, 23.5)
    assert (box.size_x, box.size_y) == (64.0, 48.0)


@pytest.mark.parametrize(
    ('label', 'name'),
    [(0, 'background'), (4, 'suturing needle'), (10, 'robotic tool'), (255, 'no decision')],
)
def test_label_info_names_every_number(label: int, name: str) -> None:
    message = from_cdr(to_cdr(label_info_to_msg(5)), 'vision_msgs/msg/LabelInfo')

    names = {entry.class_id: entry.class_name for entry in message.class_map}
    assert list(names) == [*range(11), 255]
    assert names[label] == name
    assert stamp_ns(message.header) == 5
    assert message.header.frame_id == ''
