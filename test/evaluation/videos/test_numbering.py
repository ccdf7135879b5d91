# SPDX-License-Identifier: Apache-2.0
"""Frames keep their numbers whatever a video file has lost, and lost frames are reported."""

import re
from fractions import Fraction
from itertools import count

import numpy as np
import pytest
from made_videos import (
    GOP,
    number_of,
    overwrite,
    packets,
    rewrite,
    with_empty_chunks,
    without_index,
    write_video,
)

from surgseg_ros.evaluation.layout import FrameError
from surgseg_ros.evaluation.videos import open_video

COUNT = 36
VARYING = [*range(15), 15, 20, 25]
"""Times of a video with dropped frames, like those of a screen recorder."""


def read(path, frames=None):
    """Return the numbers in the images, and the damaged frames."""
    data_errors = {}
    read_frames = open_video(path).read(count() if frames is None else frames, data_errors)
    return {frame: number_of(image) for frame, image in read_frames}, data_errors


def assert_true(path):
    """Check that every image has its number, and all others are reported; return those."""
    found, data_errors = read(path)
    assert found == {frame: frame for frame in found}
    assert sorted([*found, *data_errors]) == list(range(len(open_video(path))))
    return sorted(data_errors)


@pytest.mark.parametrize(
    ('name', 'codec'),
    [
        ('x.avi', 'mjpeg'), ('x.avi', 'h264'), ('x.avi', 'mpeg4'), ('x.mp4', 'h264'),
        ('x.mkv', 'h264'), ('x.mkv', 'mjpeg'), ('x.ts', 'h264'), ('x.mov', 'mjpeg'),
    ],
)  # fmt: skip
def test_all_frames_of_a_complete_video_have_their_numbers(tmp_path, name, codec):
    path = write_video(tmp_path / name, COUNT, codec)
    video = open_video(path)
    assert (len(video), video.rate_hz, video.data_errors) == (COUNT, 30, ())
    assert assert_true(path) == []
    assert read(path, [0, 5, 17, 30]) == ({n: n for n in (0, 5, 17, 30)}, {})


@pytest.mark.parametrize('options', [{'x264-params': 'open-gop=1'}, {'bf': '0'}])
def test_numbers_do_not_depend_on_the_order_of_decoding(tmp_path, options):
    for name in ('x.avi', 'x.mp4'):
        assert assert_true(write_video(tmp_path / name, COUNT, options=options)) == []


def test_a_destroyed_chunk_of_an_avi_keeps_later_numbers(tmp_path):
    path = write_video(tmp_path / 'x.avi', COUNT, 'mjpeg')
    position, _ = packets(path)[9]
    overwrite(path, position - 160, bytes(310))
    assert assert_true(path) == [8, 9], 'the end of one frame, and the header of the next'
    assert open_video(path).data_errors == (f'{path}: frame 9: its place in the file is damaged',)


def test_inter_coded_frames_are_lost_up_to_the_next_key_frame(tmp_path):
    path = write_video(tmp_path / 'x.avi', COUNT, 'mpeg4')
    overwrite(path, packets(path)[GOP + 3][0] - 8, bytes(8))
    assert assert_true(path) == list(range(GOP + 3, 2 * GOP))


def test_without_an_index_frames_after_a_gap_have_no_numbers(tmp_path):
    path = write_video(tmp_path / 'x.avi', COUNT, 'mjpeg')
    without_index(path)
    assert assert_true(path) == [], 'the chunks are contiguous'
    overwrite(path, packets(path)[9][0] - 8, bytes(8))
    found, data_errors = read(path)
    assert found == {frame: frame for frame in range(9)}
    assert list(data_errors) == list(range(9, COUNT))
    assert f'frames 9 to {COUNT - 1}: the file is damaged' in open_video(path).data_errors[0]


def test_an_avi_without_index_that_lacks_whole_chunks_is_not_numbered(tmp_path):
    path = write_video(tmp_path / 'x.avi', COUNT, 'mjpeg')
    (start, _), (end, _) = packets(path)[9], packets(path)[11]
    content = path.read_bytes()  # removing data before it invalidates the index
    rewrite(path, content[: start - 8] + content[end - 8 :])
    found, data_errors = read(path)
    assert found == {}
    assert list(data_errors) == list(range(COUNT))
    assert 'has no index by which' in open_video(path).data_errors[0]


