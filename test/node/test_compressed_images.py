# SPDX-License-Identifier: Apache-2.0
"""A damaged JPEG gets no mask, and the mask of one without colors is not valid."""

import cv2
import numpy as np
import pytest
from bench import Bench, make_image, until
from rclpy.qos import ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from surgseg_ros.messages.serialization import TYPES, header, to_cdr

WHOLE = cv2.imencode('.jpg', make_image(0, 240, 320)[..., ::-1])[1].tobytes()
HALF = len(WHOLE) // 2


def send(bench: Bench, camera, data: bytes, text: str = 'rgb8; jpeg compressed bgr8') -> int:
    sent_ns = bench.new_stamp_ns()
    message = TYPES.types['sensor_msgs/msg/CompressedImage'](
        header=header(sent_ns), format=text, data=np.frombuffer(data, np.uint8)
    )
    camera.publish(to_cdr(message))
    return sent_ns


@pytest.fixture
def own_node(start_node, model):
    return start_node(
        model=str(model), image_transport='compressed', stale_after_ms=600_000, cpu_threads=1
    )


@pytest.fixture
def connected(own_node):
    """Return camera, masks and status of the node, after a first mask has arrived."""
    bench = own_node.bench
    masks, status = bench.listen(Image, 'mask'), bench.status()
    camera = bench.camera(message_type=CompressedImage)
    until(lambda: bench.readers() == [ReliabilityPolicy.RELIABLE], 'the node listens')
    while not masks.wait(timeout_s=0.5):
        send(bench, camera, WHOLE)
    status.wait_for_state('valid')
    return camera, masks, status


@pytest.mark.parametrize(
    'damaged',
    [
        WHOLE[:HALF] + WHOLE[HALF + 512 :],
        WHOLE[:HALF] + bytes(1024) + WHOLE[HALF + 1024 :],
        WHOLE[:HALF] + WHOLE[-200:],
        WHOLE[:HALF] + b'\xff\xd9',
    ],
    ids=['packet lost', 'zeros', 'old tail', 'end too soon'],
)
def test_a_damaged_image_gets_no_mask_and_is_reported_and_counted(own_node, connected, damaged):
    camera, masks, status = connected
    heard, rejected = len(status.messages), own_node.bench.diagnostics()
    damaged_ns = send(own_node.bench, camera, damaged)
    reason, *_, codes = status.wait_for_reason('degraded', 'image dropped: ', since=heard).values
    assert (codes.key, codes.value) == ('reason_codes', 'image_rejected')
    assert 'bytes of a JPEG are damaged' in reason.value
    assert rejected.wait(lambda part: part.numbers['rejected'] == '1')
    assert 'are damaged' in own_node.logs.wait_for_text('image dropped')
    masks.wait_for_stamp(send(own_node.bench, camera, WHOLE))
    stamps = [m.header.stamp.sec for m in masks.messages]
    assert damaged_ns // 10**9 not in stamps
    assert status.wait_for_state('valid', since=heard)


@pytest.mark.parametrize(
    'text', ['bayer_rggb8; jpeg compressed mono8', 'yuv422_yuy2; jpeg compressed mono8']
)
def test_an_image_that_lost_its_colors_is_degraded_and_reported_once(own_node, connected, text):
    camera, masks, status = connected
    grey = cv2.imencode('.jpg', cv2.cvtColor(make_image(0, 240, 320), cv2.COLOR_RGB2GRAY))[1]
    heard = len(status.messages)
    for _ in range(3):
        masks.wait_for_stamp(send(own_node.bench, camera, grey.tobytes(), text))
    status.wait_for_reason('degraded', f'all colour is lost: format {text!r}', since=heard)
    output = [line for line in own_node.logs.messages if 'all colour is lost' in line]
    assert len(output) == 1
    masks.wait_for_stamp(send(own_node.bench, camera, WHOLE))
    assert status.wait_for_state('valid', since=heard)
