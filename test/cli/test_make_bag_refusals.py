# SPDX-License-Identifier: Apache-2.0
"""Errors and interruptions of `make_bag`: they name the cause, and leave no output."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from drawn_frames import make_bag, make_image, mask, masks, write_images
from started import running

from surgseg_ros.evaluation.frames import write_png


@pytest.mark.parametrize(
    ('option', 'values'),
    [
        ('--mask-format', ['jpeg']),
        ('--picture-format', ['png']),
        ('--jpeg-quality', ['101']),
        ('--rate', ['0']),
        ('--rate', ['nan']),
        ('--start-time', ['0']),
        ('--start-time', ['2147483648']),
        ('--start-time', ['nan']),
        ('--every', ['0']),
        ('--crop', ['-1', '0', '30', '20']),
        ('--crop', ['0', '0', '0', '20']),
        ('--image-topic', ['left eye']),
        ('--storage', ['tape']),
    ],
)
def test_errors_name_invalid_arguments(tmp_path, capsys, option, values):
    write_images(tmp_path / 'case', 0)
    with pytest.raises(SystemExit):
        make_bag(tmp_path / 'case', tmp_path / 'bag', option, *values)
    text = capsys.readouterr().err
    assert option in text
    assert all(value in text for value in values)
    assert not (tmp_path / 'bag').exists()


def test_error_names_values_that_do_not_fit_in_a_message(tmp_path, capsys):
    write_images(tmp_path / 'case', 0, 1)
    late = ('--start-time', '2147483647', '--rate', 1)
    assert make_bag(tmp_path / 'case', tmp_path / 'bag', *late) == 2
    assert 'a stamp of 2147483648 s is beyond 2147483647' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        make_bag(tmp_path / 'case', tmp_path / 'bag.db3', '--storage', 'mcap')
    assert '--storage mcap does not fit --output' in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ['case']


def _no_frames(folder):
    folder.mkdir()


def _no_video(folder):
    folder.mkdir()
    (folder / 'video_left.avi').write_bytes(b'RIFF and nothing more')


def _other_size(folder):
    write_images(folder, 0, 1)
    write_png(folder / '000000002.png', make_image(2)[1:])


def _cut_image(folder):
    write_images(folder, 0, 1)
    data = (folder / '000000001.png').read_bytes()
    (folder / '000000001.png').write_bytes(data[:-20])


def _mask_of_other_size(folder):
    write_images(folder / 'rgb', 0)
    (folder / 'segmentation').mkdir()
    write_png(folder / 'segmentation/000000000.png', mask(0)[1:])


def _mask_in_colour(folder):
    write_images(folder / 'rgb', 0)
    write_images(folder / 'segmentation', 0)


def _mask_with_a_class_too_many(folder):
    write_images(folder / 'rgb', 0)
    (folder / 'segmentation').mkdir()
    write_png(folder / 'segmentation/000000000.png', mask(0) + np.uint8(1))


def _mask_without_frame(folder):
    write_images(folder / 'rgb', 0)
    masks(folder / 'segmentation', 0, 6)


def _mask_without_number(folder):
    _mask_without_frame(folder)
    write_png(folder / 'segmentation/foo.png', mask(0))


def _two_masks_of_a_frame(folder):
    _mask_without_frame(folder)
    write_png(folder / 'segmentation/6.png', mask(0))


@pytest.mark.parametrize(
    ('make', 'words'),
    [
        (_no_frames, 'holds no frames'),
        (_no_video, 'video_left.avi: does not decode'),
        (_other_size, 'frame 2 is 80x47, those before it 80x48'),
        (_cut_image, 'lack the end of the image'),
        (_mask_of_other_size, '000000000.png: is 80x47, its frame 80x48'),
        (_mask_in_colour, '000000000.png: is an 8-bit colour PNG'),
        (_mask_with_a_class_too_many, '000000000.png: holds the value 10'),
        (_mask_without_frame, 'frame 000000006 has a mask'),
        (_mask_without_number, 'foo.png: is not named by the number of its frame'),
        (_two_masks_of_a_frame, '6.png: is of the same frame as 000000006.png; remove one'),
    ],
)
def test_error_names_invalid_input_and_nothing_is_left(tmp_path, capsys, make, words):
    make(tmp_path / 'case')
    assert make_bag(tmp_path / 'case', tmp_path / 'bag') == 2
    assert words in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ['case']


def test_error_names_a_video_that_ends_before_a_mask(tmp_path, write_video, capsys):
    write_video(tmp_path / 'video_1/video_left.avi', 5)
    masks(tmp_path / 'video_1/segmentation', 0, 5)
    assert make_bag(tmp_path / 'video_1', tmp_path / 'bag') == 2
    assert 'video_left.avi: ends before frame 5, which has a mask' in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ['video_1']


def test_error_names_a_crop_outside_the_image(tmp_path, capsys):
    write_images(tmp_path / 'case', 0)
    assert make_bag(tmp_path / 'case', tmp_path / 'bag', '--crop', 320, 28, 1280, 1024) == 2
    text = capsys.readouterr().err
    assert 'crop 320 28 1280 1024' in text
    assert '80x48' in text
    assert not (tmp_path / 'bag').exists()


def test_no_bag_of_a_data_set_is_started_if_one_exists(tmp_path, capsys):
    for video in ('video_1', 'video_2'):
        write_images(tmp_path / 'data' / video / 'rgb', 0)
    (tmp_path / 'out/video_2').mkdir(parents=True)
    assert make_bag(tmp_path / 'data', tmp_path / 'out') == 2
    assert 'video_2' in capsys.readouterr().err
    assert [path.name for path in (tmp_path / 'out').rglob('*')] == ['video_2']


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_an_interruption_leaves_nothing(tmp_path, storage):
    write_images(tmp_path / 'case', 0)
    endless = tmp_path / 'case/000000001.png'
    os.mkfifo(endless)  # reading it waits until the test has sent the signal
    words = ['make_bag', '--input', tmp_path / 'case', '--output', tmp_path / 'out/bag']
    command = [sys.executable, '-m', 'surgseg_ros', *map(str, words), '--storage', storage]
    with (
        running(command, stderr=subprocess.PIPE, text=True) as run,
        endless.open('wb'),  # opens when the verb reads it, during the bag
    ):
        assert [path.name[:5] for path in (tmp_path / 'out').iterdir()] == ['.bag.']
        run.send_signal(signal.SIGINT)
        _, text = run.communicate(timeout=300)
    assert run.returncode == 130
    assert text.endswith('make_bag: interrupted; incomplete bags are removed\n')
    assert not (tmp_path / 'out').exists()