def test_a_damaged_index_is_not_trusted(tmp_path):
    path = write_video(tmp_path / 'x.avi', COUNT, 'mjpeg')
    index = path.read_bytes().rindex(b'idx1') + 8
    overwrite(path, index + 10 * 16, bytes(10 * 16))
    assert assert_true(path) == []


def test_an_empty_chunk_repeats_the_previous_frame(tmp_path):
    path = write_video(tmp_path / 'x.avi', COUNT, 'mjpeg')
    with_empty_chunks(path, [5, 6, 20])
    found, data_errors = read(path)
    assert data_errors == {}
    assert found == {frame: {5: 4, 6: 4, 20: 19}.get(frame, frame) for frame in range(COUNT)}


@pytest.mark.parametrize(
    ('name', 'codec', 'container'),
    [
        ('x.avi', 'mjpeg', {}),
        ('x.avi', 'h264', {}),
        ('x.mkv', 'h264', {}),
        ('x.mp4', 'h264', {'movflags': 'faststart'}),
    ],
)
def test_missing_frames_of_a_truncated_video_are_reported(tmp_path, name, codec, container):
    path = write_video(tmp_path / name, COUNT, codec, container=container)
    rewrite(path, path.read_bytes()[: path.stat().st_size * 2 // 3])
    data_errors = assert_true(path)
    assert data_errors[-1] == COUNT - 1
    assert 0 < len(data_errors) < COUNT
    assert f'the header declares {COUNT} frames' in open_video(path).data_errors[-1]


def test_a_truncated_fragmented_video_is_reported(tmp_path):
    options = {'movflags': 'frag_keyframe+empty_moov'}
    path = write_video(tmp_path / 'x.mp4', COUNT, container=options)
    assert assert_true(path) == []
    rewrite(path, path.read_bytes()[: path.stat().st_size * 2 // 3])
    found, data_errors = read(path)
    assert found == {frame: frame for frame in found}
    assert data_errors
    assert open_video(path).data_errors


@pytest.mark.parametrize('flags', ['frag_keyframe+empty_moov', 'frag_keyframe'])
@pytest.mark.parametrize('lost', [1, 2])
@pytest.mark.parametrize('sound', [False, True])
def test_a_destroyed_fragment_keeps_later_numbers(tmp_path, flags, lost, sound):
    path = write_video(tmp_path / 'x.mp4', COUNT, container={'movflags': flags}, sound=sound)
    assert open_video(path).data_errors == ()
    heads = [match.start() for match in re.finditer(b'moof', path.read_bytes())]
    overwrite(path, heads[lost - (flags == 'frag_keyframe')] + 20, bytes(60))
    found, data_errors = read(path)
    assert found == {frame: frame for frame in found}
    assert set(range(GOP)) <= set(found)
    assert data_errors, 'a loss in the last fragment is reported too'


def test_frames_stored_later_in_a_truncated_file_are_missing(tmp_path):
    path = write_video(tmp_path / 'x.mkv', COUNT, options={'bf': '3'})
    spans = packets(path)
    for kept in range(COUNT - 8, COUNT):
        copy = tmp_path / f'{kept}.mkv'
        copy.write_bytes(path.read_bytes()[: sum(spans[kept - 1])])
        found, data_errors = read(copy)
        assert found == {frame: frame for frame in found}
        assert data_errors


@pytest.mark.parametrize(
    ('name', 'codec'), [('x.ts', 'h264'), ('x.flv', 'h264'), ('x.wmv', 'wmv2')]
)
def test_truncation_of_other_formats_is_reported_if_their_end_shows_it(tmp_path, name, codec):
    path = write_video(tmp_path / name, COUNT, codec)
    assert open_video(path).data_errors == ()
    rewrite(path, path.read_bytes()[: path.stat().st_size * 2 // 3 + 1])
    found, _ = read(path)
    assert found == {frame: frame for frame in found}
    assert any('cut off' in error for error in open_video(path).data_errors)


@pytest.mark.parametrize('position', [0.2, 0.37, 0.5, 0.71, 0.9])
def test_bytes_lost_from_an_flv_file_keep_later_numbers(tmp_path, position):
    path = write_video(tmp_path / 'x.flv', COUNT)
    assert open_video(path).data_errors == ()
    whole = path.read_bytes()
    start = int(position * len(whole))
    rewrite(path, whole[:start] + whole[start + 300 :])
    found, _ = read(path)
    assert found == {frame: frame for frame in found}
    assert open_video(path).data_errors


def test_rejects_an_mp4_without_codec_data(tmp_path):
    path = write_video(tmp_path / 'x.mp4', 5)
    overwrite(path, path.read_bytes().rindex(b'avc1'), b'x\0\0x')
    with pytest.raises(FrameError, match=r'x\.mp4: does not decode as a video'):
        open_video(path)


def test_an_unfinished_recording_is_reported(tmp_path):
    path = write_video(tmp_path / 'x.mkv', COUNT, container={'live': '1'})
    assert open_video(path).data_errors == ()
    rewrite(path, path.read_bytes()[:-20])
    assert 'and all after it: the file is cut off' in open_video(path).data_errors[-1]


def test_rejects_an_mp4_without_its_header(tmp_path):
    path = write_video(tmp_path / 'x.mp4', COUNT)
    rewrite(path, path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(FrameError, match=r'x\.mp4: does not decode as a video'):
        open_video(path)


@pytest.mark.parametrize('codec', ['mjpeg', 'h264'])
def test_a_destroyed_cluster_of_a_matroska_file_keeps_later_numbers(tmp_path, codec):
    path = write_video(tmp_path / 'x.mkv', COUNT, codec)
    spans = packets(path)
    overwrite(path, spans[GOP + 2][0] - 4, bytes(spans[GOP + 3][0] - spans[GOP + 2][0]))
    data_errors = assert_true(path)
    assert data_errors
    assert set(data_errors) <= set(range(GOP, 2 * GOP)), 'nothing else is lost'
    assert any('is damaged' in error for error in open_video(path).data_errors)


def test_a_matroska_file_without_its_first_frames_is_not_numbered(tmp_path):
    path = write_video(tmp_path / 'x.mkv', COUNT, 'mjpeg')
    position, _ = packets(path)[0]
    overwrite(path, position - 30, bytes(packets(path)[3][0] - position))
    found, data_errors = read(path)
    assert found == {}
    assert 'cannot be numbered' in data_errors[0]


def test_a_lost_packet_of_a_transport_stream_keeps_later_numbers(tmp_path):
    path = write_video(tmp_path / 'x.ts', COUNT, 'h264')
    content = path.read_bytes()
    position = packets(path)[GOP + 3][0] // 188 * 188
    rewrite(path, content[:position] + content[position + 188 * 4 :])
    data_errors = assert_true(path)
    assert data_errors
    assert set(data_errors) <= set(range(GOP - 3, 2 * GOP)), 'nothing else is lost'


@pytest.mark.parametrize('name', ['x.mp4', 'x.mkv'])
def test_a_variable_frame_rate_is_reported_from_the_timestamps(tmp_path, name):
    path = write_video(tmp_path / name, len(VARYING), times=VARYING)
    video = open_video(path)
    assert (len(video), video.rate_hz, video.data_errors) == (len(VARYING), None, ())
    assert assert_true(path) == []
    exact = [Fraction(time, 30) for time in VARYING]
    found = [video.time_s(frame) for frame in range(len(video))]
    assert found == exact if name == 'x.mp4' else np.allclose(
        [float(x) for x in found], [float(x) for x in exact], atol=0.0006
    )  # fmt: skip


@pytest.mark.parametrize('name', ['x.mp4', 'x.mkv'])
def test_irregular_times_are_kept(tmp_path, name):
    times = np.cumsum(np.random.default_rng(0).integers(1, 5, 30)).tolist()
    path = write_video(tmp_path / name, 30, times=times)
    video = open_video(path)
    assert assert_true(path) == []
    for frame, time in enumerate(times):
        assert float(video.time_s(frame)) == pytest.approx((time - times[0]) / 30, abs=0.0011)


@pytest.mark.parametrize('name', ['x.mp4', 'x.mkv'])
def test_a_video_may_begin_later_than_zero(tmp_path, name):
    path = write_video(tmp_path / name, 20, times=range(40, 60))
    assert assert_true(path) == []
    assert open_video(path).time_s(3) == Fraction(1, 10)


def test_unusual_names_are_treated_as_files(tmp_path):
    for name in ('a:b%d é.mp4', '-x.mkv', 'concat:x.avi'):
        made = write_video(tmp_path / f'made{name[-4:]}', 5)
        assert assert_true(made.rename(tmp_path / name)) == []


def test_a_playlist_named_like_a_video_opens_no_connection(tmp_path):
    path = tmp_path / 'x.avi'
    path.write_text('#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n')
    with pytest.raises(FrameError, match=r'x\.avi: does not decode'):
        open_video(path)
