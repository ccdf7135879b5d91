# SPDX-License-Identifier: Apache-2.0
"""`inspect_data`: counts, reports errors, draws a sheet, and sets its exit status."""

import json

import cv2
import numpy as np
import pytest
from verbs import verb

from surgseg_ros.training.data_check import choose

main = verb('inspect_data')


def inspect(data, tmp_path, *more):
    report = tmp_path / 'report.json'
    status = main(['--data', str(data), '--json', str(report), *more])
    return status, json.loads(report.read_text())


def test_a_valid_data_set_is_inspected(data, tmp_path, capsys):
    status, report = inspect(data, tmp_path, '--output', str(tmp_path / 'out'))
    masks = [cv2.imread(str(path), -1) for path in data.glob('*/segmentation/*.png')]
    assert status == 0
    assert report['faults'] == []
    assert report['all']['frames'] == 6
    assert report['all']['sizes'] == {'80x48': 6}
    assert report['all']['pixel_share']['tool shaft'] == pytest.approx(np.mean(masks) / 3)
    assert report['all']['frame_share']['tool shaft'] == 1
    assert report['all']['frame_share']['thread'] == 0
    assert list(report['videos']) == ['video_01', 'video_02', 'video_03']
    assert cv2.imread(str(tmp_path / 'out/data.png')).shape[1] == 1600
    captured = capsys.readouterr()
    assert 'No errors found' in captured.out
    assert 'video_02                   2  80x48 (2)' in captured.out


def test_every_error_is_named(data, tmp_path, capsys):
    cv2.imwrite(str(data / 'video_01/segmentation/000000000.png'), np.full((48, 80), 10, np.uint8))
    cv2.imwrite(str(data / 'video_02/segmentation/000000060.png'), np.zeros((24, 80), np.uint8))
    (data / 'video_02/rgb/000000000.png').unlink()
    (data / 'video_03/rgb/000000000.png').write_bytes(b'')
    (data / 'video_03/segmentation/000000060.png').write_bytes(b'')

    status, report = inspect(data, tmp_path, '--output', str(tmp_path / 'out'))

    assert status == 1
    names = [data_error['name'] for data_error in report['faults']]
    assert names == [
        'video_01/000000000', 'video_02/000000000', 'video_02/000000060', 'video_03/000000000',
        'video_03/000000060',
    ]  # fmt: skip
    text = capsys.readouterr().err
    assert all(name in text for name in names)
    assert report['videos']['video_02']['sizes'] == {'80x24': 1}
    assert report['all']['frames'] == 5
    assert (tmp_path / 'out/data.png').is_file()


def test_a_damaged_image_is_an_error_of_its_file(data, tmp_path, capsys):
    video = data / 'video_02'
    sizes = cv2.imread(str(video / 'segmentation/000000060.png'), -1).shape
    noise = np.random.default_rng(0).integers(0, 256, (*sizes, 3), np.uint8)
    jpeg = cv2.imencode('.jpg', noise)[1].tobytes()
    (video / 'rgb/000000060.png').unlink()
    (video / 'rgb/000000060.jpg').write_bytes(jpeg[: len(jpeg) // 2] + jpeg[-200:])
    status, report = inspect(data, tmp_path)
    assert status == 1
    (data_error,) = report['faults']
    assert data_error['name'] == 'video_02/000000060'
    assert '000000060.jpg' in data_error['what']
    assert 'bytes of a JPEG are damaged' in capsys.readouterr().err


def test_an_empty_data_set_is_reported(tmp_path, capsys):
    assert main(['--data', str(tmp_path)]) == 2
    assert 'holds no video_' in capsys.readouterr().err


def test_an_image_is_written_even_without_valid_samples(data, tmp_path):
    for path in data.glob('*/segmentation/*.png'):
        path.write_bytes(b'')
    status, report = inspect(data, tmp_path, '--output', str(tmp_path / 'out'))
    assert (status, len(report['faults'])) == (1, 6)
    assert (tmp_path / 'out/data.png').is_file()


def test_every_class_is_shown():
    class_px = np.zeros((100, 10), np.int64)
    class_px[:, 0] = 5
    for label in range(1, 10):
        class_px[7 * label, label] = label
        class_px[7 * label + 1, label] = 1
    chosen = choose(class_px, 12)
    assert {7 * label for label in range(1, 10)} <= set(chosen)
    assert len(chosen) == 12
    assert choose(class_px[:5], 12) == [0, 1, 2, 3, 4]
