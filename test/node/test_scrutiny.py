# SPDX-License-Identifier: Apache-2.0
"""What a picture and its mask must stand: gates, steadiness, least confidence."""

import numpy as np
import pytest
from bench import image_cdr, stamp_ns, until
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray

from surgseg_ros.core.gates import GateSetting
from surgseg_ros.core.labels import NEEDLE, NO_DECISION
from surgseg_ros.core.segmentation import Roi, Segmentation
from surgseg_ros.core.stopwatch import Stopwatch
from surgseg_ros.messages.images import IMAGE
from surgseg_ros.messages.results import header
from surgseg_ros.node.health import Health
from surgseg_ros.node.mailbox import Frame
from surgseg_ros.node.picture import Eye, Picture
from surgseg_ros.node.scrutiny import Scrutiny
from surgseg_ros.training.scenes import Scene

MS = 10**6
BLACK = np.zeros((72, 128, 3), np.uint8)
SCENE = np.ascontiguousarray(Scene(3, (72, 128)).frame(0).image)


def seen(image, at_ms, roi=None):
    """Give a picture as the worker does."""
    eye = Eye('', IMAGE, roi, Health(), None)
    frame = Frame(0, b'', at_ms * MS, 0, 1)
    return Picture(frame, eye, header(10**9 + at_ms * MS), image, (), Stopwatch())


def result(value=NEEDLE, sure=255):
    mask = np.full(BLACK.shape[:2], value, np.uint8)
    return Segmentation(mask, np.full_like(mask, sure))


def watch_for_black(action):
    return Scrutiny({'black': GateSetting(action, 0.7)})


def test_a_warning_is_kept_for_a_second():
    scrutiny = watch_for_black('warn')
    told = [
        [doubt.cause for doubt in scrutiny.apply(seen(image, at_ms), result(), 0).doubts]
        for image, at_ms in ((SCENE, 0), (BLACK, 100), (SCENE, 900), (SCENE, 1099), (SCENE, 1100))
    ]
    assert told == [[], ['black'], ['black'], ['black'], []]


def test_a_picture_that_is_refused_is_refused_alone():
    scrutiny = watch_for_black('no_decision')
    (doubt,) = scrutiny.apply(seen(BLACK, 0), result(), 0).doubts
    assert (doubt.decided, doubt.cause) == (False, 'black')
    assert 'the picture is black' in doubt.reason
    assert scrutiny.apply(seen(SCENE, 33), result(), 0).doubts == ()


def test_gates_look_at_the_roi_alone():
    bordered = BLACK.copy()
    roi = Roi(50, 30, 30, 20)
    roi.view(bordered)[:] = roi.view(SCENE)
    scrutiny = watch_for_black('warn')
    assert len(scrutiny.apply(seen(bordered, 0), result(), 0).doubts) == 1
    scrutiny.begin_anew()
    assert scrutiny.apply(seen(bordered, 33, roi), result(), 0).doubts == ()


def test_pixels_that_are_not_sure_are_undecided_and_a_picture_of_them_is_told():
    scrutiny = Scrutiny()
    unsure = result(sure=100)
    unsure.confidence[:, :9] = 200
    some = scrutiny.apply(seen(SCENE, 0), unsure, 0.5)
    assert np.array_equal(some.segmentation.mask == NO_DECISION, unsure.confidence < 127)
    assert some.doubts == ()
    none = scrutiny.apply(seen(SCENE, 33), unsure, 0.9)
    assert (none.segmentation.mask == NO_DECISION).all()
    assert [doubt.reason for doubt in none.doubts] == ['no pixel has a confidence of 0.9']


def test_a_steadied_mask_comes_with_the_raw_one_until_all_begins_anew():
    scrutiny = Scrutiny(steady_frames=3, steady_sure=1.0)
    assert scrutiny.is_steady
    scrutiny.apply(seen(SCENE, 0), result(0), 0)
    kept = scrutiny.apply(seen(SCENE, 33), result(NEEDLE, sure=150), 0)
    assert not kept.segmentation.mask.any()
    assert (kept.raw == NEEDLE).all()
    scrutiny.begin_anew()
    anew = scrutiny.apply(seen(SCENE, 66), result(NEEDLE, sure=150), 0)
    assert (anew.segmentation.mask == NEEDLE).all()


@pytest.mark.parametrize(('action', 'values'), [('warn', set()), ('no_decision', {255})])
def test_the_node_obeys_the_action(start_here, model, action, values):
    patience = {'stale_after_ms': 600_000, 'gates.black.action': action}
    bench = start_here(model=str(model), **patience).bench
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
    assert 'the picture is black' in status.wait_for_state('degraded').values[0].value


def test_the_raw_mask_is_there_where_masks_are_steadied(start_here, model):
    steady = {'steady_frames': 3, 'stale_after_ms': 600_000}
    bench = start_here(model=str(model), **steady).bench
    masks, raw = bench.listen(Image, 'mask'), bench.listen(Image, 'raw_mask')
    camera = bench.camera()
    bench.connect(camera, masks)
    sent_ns = bench.new_stamp_ns()
    camera.publish(image_cdr(SCENE, sent_ns))
    assert stamp_ns(raw.wait_for_stamp(sent_ns)) == stamp_ns(masks.wait_for_stamp(sent_ns))
