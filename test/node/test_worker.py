# SPDX-License-Identifier: Apache-2.0
"""A result belongs to a generation, and a message is read or refused with a reason."""

import threading

import numpy as np
import pytest
from bench import FRAME_ID, image_cdr, picture

from surgseg_ros.messages.images import IMAGE, ImageError
from surgseg_ros.node.worker import Generation, read_image


def test_a_result_of_an_older_generation_is_told():
    generation = Generation()
    first = generation.advance()
    with generation.held(first) as current:
        assert current
    generation.advance()
    with generation.held(first) as current:
        assert not current


def test_a_generation_does_not_end_while_it_is_held():
    """Nothing is published once a deactivation has begun."""
    generation = Generation()
    number = generation.advance()
    ended = threading.Event()

    def end():
        generation.advance()
        ended.set()

    thread = threading.Thread(target=end)
    with generation.held(number):
        thread.start()
        assert not ended.is_set()
        assert generation.number == number
    thread.join()
    assert generation.number == number + 1


def test_an_image_is_read_without_a_copy():
    cdr = image_cdr(picture(), 5)
    message = read_image(cdr, IMAGE)
    assert message.header.frame_id == FRAME_ID
    assert np.shares_memory(message.data, np.frombuffer(cdr, np.uint8))


@pytest.mark.parametrize(
    ('spoil', 'said', 'cause'),
    [
        (lambda cdr: cdr[:50], 'can not be read as sensor_msgs/msg/Image', 'cdr'),
        (lambda cdr: b'', '0 bytes can not be read', 'cdr'),
        (lambda cdr: cdr.replace(b'endo', b'\xff\xfe\xfd\xfc'), 'is not UTF-8', 'text'),
    ],
)
def test_what_is_no_image_is_refused(spoil, said, cause):
    with pytest.raises(ImageError, match=said) as raised:
        read_image(spoil(image_cdr(picture(), 5)), IMAGE)
    assert raised.value.cause == cause
