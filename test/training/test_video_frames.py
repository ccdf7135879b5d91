# SPDX-License-Identifier: Apache-2.0
"""Videos that are not unpacked: their frames are exact, complete, and decoded once."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from started import running

from surgseg_ros.evaluation.frames import read_frames
from surgseg_ros.training.dataset import DatasetError, find_samples, scan_samples
from surgseg_ros.training.video_frames import cache_folder, default_cache, unpack

INDICES = (0, 60, 120)

KILLED = """
import os, signal, sys
from pathlib import Path
from surgseg_ros.training.dataset import find_samples

write = Path.write_bytes

def cut(path, data):
    if path.name.startswith('000000060'):
        write(path, data[:len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    return write(path, data)

Path.write_bytes = cut
find_samples(Path(sys.argv[1]), Path(sys.argv[2]))
"""

FOUND = """
import sys
from pathlib import Path
from surgseg_ros.training.dataset import find_samples

print(len(find_samples(Path(sys.argv[1]), Path(sys.argv[2]))))
"""


@pytest.fixture
def packed(data, write_video):
    """Return `data` with its first two videos not unpacked, and two parts of a third."""
    (data / 'video_02').rename(data / 'video_11_1')
    for video in ('video_01', 'video_11_1'):
        shutil.rmtree(data / video / 'rgb')
        write_video(data / video / 'video_left.avi', 130)
        shutil.copy(
            data / video / 'segmentation/000000060.png',
            data / video / 'segmentation/000000120.png',
        )
    return data


def numbers(samples, frame_number):
    return {s.name: frame_number(s.read()[0]) for s in samples if s.video != 'video_03'}


EXPECTED = {f'{v}/{i:09d}': i for v in ('video_01', 'video_11_1') for i in INDICES}


def test_each_mask_gets_its_frame(packed, tmp_path, frame_number):
    samples = find_samples(packed, tmp_path / 'cache')
    assert numbers(samples, frame_number) == EXPECTED
    assert [s.name for s in samples] == sorted(s.name for s in samples)
    assert len(samples) == 8
    assert len(list((tmp_path / 'cache').rglob('*.png'))) == len(EXPECTED)


def test_a_frame_is_decoded_once(packed, tmp_path, monkeypatch):
    first = find_samples(packed, tmp_path / 'cache')
    monkeypatch.setattr('surgseg_ros.training.video_frames.read_frames', None)
    assert find_samples(packed, tmp_path / 'cache') == first


def test_missing_frames_are_added_to_the_cache(packed, tmp_path, monkeypatch, frame_number):
    first = find_samples(packed, tmp_path / 'cache')
    first[1].image.unlink()
    read = []
    monkeypatch.setattr(
        'surgseg_ros.training.video_frames.read_frames',
        lambda path, indices, data_errors: (
            read.append((path.parent.name, indices)),
            read_frames(path, indices, data_errors),
        )[1],
    )
    assert numbers(find_samples(packed, tmp_path / 'cache'), frame_number) == EXPECTED
    assert read == [('video_01', [60])]


def test_a_changed_file_is_decoded_again(packed, tmp_path):
    video = packed / 'video_01/video_left.avi'
    before = cache_folder(video, tmp_path)
    os.utime(video, ns=(0, 0))
    assert cache_folder(video, tmp_path) != before


def test_frames_of_the_data_set_have_precedence(packed, tmp_path):
    rgb = packed / 'video_01/rgb/000000060.png'
    rgb.parent.mkdir()
    shutil.copy(packed / 'video_03/rgb/000000060.png', rgb)
    assert find_samples(packed, tmp_path / 'cache')[1].image == rgb


def run(script, *arguments):
    return running(
        [sys.executable, '-c', script, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def test_a_kill_during_a_write_leaves_only_complete_frames(packed, tmp_path, frame_number):
    cache = tmp_path / 'cache'
    with run(KILLED, packed, cache) as killed:
        assert killed.wait() == -signal.SIGKILL
    halves = list(cache.rglob('*.part'))
    assert halves
    assert not list(cache.rglob('000000060.png'))

    assert numbers(find_samples(packed, cache), frame_number) == EXPECTED
    assert not any(path.exists() for path in halves)


def test_two_processes_may_share_a_cache(packed, tmp_path, frame_number):
    cache = tmp_path / 'cache'
    with run(FOUND, packed, cache) as one, run(FOUND, packed, cache) as other:
        assert (one.communicate()[0], other.communicate()[0]) == ('8\n', '8\n')
    assert numbers(find_samples(packed, cache), frame_number) == EXPECTED


def test_error_names_a_video_that_is_too_short(packed, tmp_path, write_video):
    write_video(packed / 'video_01/video_left.avi', 61)
    with pytest.raises(DatasetError, match=r'video_left\.avi: ends before frame 120'):
        find_samples(packed, tmp_path / 'cache')
    samples, data_errors = scan_samples(packed, tmp_path / 'cache')
    assert [data_error.name for data_error in data_errors] == ['video_01/000000120']
    assert len(samples) == 7


def test_error_names_a_video_that_cannot_be_decoded(packed, tmp_path):
    (packed / 'video_11_1/video_left.avi').write_bytes(b'no video')
    samples, data_errors = scan_samples(packed, tmp_path / 'cache')
    assert {data_error.name for data_error in data_errors} == {
        n for n in EXPECTED if 'video_11_1' in n
    }
    assert all(
        'video_11_1/video_left.avi: does not decode' in data_error.what
        for data_error in data_errors
    )
    assert len(samples) == 5


def test_omitted_frames_are_not_decoded(packed, tmp_path):
    (packed / 'video_11_1/video_left.avi').write_bytes(b'no video')
    names = ['video_11_1', 'video_01/000000060']
    samples = find_samples(packed, tmp_path / 'cache', leave_out=names)
    assert [s.name for s in samples] == [
        'video_01/000000000', 'video_01/000000120', 'video_03/000000000', 'video_03/000000060',
    ]  # fmt: skip
    with pytest.raises(DatasetError, match="'video_4'"):
        find_samples(packed, tmp_path / 'cache', leave_out=['video_4'])


def test_error_names_a_cache_that_cannot_be_written(packed, tmp_path):
    (tmp_path / 'cache').write_text('a file where a folder should be')
    with pytest.raises(DatasetError, match='name another cache'):
        find_samples(packed, tmp_path / 'cache')


def test_the_cache_is_beside_the_data_or_in_the_cache_of_the_user(data, tmp_path, monkeypatch):
    assert default_cache(data) == tmp_path / 'data.frames'
    monkeypatch.setattr(os, 'access', lambda *_: False)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'home'))
    assert default_cache(data).parent == tmp_path / 'home/surgseg_ros'
    assert default_cache(data) != default_cache(Path('/another/data'))


def test_stopping_keeps_frames_of_other_videos(packed, tmp_path, monkeypatch):
    def stop(path, image):
        raise KeyboardInterrupt

    monkeypatch.setattr('surgseg_ros.training.video_frames.write_png', stop)
    with pytest.raises(KeyboardInterrupt):
        unpack({packed / f'{v}/video_left.avi': INDICES for v in ('video_01', 'video_11_1')},
               tmp_path / 'cache')  # fmt: skip
