# SPDX-License-Identifier: Apache-2.0
"""A serialized message is read or rejected with a reason; values of masks are unchanged."""

import cv2
import numpy as np
import pytest

from surgseg_ros.messages.encodings import ImageError
from surgseg_ros.messages.images import image_to_msg, mask_from_msg, read_image, read_stamp
from surgseg_ros.messages.serialization import (
    COMPRESSED_IMAGE,
    IMAGE,
    TYPES,
    header,
    set_stamp,
    to_cdr,
)

MASK = np.arange(48, dtype=np.uint8).reshape(6, 8)
FRAME_ID = '/endoscope left'


def image_cdr():
    return to_cdr(image_to_msg(MASK, header(5 * 10**9 + 6, FRAME_ID)))


def compressed(suffix, pixels, options=()):
    data = cv2.imencode(suffix, pixels, options)[1].reshape(-1)
    return TYPES.types[COMPRESSED_IMAGE](header=header(1), format=suffix[1:], data=data)


def test_an_image_is_read_without_a_copy():
    cdr = image_cdr()
    message = read_image(cdr, IMAGE)
    assert message.header.frame_id == FRAME_ID
    assert np.shares_memory(message.data, np.frombuffer(cdr, np.uint8))


@pytest.mark.parametrize(
    ('spoil', 'expected', 'cause'),
    [
        (lambda cdr: cdr[:50], 'cannot be read as sensor_msgs/msg/Image', 'cdr'),
        (lambda cdr: b'', '0 bytes cannot be read', 'cdr'),
        (lambda cdr: cdr.replace(b'endo', b'\xff\xfe\xfd\xfc'), 'is not UTF-8', 'text'),
    ],
)
def test_rejects_data_that_are_not_an_image(spoil, expected, cause):
    with pytest.raises(ImageError, match=expected) as raised:
        read_image(spoil(image_cdr()), IMAGE)
    assert raised.value.cause == cause


def test_a_stamp_is_read_in_either_byte_order():
    message = image_to_msg(MASK, header(5 * 10**9 + 6))
    for little_endian in (True, False):
        cdr = bytes(TYPES.serialize_cdr(message, IMAGE, little_endian=little_endian))
        assert read_stamp(cdr) == 5_000_000_006
    assert read_stamp(cdr[:11]) is None


@pytest.mark.parametrize('stamp_ns', [1, 1_700_000_000_123_456_789])
def test_setting_a_stamp_changes_nothing_else(stamp_ns):
    cdr = set_stamp(image_cdr(), stamp_ns)
    assert read_stamp(cdr) == stamp_ns
    message = read_image(cdr, IMAGE)
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == divmod(stamp_ns, 10**9)
    assert message.header.frame_id == FRAME_ID
    assert np.array_equal(mask_from_msg(message), MASK)


def test_masks_keep_their_values():
    assert np.array_equal(mask_from_msg(read_image(image_cdr(), IMAGE)), MASK)
    assert np.array_equal(mask_from_msg(compressed('.png', MASK)), MASK)


@pytest.mark.parametrize(
    ('message', 'expected'),
    [
        (image_to_msg(np.zeros((4, 4, 3), np.uint8), header(1)), "'rgb8' is not that of a mask"),
        (compressed('.jpg', MASK), 'JPEG data, which change the classes'),
        (compressed('.png', np.zeros((4, 4, 3), np.uint8)), 'not a mask'),
        (compressed('.png', np.zeros((4, 4), np.uint16)), '16-bit grey PNG'),
    ],
)
def test_rejects_data_that_are_not_a_mask(message, expected):
    with pytest.raises(ImageError, match=expected):
        mask_from_msg(message)


@pytest.mark.parametrize('position', [0.3, 0.6, 0.9])
def test_rejects_a_damaged_mask(position):
    noise = np.random.default_rng(0).integers(0, 10, (64, 64), np.uint8)
    message = compressed('.png', noise)
    message.data = message.data.copy()
    message.data[int(position * len(message.data))] ^= 0x55
    with pytest.raises(ImageError, match='is cut off or damaged') as raised:
        mask_from_msg(message)
    assert raised.value.cause == 'mask'
