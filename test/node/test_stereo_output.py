# SPDX-License-Identifier: Apache-2.0
"""The topic `detections_3d`: when it is published, its contents, and why it is not published."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from bench import FRAME_ID, image_cdr, until
from nodes import segmenter_attributes
from sensor_msgs.msg import CameraInfo as CameraInfoMsg
from vision_msgs.msg import Detection3DArray

from surgseg_ros.core.detections import find_instruments, without_decision
from surgseg_ros.core.segmentation import GridConfidence, Roi, Segmentation
from surgseg_ros.core.segmenter import Segmenter
from surgseg_ros.messages.serialization import camera_info_to_msg, from_cdr, header, to_cdr
from surgseg_ros.node.outputs import StereoOutput
from surgseg_ros.node.parameters import camera_info_topics
from surgseg_ros.synthetic import Scene
from surgseg_ros.synthetic.camera import camera_infos
from surgseg_ros.synthetic.drawing import View

SIZE = (270, 480)
INFOS = camera_infos(View(*SIZE))
TOPICS = ('/left/camera_info', '/right/camera_info')


@pytest.fixture(scope='module')
def frames():
    """Return both views of a synthetic scene."""
    scene = Scene(5, SIZE, stereo=True)
    return scene.frame(3), scene.frame(3, 1)


@pytest.fixture(scope='module')
def masks(frames):
    return [frame.mask for frame in frames]


def found_in(mask):
    return find_instruments(Segmentation(mask, np.full(mask.shape, 204, np.uint8)))


class FakeNode:
    """Records what is published and logged, and delivers camera_info."""

    def __init__(self, subscribers=1):
        self.published, self.logs, self.callbacks, self.alive = [], [], {}, set()
        self.subscribers = subscribers

    def create_lifecycle_publisher(self, message_type, topic, qos, **options):
        assert (message_type, topic) == (Detection3DArray, 'detections_3d')
        self.alive.add(topic)
        return SimpleNamespace(
            publish=self.published.append, get_subscription_count=lambda: self.subscribers
        )

    def create_subscription(self, message_type, topic, callback, qos, **options):
        assert message_type is CameraInfoMsg
        assert options['raw']
        self.callbacks[topic] = callback
        self.alive.add(topic)
        return topic

    def destroy_subscription(self, topic):
        self.alive.remove(topic)

    def destroy_lifecycle_publisher(self, publisher):
        self.alive.remove('detections_3d')

    def get_logger(self):
        return SimpleNamespace(warning=self.logs.append)

    def deliver(self, infos=INFOS):
        for topic, info in zip(TOPICS, infos):
            self.callbacks[topic](to_cdr(camera_info_to_msg(header(0), info)))


def make(subscribers=1, tolerance_ms=5, infos=INFOS, topics=TOPICS):
    node = FakeNode(subscribers)
    output = StereoOutput(node, topics, True, tolerance_ms)
    output.create()
    if infos:
        node.deliver(infos)
    return node, output


def give(output, masks, stamps_ns=(10**9, 10**9), frame_ids=('left', 'right')):
    for camera, mask in enumerate(masks):
        head = header(stamps_ns[camera], frame_ids[camera])
        output.receive(camera, head, Segmentation(mask), found_in(mask))


def test_instruments_seen_by_both_cameras_are_published_with_the_first_header(masks):
    node, output = make()
    give(output, masks)
    (cdr,) = node.published
    message = from_cdr(cdr, 'vision_msgs/msg/Detection3DArray')
    assert message.header == header(10**9, 'left')
    assert message.detections
    assert output.state == 'published'
    assert node.logs == []


def test_stamps_may_differ_by_the_tolerance_in_any_order(masks):
    node, output = make(tolerance_ms=5)
    give(output, masks, (10**9, 10**9 + 5_000_000))
    assert len(node.published) == 1
    give(output, masks, (2 * 10**9, 2 * 10**9 + 5_000_001))
    assert len(node.published) == 1
    for camera in (1, 0):
        output.receive(
            camera, header(3 * 10**9), Segmentation(masks[camera]), found_in(masks[camera])
        )
    assert len(node.published) == 2


def test_images_without_stamps_are_a_pair_only_if_they_are_halves_of_one_image(masks):
    node, output = make()
    give(output, masks, (0, 0))
    assert not node.published
    output.forget()
    one = header(0, 'ecm')
    for camera, mask in enumerate(masks):
        output.receive(camera, one, Segmentation(mask), found_in(mask))
    assert len(node.published) == 1


def test_a_result_is_used_only_once(masks):
    node, output = make()
    give(output, masks)
    output.receive(0, header(10**9), Segmentation(masks[0]), found_in(masks[0]))
    assert len(node.published) == 1


def test_nothing_is_computed_without_a_subscriber(masks):
    node, output = make(subscribers=0)
    give(output, masks)
    assert (node.published, output.state) == ([], 'no subscriber')


def test_nothing_is_published_unless_both_have_a_decision(masks):
    node, output = make()
    output.receive(0, header(10**9), Segmentation(masks[0]), found_in(masks[0]))
    output.receive(1, header(10**9), Segmentation.undecided(SIZE), without_decision(SIZE))
    assert node.published == []
    assert output.state == 'no decision on an image'


@pytest.mark.parametrize(
    ('infos', 'reason'),
    [
        (None, "no camera_info on '/left/camera_info'"),
        ([dataclasses.replace(info, p=np.zeros((3, 4))) for info in INFOS], 'P is all 0'),
        ((INFOS[0], INFOS[0]), 'there is no baseline'),
        (camera_infos(View(540, 960)), '960x540'),
    ],
)
def test_the_reason_for_publishing_nothing_is_kept_and_logged_once(masks, infos, reason):
    node, output = make(infos=infos)
    for second in (1, 2, 3):
        give(output, masks, (second * 10**9,) * 2)
    assert node.published == []
    assert reason in output.state
    (line,) = node.logs
    assert reason in line
    node.deliver()
    give(output, masks, (9 * 10**9,) * 2)
    assert len(node.published) == 1


def test_rejects_the_same_camera_info_for_both(masks):
    _, output = make(infos=None, topics=('/camera_info', '/camera_info'))
    give(output, masks)
    assert 'camera_info_topics' in output.state


def test_reports_swapped_cameras(masks):
    node, output = make()
    give(output, masks[::-1])
    assert node.published == []
    assert 'swapped' in output.state


@pytest.mark.parametrize('cdr', [b'', b'\0\1\0\0' + b'\xff' * 40, bytes(100_000)])
def test_a_malformed_calibration_is_reported_as_reason(masks, cdr):
    node, output = make()
    node.callbacks[TOPICS[0]](cdr)
    give(output, masks)
    assert node.published == []
    assert output.state != 'published'


def test_publishing_continues_after_an_error(masks, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError('of a test')

    monkeypatch.setattr('surgseg_ros.node.outputs.locate_instruments', fail)
    _, output = make()
    give(output, masks)
    assert 'of a test' in output.state


def test_everything_created_is_destroyed():
    node, output = make()
    assert node.alive == {'detections_3d', *TOPICS}
    output.destroy()
    assert node.alive == set()


@pytest.mark.parametrize(
    ('image', 'info'),
    [
        ('/stereo/left/image_raw', '/stereo/left/camera_info'),
        ('/stereo/left/image_raw/compressed', '/stereo/left/camera_info'),
        ('/image', '/camera_info'),
    ],
)
def test_camera_info_topics_are_in_the_namespaces_of_the_images(image, info):
    assert camera_info_topics([image, '/other/image']) == (info, '/other/camera_info')


def test_camera_info_topics_of_a_stereo_image_have_the_names_of_the_cameras():
    assert camera_info_topics(['/stereo/image_raw'], ['left', 'right']) == (
        '/stereo/left/camera_info',
        '/stereo/right/camera_info',
    )


class TrueMasks:
    """A fake Segmenter: the red channel of an image is the class."""

    def __init__(self):
        vars(self).update(segmenter_attributes('true masks'))

    def segment_all(self, images, rois, **wanted):
        height, width = images[0].shape[:2]
        sure = GridConfidence(np.full((height, width), 255, np.uint8), Roi(0, 0, width, height))
        return [
            Segmentation(np.ascontiguousarray(image[..., 0]), grid_confidence=sure)
            for image in images
        ]


def test_the_node_publishes_what_both_cameras_see(start_node, masks, monkeypatch):
    monkeypatch.setattr(Segmenter, 'load', lambda *arguments, **more: TrueMasks())
    own_node = start_node(
        model='none',
        image_topics=['left/image_raw', 'right/image_raw'],
        camera_names=['left', 'right'],
        stale_after_ms=600_000,
    )
    bench = own_node.bench
    found, diagnostics = bench.listen(Detection3DArray, 'detections_3d'), bench.diagnostics()
    cameras = [bench.camera(f'{name}/image_raw') for name in ('left', 'right')]
    calibrations = [
        bench.node.create_publisher(CameraInfoMsg, f'{name}/camera_info', 1)
        for name in ('left', 'right')
    ]

    def send_until(recorder, wanted):
        """Send pairs until a message arrives, since discovery takes an unknown time."""
        while True:
            sent_ns = bench.new_stamp_ns()
            for camera, mask in zip(cameras, masks):
                camera.publish(image_cdr(np.stack([mask] * 3, -1), sent_ns))
            if heard := recorder.wait(wanted, timeout_s=1.0):
                return heard

    send_until(diagnostics, lambda part: 'no camera_info' in part.numbers['detections_3d'])
    assert not found.messages
    until(lambda: all(x.get_subscription_count() for x in calibrations), 'matched')
    for publisher, info in zip(calibrations, INFOS):
        publisher.publish(to_cdr(camera_info_to_msg(header(0), info)))
    message = send_until(found, lambda message: message.detections)
    assert message.header.frame_id == FRAME_ID
    assert diagnostics.wait(lambda part: part.numbers['detections_3d'] == 'published')
    status = bench.status('right/status')
    assert status.wait(
        lambda m: {v.key: v.value for v in m.values}['detections_3d'] == 'published'
    )
