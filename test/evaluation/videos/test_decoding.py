# SPDX-License-Identifier: Apache-2.0
"""Frames of a video: as OpenCV reads them, without those changed by damage."""

import re
from itertools import count

import av
import cv2
import numpy as np
import pytest
from made_videos import GOP, overwrite, packets, rewrite, write_video

from surgseg_ros.core.image_files import ImageFileError, check_file, decode_rgb
from surgseg_ros.core.processes import MAX_PIXELS
from surgseg_ros.evaluation.layout import FrameError
from surgseg_ros.evaluation.videos import open_video
from surgseg_ros.evaluation.videos.decoding import are_complete, length_bytes

COUNT = 36


def read(path):
    data_errors = {}
    return dict(open_video(path).read(count(), data_errors)), data_errors


def read_by_opencv(path):
    capture = cv2.VideoCapture(str(path))
    while (found := capture.read())[0]:
        yield cv2.cvtColor(found[1], cv2.COLOR_BGR2RGB)


@pytest.mark.parametrize(
    ('name', 'codec', 'more'),
    [
        ('x.avi', 'mjpeg', {}),
        ('x.avi', 'mjpeg', {'pixels': 'yuvj422p'}),
        ('x.avi', 'mjpeg', {'size': (191, 95)}),
        ('x.avi', 'mpeg4', {'options': {'bf': '2'}}),
        ('x.mp4', 'h264', {}),
        ('x.mp4', 'h264', {'pixels': 'yuv444p'}),
        ('x.mp4', 'h264', {'pixels': 'yuv420p10le'}),
        ('x.mp4', 'h264', {'options': {'x264-params': 'colormatrix=bt709'}}),
        ('x.mp4', 'h264', {'options': {'x264-params': 'fullrange=on'}}),
        ('x.mkv', 'ffv1', {'pixels': 'bgr0'}),
        ('x.mp4', 'h264', {'rotation': 90}),
        ('x.mp4', 'h264', {'rotation': 180}),
    ],
)
def test_frames_equal_those_of_opencv(tmp_path, name, codec, more):
    path = write_video(tmp_path / name, 8, codec, **more)
    found, data_errors = read(path)
    expected = list(read_by_opencv(path))
    assert data_errors == {}
    assert len(found) == len(expected) == 8
    for ours, theirs in zip(found.values(), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def spoil(data, how, rng):
    """Damage a part of a packet, after its header."""
    start = int(rng.integers(len(data) // 3, len(data) - 8))
    length = int(rng.integers(8, 1 + max(8, len(data) // 3)))
    part = data[start : start + length]
    other = bytes(len(part)) if how == 'zeros' else rng.bytes(len(part))
    return data[:start] + other + data[start + length :]


@pytest.mark.parametrize(('codec', 'name'), [('mjpeg', 'x.avi'), ('h264', 'x.mp4')])
@pytest.mark.parametrize('how', ['zeros', 'noise'])
def test_damaged_frames_are_not_returned(tmp_path, codec, name, how):
    path = write_video(tmp_path / name, COUNT, codec)
    whole, content, spans = read(path)[0], path.read_bytes(), packets(path)
    rng = np.random.default_rng(0)
    for number in (0, GOP, GOP + 1, 2 * GOP + 4, COUNT - 1):
        offset, size = spans[number]
        changed = spoil(content[offset : offset + size], how, rng)
        rewrite(path, content[:offset] + changed + content[offset + size :])
        found, data_errors = read(path)
        assert data_errors
        assert sorted([*found, *data_errors]) == list(range(COUNT))
        for frame, image in found.items():
            np.testing.assert_array_equal(image, whole[frame])


def test_frames_are_lost_up_to_the_next_key_frame(tmp_path):
    path = write_video(tmp_path / 'x.mp4', COUNT, options={'bf': '0', 'x264-params': 'scenecut=0'})
    offset, size = packets(path)[GOP + 2]
    overwrite(path, offset + 8, bytes(size - 8))
    _, data_errors = read(path)
    assert sorted(data_errors) == list(range(GOP + 2, 2 * GOP))
    assert 'its data are damaged' in data_errors[GOP + 2]
    assert 'depends on a frame that is damaged' in data_errors[GOP + 3]


def test_a_single_requested_frame_gets_the_same_verdict(tmp_path):
    path = write_video(tmp_path / 'x.mkv', COUNT)
    offset, size = packets(path)[GOP + 1]
    overwrite(path, offset + size // 2, bytes(size // 2))
    _, data_errors = read(path)
    assert data_errors
    for frame in range(COUNT):
        alone = {}
        assert bool(list(open_video(path).read([frame], alone))) == (frame not in data_errors)


def test_a_jpeg_without_its_end_is_damaged_although_it_decodes(tmp_path):
    path = tmp_path / 'x.avi'
    with av.open(str(path), 'w') as file:
        stream = file.add_stream('mjpeg', rate=60)
        stream.width, stream.height, stream.pix_fmt = 320, 240, 'yuvj420p'
        for number in range(12):
            flat = np.full((240, 320, 3), 20 * number, np.uint8)
            noise = np.random.default_rng(number).integers(0, 2, (240, 320, 1), np.uint8)
            frame = av.VideoFrame.from_ndarray(flat ^ noise, format='rgb24')
            file.mux(stream.encode(frame.reformat(format='yuvj420p')))
    offset, size = packets(path)[7]
    overwrite(path, offset + size - 150, bytes(150))  # zeros are valid code words too
    _, data_errors = read(path)
    assert list(data_errors) == [7]


def without_segment(data, marker):
    start = data.index(marker)
    return data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4], 'big') :]


def without_restarts(data, first, last):
    """Remove the data between two restart markers, and one of the markers."""
    spans = [match.start() for match in re.finditer(rb'\xff[\xd0-\xd7]', data)]
    return data[: spans[first]] + data[spans[last] :]


DAMAGES = {
    'no quantization table': lambda data: without_segment(data, b'\xff\xdb'),
    'no frame header': lambda data: without_segment(data, b'\xff\xc0'),
    'no scan header': lambda data: without_segment(data, b'\xff\xda'),
    'another restart interval': lambda data: without_segment(data, b'\xff\xdd'),
    'a restart interval lost': lambda data: without_restarts(data, 3, 4),
    'eight restart intervals lost': lambda data: without_restarts(data, 2, 10),
    'restart markers out of order': lambda data: data.replace(b'\xff\xd1', b'\xff\xd2', 1),
    'no end marker': lambda data: data[:-2],
    'zeros in a restart interval': lambda data: data[:1000] + bytes(64) + data[1064:],
}


@pytest.mark.parametrize('damage', DAMAGES)
def test_a_jpeg_in_a_video_is_checked_like_one_in_a_file(tmp_path, damage):
    size = (320, 256)
    path = write_video(tmp_path / 'x.avi', 4, 'mjpeg', size=size, options={'slices': '16'})
    offset, length = packets(path)[2]
    data = path.read_bytes()[offset : offset + length].rstrip(b'\0')
    assert data.count(b'\xff\xdd') == 1, 'the encoder must write restart markers'
    damaged = DAMAGES[damage](data)
    with pytest.raises(ImageFileError) as refused:
        decode_rgb(check_file(damaged.ljust(length, b'\0')))
    overwrite(path, offset, damaged.ljust(length, b'\0'))
    found, data_errors = read(path)
    assert list(found) == [0, 1, 3]
    assert data_errors == {2: f'{path}: frame 2 cannot be used: {refused.value}'}
    with pytest.raises(FrameError, match=r'frame 2 cannot be used'):
        list(open_video(path).read(count()))


def test_a_jpeg_with_trailing_data_is_accepted(tmp_path):
    path = write_video(tmp_path / 'x.avi', 3, 'mjpeg')
    offset, size = packets(path)[2]
    content = path.read_bytes()
    longer = content[offset : offset + size] + bytes(64)
    head = content[: offset - 4] + len(longer).to_bytes(4, 'little')
    rewrite(path, head + longer + b'\0' * (len(longer) % 2))
    found, data_errors = read(path)
    assert (list(found), data_errors) == ([0, 1, 2], {})


@pytest.mark.parametrize('codec', ['mjpeg', 'h264'])
def test_rejects_a_video_whose_size_changes_by_name(tmp_path, codec):
    sizes = (192, 96), (96, 48)
    parts = [write_video(tmp_path / f'{size[0]}.{codec}', GOP, codec, size=size) for size in sizes]
    path = tmp_path / f'x.{codec}'
    path.write_bytes(b''.join(part.read_bytes() for part in parts))
    found, data_errors = read(path)
    assert list(found) == list(range(GOP))
    assert list(data_errors) == list(range(GOP, 2 * GOP))
    assert f'frame {GOP} cannot be used: it is 96x48, the video 192x96' in data_errors[GOP]


def test_without_a_container_for_errors_the_first_error_raises(tmp_path):
    path = write_video(tmp_path / 'x.avi', COUNT, 'mjpeg')
    overwrite(path, packets(path)[4][0] + 300, bytes(300))
    frames = open_video(path).read(count())
    assert [next(frames)[0] for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(FrameError, match=r'x\.avi: frame 4 cannot be used'):
        next(frames)


def test_rejects_too_large_frames_before_decoding(tmp_path):
    path = write_video(tmp_path / 'x.avi', 2, 'mjpeg')
    content = path.read_bytes()
    side = int(MAX_PIXELS**0.5) + 1000
    size = side.to_bytes(2, 'big') * 2
    for offset, _ in packets(path):
        header = content.index(b'\xff\xc0', offset) + 5
        overwrite(path, header, size)
    with pytest.raises(FrameError):
        list(open_video(path).read(count()))


def test_a_reader_may_stop_early(tmp_path):
    for codec in ('mjpeg', 'h264'):
        path = write_video(tmp_path / f'{codec}.mkv', COUNT, codec)
        frames = open_video(path).read(count())
        assert next(frames)[0] == 0
        frames.close()


@pytest.mark.parametrize('name', ['x.mp4', 'x.ts', 'x.avi', 'x.mkv'])
def test_accepts_encoded_frames_and_finds_zeroed_data(tmp_path, name):
    path = write_video(tmp_path / name, 12)
    with av.open(str(path)) as file:
        size = length_bytes('h264', file.streams.video[0].codec_context.extradata)
        coded = [bytes(packet) for packet in file.demux(video=0) if packet.size]
    assert size == (4 if name in ('x.mp4', 'x.mkv') else 0)
    for data in coded:
        assert are_complete(data, size)
        middle = len(data) // 2
        assert not are_complete(data[: middle - 4] + bytes(7) + b'\7' + data[middle + 4 :], size)


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
def test_checks_lengths_and_zeros_of_units(data, size, whole):
    assert are_complete(data, size) is whole


def test_other_codecs_have_no_units_to_check():
    assert length_bytes('mpeg4', b'\1' * 30) is None
    assert length_bytes('h264', None) == 0
