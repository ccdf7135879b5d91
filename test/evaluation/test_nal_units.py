# SPDX-License-Identifier: Apache-2.0
"""NAL units: zeros that no encoder writes are found, and what encoders write is let pass."""

import av
import pytest
from made_videos import write_video

from surgseg_ros.evaluation.nal_units import are_whole, length_bytes


@pytest.mark.parametrize('name', ['x.mp4', 'x.ts', 'x.avi', 'x.mkv'])
def test_what_an_encoder_writes_is_whole_and_zeros_in_it_are_found(tmp_path, name):
    path = write_video(tmp_path / name, 12)
    with av.open(str(path)) as file:
        size = length_bytes('h264', file.streams.video[0].codec_context.extradata)
        coded = [bytes(packet) for packet in file.demux(video=0) if packet.size]
    assert size == (4 if name in ('x.mp4', 'x.mkv') else 0)
    for data in coded:
        assert are_whole(data, size)
        middle = len(data) // 2
        assert not are_whole(data[: middle - 4] + bytes(7) + b'\7' + data[middle + 4 :], size)


@pytest.mark.parametrize(
    ('data', 'size', 'whole'),
    [
        (b'\0\0\0\3abc', 4, True),
        (b'\0\0\0\4abc', 4, False),
        (b'\0\3abc\0', 2, False),
        (b'\4ab\0\0', 1, True),
        (b'\5ab\0\0\1', 1, False),
        (b'\6ab\0\0\0\0', 1, False),
        (b'\0\0\0\1ab\0\0\1cd', 0, True),
        (b'\0\0\0\1ab\0\0\0\0', 0, True),
        (b'\0\0\0\1ab\0\0\3\1', 0, True),
        (b'\0\0\0\1ab\0\0\0\2', 0, False),
        (b'\0\0\0\1ab\0\0\2', 0, False),
    ],
)
def test_lengths_and_zeros(data, size, whole):
    assert are_whole(data, size) is whole


def test_other_codecs_have_no_such_units():
    assert length_bytes('mpeg4', b'\1' * 30) is None
    assert length_bytes('h264', None) == 0
