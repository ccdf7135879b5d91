# SPDX-License-Identifier: Apache-2.0
"""With `roi_mode: auto`, the borders of each camera are found, no decision, and reported."""

import cv2
import numpy as np
import pytest
from bench import image_cdr, make_image
from sensor_msgs.msg import Image

from surgseg_ros.core.segmentation import Roi
from surgseg_ros.core.segmenter import Segmenter

SIZE = (144, 256)
IMAGES = 14
"""Number of images that suffices to find and confirm borders."""
PILLAR = Roi(32, 0, 192, 144)
LETTER = Roi(0, 18, 256, 108)


@pytest.fixture
def start(start_node, model):
    """Start the node with the tiny model and `roi_mode: auto`."""
    patient = {'stale_after_ms': 600_000, 'cpu_threads': 1, 'roi_mode': 'auto'}
    return lambda **more: start_node(**{'model': str(model), **patient, **more})


def lit(seed):
    """Make an image that is bright everywhere."""
    return cv2.resize(make_image(seed, 9, 16) // 2 + 60, SIZE[::-1])


def inside(roi):
    """Return a mask of the pixels in a roi."""
    pixels = np.zeros(SIZE, bool)
    roi.view(pixels)[:] = True
    return pixels


def bordered(seed, roi):
    """Make an image that is black around a roi."""
    return lit(seed) * inside(roi)[..., None]


def pixels_of(message):
    return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width)


def send(bench, camera, mask, image):
    """Send an image, and return its mask."""
    sent_ns = bench.new_stamp_ns()
    camera.publish(image_cdr(image, sent_ns))
    return pixels_of(mask.wait_for_stamp(sent_ns))


def test_borders_are_found_no_decision_and_reported(start, model):
    bench = start().bench
    mask, diagnostics = bench.listen(Image, 'mask'), bench.diagnostics()
    camera = bench.camera()
    bench.connect(camera, mask)
    first, *_, last = [send(bench, camera, mask, bordered(seed, PILLAR)) for seed in range(IMAGES)]
    assert (first != 255).all(), 'one image does not confirm a border'
    segment = Segmenter.load(model, 'cpu').segment
    expected = segment(bordered(IMAGES - 1, PILLAR), roi=PILLAR).mask
    np.testing.assert_array_equal(last, expected)
    assert (last[~inside(PILLAR)] == 255).all()

    reported = {'roi_x_px': '32', 'roi_y_px': '0', 'roi_width_px': '192', 'roi_height_px': '144'}
    assert diagnostics.wait(lambda part: reported.items() <= part.numbers.items())


def test_content_outside_the_borders_is_segmented_in_the_same_image(start):
    bench = start().bench
    mask, diagnostics = bench.listen(Image, 'mask'), bench.diagnostics()
    camera = bench.camera()
    bench.connect(camera, mask)
    for seed in range(IMAGES):
        last = send(bench, camera, mask, bordered(seed, PILLAR))
    assert (last == 255).any()
    assert (send(bench, camera, mask, lit(IMAGES)) != 255).all()
    since = len(diagnostics.messages)
    assert diagnostics.wait(lambda part: 'roi_x_px' not in part.numbers, since=since)


def test_each_camera_has_its_own_borders(start):
    rois = {'left': PILLAR, 'right': LETTER}
    bench = start(image_topics=['one', 'two'], camera_names=list(rois)).bench
    masks = {name: bench.listen(Image, f'{name}/mask') for name in rois}
    cameras = {'left': bench.camera('one'), 'right': bench.camera('two')}
    for name, camera in cameras.items():
        bench.connect(camera, masks[name])
    for seed in range(IMAGES):
        for name, roi in rois.items():
            last = send(bench, cameras[name], masks[name], bordered(seed, roi))
            if seed == IMAGES - 1:
                np.testing.assert_array_equal(last == 255, ~inside(roi))


def test_without_roi_mode_auto_black_borders_are_segmented(start):
    bench = start(roi_mode='fixed').bench
    mask = bench.listen(Image, 'mask')
    camera = bench.camera()
    bench.connect(camera, mask)
    for seed in range(IMAGES):
        last = send(bench, camera, mask, bordered(seed, PILLAR))
    assert (last != 255).all()
