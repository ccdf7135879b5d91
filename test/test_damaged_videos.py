# SPDX-License-Identifier: Apache-2.0
"""What each verb does with a video that is damaged, truncated, or has a variable rate."""

import json
import warnings

import cv2
import numpy as np
import pytest
from made_videos import HEIGHT, WIDTH, number_of, overwrite, packets, rewrite, write_video
from tiny_models import write_tiny_model
from verbs import verb

from surgseg_ros.bags.reading import Bag
from surgseg_ros.messages.images import rgb_from_msg
from surgseg_ros.messages.serialization import stamp_ns
from surgseg_ros.training.data_check import validate
from surgseg_ros.training.dataset import DatasetError, find_samples

COUNT = 30
BAD = 9
"""The chunk whose header is overwritten, with the end of the previous frame."""


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp('models') / 'tiny', input_size=(32, 64))


def run(name, **options):
    words = [(f'--{key}', str(value)) for key, value in options.items()]
    return verb(name)([word for pair in words for word in pair])


def spoil(path):
    overwrite(path, packets(path)[BAD][0] - 160, bytes(310))
    return path


def cut(path):
    rewrite(path, path.read_bytes()[: path.stat().st_size * 2 // 3])
    return path


def masks(output):
    return sorted(int(path.stem) for path in output.rglob('*.png'))


def messages(bag):
    with Bag(bag) as opened:
        found = [message for _, _, message in opened.read(['/camera/image_raw'])]
    times = [(stamp_ns(message.header) - 10**18) / 1e9 for message in found]
    return times, [number_of(rgb_from_msg(message)) for message in found]


def write_masks(video, *numbers):
    (video / 'segmentation').mkdir(parents=True, exist_ok=True)
    for number in numbers:
        path = video / f'segmentation/{number:09d}.png'
        cv2.imwrite(str(path), np.zeros((HEIGHT, WIDTH), np.uint8))


def test_predict_reports_a_truncated_video_and_exits_with_1(tmp_path, model, capsys):
    film = cut(write_video(tmp_path / 'x.avi', COUNT, 'mjpeg'))
    options = {'model': model, 'input': film, 'output': tmp_path / 'out', 'device': 'cpu'}
    assert run('predict', **options, every=5) == 1
    written = masks(tmp_path / 'out')
    assert written == list(range(0, written[-1] + 1, 5))
    captured = capsys.readouterr()
    assert f'to {COUNT - 1}: the header declares {COUNT} frames' in captured.err
    assert f'{len(written)} masks' in captured.out
    assert run('predict', **options, every=5) == 1, 'a second run changes nothing'
    assert 'declares' in capsys.readouterr().err
    assert masks(tmp_path / 'out') == written


@pytest.mark.parametrize(('name', 'codec'), [('x.avi', 'mjpeg'), ('x.mp4', 'h264')])
def test_predict_omits_damaged_frames_of_a_video(tmp_path, model, capsys, name, codec):
    film = write_video(tmp_path / name, COUNT, codec)
    offset, size = packets(film)[14]
    overwrite(film, offset + size // 3, bytes(size // 2))
    options = {'model': model, 'input': film, 'output': tmp_path / 'out', 'device': 'cpu'}
    assert run('predict', **options, every=1) == 1
    written, text = masks(tmp_path / 'out'), capsys.readouterr().err
    left_out = sorted(set(range(COUNT)) - set(written))
    assert left_out
    assert set(left_out) <= set(range(12, 24)), 'after the next key frame no frame is damaged'
    for number in left_out:
        assert f'{film}: frame {number} cannot be used' in text


def test_predict_of_a_video_without_an_intact_frame_exits_with_2(tmp_path, model, capsys):
    film = write_video(tmp_path / 'x.avi', 3, 'mjpeg')
    for offset, size in packets(film):
        overwrite(film, offset + size // 2, bytes(size // 2))
    options = {'model': model, 'input': film, 'output': tmp_path / 'out', 'device': 'cpu'}
    assert run('predict', **options) == 2
    assert 'frame 0 cannot be used' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_make_bag_keeps_the_stamps_after_a_damaged_frame(tmp_path, capsys):
    film = spoil(write_video(tmp_path / 'x.avi', COUNT, 'mjpeg'))
    assert run('make_bag', input=film, output=tmp_path / 'bag') == 0
    times, numbers = messages(tmp_path / 'bag')
    assert numbers == [n for n in range(COUNT) if n not in (BAD - 1, BAD)]
    assert times == pytest.approx([number / 30 for number in numbers], abs=1e-9)
    captured = capsys.readouterr()
    assert f'frame {BAD}: its place in the file is damaged' in captured.err
    assert f'frame {BAD - 1} cannot be used' in captured.err
    assert f'declares {COUNT}' in captured.out


def test_make_bag_rejects_a_video_that_has_lost_a_frame_with_a_mask(tmp_path, capsys):
    spoil(write_video(tmp_path / 'video_1/video_left.avi', COUNT, 'mjpeg'))
    write_masks(tmp_path / 'video_1', 0, BAD)
    assert run('make_bag', input=tmp_path / 'video_1', output=tmp_path / 'bag') == 2
    assert f'frame {BAD} cannot be used' in capsys.readouterr().err
    assert not (tmp_path / 'bag').exists()


@pytest.mark.parametrize('name', ['x.mp4', 'x.mkv'])
def test_make_bag_uses_the_timestamps_of_a_video_with_variable_rate(tmp_path, name, capsys):
    times = [*range(15), 15, 20, 25]
    film = write_video(tmp_path / name, len(times), times=times)
    assert run('make_bag', input=film, output=tmp_path / 'bag') == 0
    found, numbers = messages(tmp_path / 'bag')
    assert numbers == list(range(len(times)))
    assert found == pytest.approx([time / 30 for time in times], abs=0.0006)
    captured = capsys.readouterr()
    assert 'whose rate varies' in captured.out
    assert 'cut off' not in captured.out + captured.err
    assert run('make_bag', input=film, output=tmp_path / 'other', rate=10) == 0
    assert messages(tmp_path / 'other')[0] == pytest.approx([n / 10 for n in numbers])


@pytest.fixture
def data(tmp_path):
    """Return a data set of two videos; the first has lost frames 8 and 9."""
    for name in ('video_01', 'video_02'):
        write_video(tmp_path / f'data/{name}/video_left.avi', COUNT, 'mjpeg')
        write_masks(tmp_path / 'data' / name, 0, 20)
    spoil(tmp_path / 'data/video_01/video_left.avi')
    return tmp_path / 'data'


def test_training_gets_the_right_frames_after_a_damaged_one(data, tmp_path):
    samples = find_samples(data, tmp_path / 'cache')
    assert [(s.index, number_of(s.read()[0])) for s in samples] == [(0, 0), (20, 20)] * 2


def test_training_leaves_out_a_mask_whose_frame_is_lost(data, tmp_path):
    write_masks(data / 'video_01', BAD)
    with pytest.raises(DatasetError, match=f'{BAD:09d}.png: has no frame; .*is damaged'):
        find_samples(data, tmp_path / 'cache')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        found = validate(data, tmp_path / 'cache', on_fault='leave_out')
    assert [s.name for s in found.samples] == [
        'video_01/000000000', 'video_01/000000020', 'video_02/000000000', 'video_02/000000020'
    ]  # fmt: skip


def test_inspect_data_reports_lost_frames_of_a_video_every_time(data, tmp_path, capsys):
    options = {'data': data, 'cache': tmp_path / 'cache', 'json': tmp_path / 'x.json'}
    for _ in range(2):  # the second time all frames are in the cache
        assert run('inspect_data', **options) == 1
        assert f'frame {BAD}: its place in the file is damaged' in capsys.readouterr().err
    (error,) = json.loads((tmp_path / 'x.json').read_text())['faults']
    assert error['name'] == 'video_01'


def test_names_in_capitals_are_found(data, tmp_path, capsys):
    (data / 'video_01').rename(data / 'Video_03')
    (data / 'video_02/video_left.avi').rename(data / 'video_02/VIDEO_LEFT.AVI')
    (data / 'video_02/segmentation').rename(data / 'video_02/Segmentation')
    for path in (data / 'video_02/Segmentation').iterdir():
        path.rename(path.with_suffix('.PNG'))
    found = {s.name: number_of(s.read()[0]) for s in find_samples(data, tmp_path / 'cache')}
    assert found == {
        'Video_03/000000000': 0, 'Video_03/000000020': 20,
        'video_02/000000000': 0, 'video_02/000000020': 20,
    }  # fmt: skip
    assert run('make_bag', input=data, output=tmp_path / 'bags') == 0
    assert sorted(path.name for path in (tmp_path / 'bags').iterdir()) == ['video_02', 'video_03']
    (data / 'video_03').mkdir()
    assert run('inspect_data', data=data, cache=tmp_path / 'cache') == 2
    assert 'Video_03 and video_03: the names differ' in capsys.readouterr().err
