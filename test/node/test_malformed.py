# SPDX-License-Identifier: Apache-2.0
"""Malformed messages do not stop the node, and the next good frame gets its mask."""

import random
import struct

import numpy as np
import pytest
from bench import FRAME_ID, image_cdr, make_image, until
from sensor_msgs.msg import Image

from surgseg_ros.core.segmenter import Segmenter
from surgseg_ros.messages.images import image_to_msg
from surgseg_ros.messages.serialization import header, to_cdr

NUMBER = 1000
LARGEST = 2**32 - 1


def _changed(rng, **values):
    message = image_to_msg(make_image(), header(rng.randrange(2**60), FRAME_ID))
    for name, value in values.items():
        setattr(message, name, value)
    return to_cdr(message)


def _data(rng, size):
    return np.frombuffer(rng.randbytes(size), np.uint8)


def _not_utf8(rng):
    junk = bytes(rng.randrange(128, 256) for _ in FRAME_ID)
    return _changed(rng).replace(FRAME_ID.encode(), junk)


def _false_length(rng):
    """Change the length of one of the two strings, or of the data."""
    cdr = bytearray(_changed(rng))
    offset = rng.choice([12, 44, 60])
    cdr[offset : offset + 4] = struct.pack('<I', rng.choice([LARGEST, 2**31, 2**20]))
    return bytes(cdr)


def _odd_yuv(rng):
    """Make it large enough that writing past its end would do harm."""
    size = {'height': 361, 'width': 641, 'step': 1282, 'data': np.zeros(361 * 1282, np.uint8)}
    return _changed(rng, encoding=rng.choice(['yuv422', 'yuyv', 'NV12']), **size)


KINDS = (
    lambda rng: _changed(rng, encoding=rng.choice(['', 'rgb9', 'mono', 'x' * 9000, 'ÿ'])),
    lambda rng: _changed(rng, data=_data(rng, rng.randrange(48 * 80 * 3))),
    lambda rng: _changed(rng, height=rng.choice([0, 49, 10**5, LARGEST])),
    lambda rng: _changed(rng, width=rng.choice([0, 81, 10**5, LARGEST])),
    lambda rng: _changed(rng, step=rng.choice([0, 1, 239, 241, LARGEST])),
    lambda rng: _changed(rng, height=LARGEST, width=LARGEST, step=LARGEST),
    lambda rng: _changed(rng, encoding=rng.choice(['bayer_rggb16', 'yuv422']), width=0),
    _odd_yuv,
    lambda rng: _changed(rng, encoding='bayer_rggb8', height=rng.choice([1, 2])),
    lambda rng: _changed(rng, encoding=rng.choice(['nv12', 'nv24', 'i420']), step=80),
    lambda rng: _changed(rng)[: rng.randrange(8, 11_000)],
    lambda rng: b'\0\1\0\0' + rng.randbytes(rng.randrange(4, 4000)),
    lambda rng: bytes([0, rng.choice([0, 2, 3, 9, 255])]) + _changed(rng)[2:],
    _not_utf8,
    _false_length,
)


@pytest.fixture(scope='module')
def node(run_node, model):
    return run_node(model=model, stale_after_ms=600_000, cpu_threads=1)


def test_a_thousand_malformed_messages(bench, node, model):
    mask, diagnostics = bench.listen(Image, 'mask'), bench.diagnostics()
    camera = bench.camera()
    bench.connect(camera, mask)
    rng = random.Random(20_170_901)
    sent = 0

    def rejected():
        """Send again while some messages were dropped unread for newer ones."""
        nonlocal sent
        for _ in range(250):
            camera.publish(KINDS[sent % len(KINDS)](rng))
            bench.state()  # a response takes about as long as an image
            sent += 1
        heard = len(diagnostics.messages)
        part = diagnostics.wait(since=heard)
        assert node.is_alive()
        return int(part.numbers['rejected'])

    until(lambda: rejected() >= NUMBER, f'{NUMBER} rejected messages')
    good_ns = 7 * 10**9
    camera.publish(image_cdr(make_image(5), good_ns))
    message = mask.wait_for_stamp(good_ns)
    expected = Segmenter.load(model, 'cpu').segment(make_image(5)).mask
    assert bytes(message.data) == expected.tobytes()
    log = node.log()
    assert 'Traceback' not in log
    for text in (
        'is not known: publish',
        'less than a row',
        'is not within',
        'is not UTF-8',
        ', or rgb8',
    ):
        assert text in log
    assert len(log.splitlines()) < 40, 'each cause is reported once'
