# SPDX-License-Identifier: Apache-2.0
"""Transport streams without their beginning are detected wherever the stream shows it."""

from itertools import count

import pytest
from made_videos import GOP, number_of, packets, rewrite, write_video

from surgseg_ros.evaluation.videos import open_video

COUNT = 3 * GOP
TRANSPORT = 188
HEAD = 3 * TRANSPORT
"""The service description and the two tables of streams, which FFmpeg writes first."""
LACKS = 'frame 0 and all after it: the file lacks its beginning, and the rest cannot be numbered'


def numbers(path):
    return {n: number_of(image) for n, image in open_video(path).read(count(), {})}


def assert_no_number(path):
    assert open_video(path).data_errors == (f'{path}: {LACKS}',)
    assert numbers(path) == {}


def start_of(path, packet):
    """Find the transport packet in which a frame begins."""
    return packets(path)[packet][0] // TRANSPORT * TRANSPORT


@pytest.mark.parametrize('sound', [False, True])
@pytest.mark.parametrize(
    ('codec', 'options'),
    [
        ('h264', {}),
        ('h264', {'bf': '0'}),
        ('h264', {'x264-params': 'open-gop=1'}),
        ('mpeg4', {}),
        ('mpeg2video', {'bf': '2'}),
    ],
)
@pytest.mark.parametrize('container', [{}, {'mpegts_m2ts_mode': '1'}])
def test_a_complete_stream_is_accepted(tmp_path, codec, options, container, sound):
    path = tmp_path / 'x.ts'
    write_video(path, COUNT, codec, options=options, container=container, sound=sound)
    assert open_video(path).data_errors == ()
    assert numbers(path) == {n: n for n in range(COUNT)}


@pytest.mark.parametrize('sound', [False, True])
@pytest.mark.parametrize('lost', [1, 2, 3, 5, 8])
def test_a_stream_that_starts_within_a_frame_is_not_numbered(tmp_path, lost, sound):
    path = write_video(tmp_path / 'x.ts', COUNT, sound=sound)
    content = path.read_bytes()
    start = start_of(path, 0) + lost * TRANSPORT
    for head in (b'', content[:HEAD]):
        rewrite(path, head + content[start:])
        assert_no_number(path)


@pytest.mark.parametrize('first', [1, 5, GOP + 1])
@pytest.mark.parametrize('sound', [False, True])
def test_a_stream_that_starts_between_key_frames_is_not_numbered(tmp_path, first, sound):
    path = write_video(tmp_path / 'x.ts', COUNT, sound=sound)
    content = path.read_bytes()
    rewrite(path, content[:HEAD] + content[start_of(path, first) :])
    assert_no_number(path)


def test_a_stream_whose_first_key_frame_is_not_displayed_first_is_not_numbered(tmp_path):
    options = {'x264-params': 'open-gop=1'}
    path = write_video(tmp_path / 'x.ts', COUNT, options=options)
    content = path.read_bytes()
    contents = open_video(path).contents
    key = [n for n, packet in enumerate(contents.packets) if packet.is_key][1]
    assert contents.packets[key + 1].pts < contents.packets[key].pts
    rewrite(path, content[:HEAD] + content[start_of(path, key) :])
    assert_no_number(path)


@pytest.mark.parametrize('container', [{}, {'mpegts_m2ts_mode': '1'}])
def test_a_stream_that_starts_within_a_packet_is_not_numbered(tmp_path, container):
    path = write_video(tmp_path / 'x.ts', COUNT, container=container)
    content = path.read_bytes()
    for lost in (1, 100, TRANSPORT + 100):
        rewrite(path, content[lost:])
        assert_no_number(path)


def test_a_stream_that_starts_with_a_key_frame_lacks_its_table_of_streams(tmp_path):
    path = write_video(tmp_path / 'x.ts', COUNT, options={'bf': '0'})
    content = path.read_bytes()
    start = start_of(path, GOP)
    rewrite(path, content[start:])
    assert_no_number(path)
    rewrite(
        path, content[:HEAD] + content[start:]
    )  # nothing shows that data before it are missing
    assert open_video(path).data_errors == ()
    assert numbers(path) == {n: n + GOP for n in range(2 * GOP)}
