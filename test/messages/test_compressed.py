# SPDX-License-Identifier: Apache-2.0
"""Images are compressed as JPEG, and masks as lossless PNG."""

import cv2
import numpy as np
import pytest

from surgseg_ros.messages.images import image_to_jpeg, mask_to_png, rgb_from_msg
from surgseg_ros.messages.serialization import from_cdr, header, stamp_ns, to_cdr

RAMP = np.linspace(0, 255, 40, dtype=np.uint8)
IMAGE = np.stack(np.broadcast_arrays(RAMP[:, None], RAMP[::-1][None], np.uint8(90)), axis=2)
MASK = np.random.default_rng(0).integers(0, 256, (30, 40), np.uint8)


def test_an_image_keeps_its_colors_and_header():
    message = from_cdr(to_cdr(image_to_jpeg(IMAGE, header(7, 'left'))),
                       'sensor_msgs/msg/CompressedImage')  # fmt: skip
    assert (stamp_ns(message.header), message.header.frame_id) == (7, 'left')
    assert message.format == 'rgb8; jpeg compressed bgr8'
    assert np.abs(rgb_from_msg(message).astype(int) - IMAGE).mean() < 2


def test_higher_quality_needs_more_bytes():
    sizes = [len(image_to_jpeg(IMAGE, header(0), quality).data) for quality in (1, 50, 100)]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize('mask', [MASK, MASK[::2, 5:-5], np.asfortranarray(MASK)])
def test_masks_are_lossless(mask):
    message = mask_to_png(mask, header(0))
    assert message.format == 'mono8; png compressed '
    assert np.array_equal(cv2.imdecode(message.data, cv2.IMREAD_UNCHANGED), mask)


@pytest.mark.parametrize('quality', [0, 101, -5])
def test_error_names_a_quality_out_of_range(quality):
    with pytest.raises(ValueError, match=f'quality {quality} '):
        image_to_jpeg(IMAGE, header(0), quality)


@pytest.mark.parametrize(
    ('make', 'array'),
    [
        (image_to_jpeg, MASK),
        (image_to_jpeg, IMAGE.astype(np.float32)),
        (image_to_jpeg, IMAGE[..., :2]),
        (mask_to_png, IMAGE),
        (mask_to_png, MASK.astype(np.int32)),
    ],
)
def test_error_names_an_invalid_array(make, array):
    with pytest.raises(ValueError, match=rf'{array.dtype} array of shape .* is not a valid '):
        make(array, header(0))
