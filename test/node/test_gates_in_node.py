# SPDX-License-Identifier: Apache-2.0
"""The node applies its gates and filters its masks; over DDS."""

import numpy as np
import pytest
from bench import image_cdr, stamp_ns, until
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray

from surgseg_ros.synthetic import Scene

BLACK = np.zeros((72, 128, 3), np.uint8)
SCENE = np.ascontiguousarray(Scene(3, (72, 128)).frame(0).image)


@pytest.mark.parametrize(('action', 'values'), [('warn', set()), ('no_decision', {255})])
def test_the_node_takes_the_action_of_a_gate(start_node, model, action, values):
    patience = {'stale_after_ms': 600_000, 'gates.black.action': action}
    bench = start_node(model=str(model), **patience).bench
    masks, status = bench.listen(Image, 'mask'), bench.status()
    found = bench.listen(Detection2DArray, 'detections')
    camera = bench.camera()
    bench.connect(camera, masks)
    status.wait_for_state('valid')
    until(lambda: bench.node.count_publishers('detections') == 1, 'detections are listened to')

    black_ns = bench.new_stamp_ns()
    camera.publish(image_cdr(BLACK, black_ns))

    mask = masks.wait_for_stamp(black_ns)
    assert (set(bytes(mask.data)) == values) == bool(values)
    labels = [d.results[0].hypothesis.class_id for d in found.wait_for_stamp(black_ns).detections]
    assert (labels == ['255']) == bool(values)
    degraded = status.wait_for_reason('degraded', 'the image is black')
    assert degraded.values[3].value == 'gate_black'


def test_the_raw_mask_is_published_if_masks_are_filtered(start_node, model):
    filtered = {'steady_frames': 3, 'stale_after_ms': 600_000}
    bench = start_node(model=str(model), **filtered).bench
    masks, raw = bench.listen(Image, 'mask'), bench.listen(Image, 'raw_mask')
    camera = bench.camera()
    bench.connect(camera, masks)
    sent_ns = bench.new_stamp_ns()
    camera.publish(image_cdr(SCENE, sent_ns))
    assert stamp_ns(raw.wait_for_stamp(sent_ns)) == stamp_ns(masks.wait_for_stamp(sent_ns))
