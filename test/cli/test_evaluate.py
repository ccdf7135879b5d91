# SPDX-License-Identifier: Apache-2.0
"""The verb `evaluate`: its scores, exit status, and the files named in errors."""

import json

import cv2
import numpy as np
import pytest
from verbs import verb

from surgseg_ros.core.instrument_files import ListedInstrument, instruments_to_json
from surgseg_ros.core.keypoints import Geometry
from surgseg_ros.core.labels import ROBOTIC_TOOL
from surgseg_ros.evaluation.metrics import MEANINGS

main = verb('evaluate')

NAMES = ('video_41/segmentation/000000000.png', 'video_41/segmentation/000000060.png',
         'video_42_1/segmentation/000000000.png')  # fmt: skip


def write(path, mask):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), mask)


@pytest.fixture
def folders(tmp_path):
    mask = np.zeros((20, 30), np.uint8)
    mask[5:9, 5:20] = 4
    for side in ('truth', 'masks'):
        for name in NAMES:
            write(tmp_path / side / name, mask)
    return tmp_path


def evaluate(folder, *more):
    named = {'reference': 'truth', 'predictions': 'masks', 'json': 'out/scores.json'}
    words = [word for key, name in named.items() for word in (f'--{key}', str(folder / name))]
    return main([*words, *more])


@pytest.mark.parametrize('workers', ['1', '2'])
def test_a_perfect_prediction_scores_1(folders, capsys, workers):
    assert evaluate(folders, '--workers', workers) == 0
    summary = json.loads((folders / 'out/scores.json').read_text())
    assert summary['mIoU'] == summary['mNSD'] == summary['score'] == 1
    assert summary['floor']['mIoU'] == pytest.approx(8 / 9)
    assert sorted(summary['videos']) == ['video_41', 'video_42_1']
    assert summary['missing'] == []
    text = capsys.readouterr().out
    assert 'suturing needle' in text
    assert 'missing' not in text
    for word in MEANINGS:
        assert f'\n{word}: ' in text, 'the column is explained'


@pytest.mark.parametrize('workers', ['1', '2'])
def test_flicker_is_reported_for_consecutive_frames(folders, capsys, workers):
    mask = cv2.imread(str(folders / 'masks' / NAMES[1]), cv2.IMREAD_UNCHANGED)
    mask[0, :6] = 7
    write(folders / 'masks' / NAMES[1], mask)
    assert evaluate(folders, '--workers', workers) == 0
    flicker = json.loads((folders / 'out/scores.json').read_text())['flicker']
    assert flicker['steps'] == 1, 'one video has two frames, the other has one'
    assert flicker['share'] == pytest.approx(6 / 600)
    assert flicker['instrument_share'] == 0
    assert 'flicker: of pixels whose truth stays' in capsys.readouterr().out


def test_error_names_missing_files(folders, capsys):
    (folders / 'masks' / NAMES[1]).unlink()
    assert evaluate(folders) == 2
    assert NAMES[1] in capsys.readouterr().err
    assert not (folders / 'out').exists()


def test_a_missing_mask_scores_0_if_allowed(folders, capsys):
    (folders / 'masks' / NAMES[1]).unlink()
    assert evaluate(folders, '--allow-missing') == 0
    summary = json.loads((folders / 'out/scores.json').read_text())
    assert summary['videos']['video_41']['class_mIoU'] == [0.5] * 9
    assert summary['missing'] == [NAMES[1]]
    assert 'missing, scored 0: 1' in capsys.readouterr().out


def test_error_names_a_mask_without_truth(folders, capsys):
    (folders / 'truth' / NAMES[2]).unlink()
    assert evaluate(folders) == 2
    assert NAMES[2] in capsys.readouterr().err
    assert evaluate(folders, '--allow-missing') == 0


def test_files_missing_on_either_side_are_named_together(folders, capsys):
    (folders / 'masks' / NAMES[1]).unlink()
    (folders / 'truth' / NAMES[2]).unlink()
    assert evaluate(folders) == 2
    text = capsys.readouterr().err
    assert NAMES[1] in text
    assert NAMES[2] in text


def test_a_misspelled_folder_is_an_error(folders, capsys):
    (folders / 'masks').rename(folders / 'elsewhere')
    assert evaluate(folders, '--allow-missing') == 2
    assert 'is not a folder' in capsys.readouterr().err


def test_error_names_an_invalid_truth(folders, capsys):
    write(folders / 'truth' / NAMES[0], np.full((20, 30), 17, np.uint8))
    assert evaluate(folders) == 2
    assert str(folders / 'truth' / NAMES[0]) in capsys.readouterr().err


def test_a_report_is_written_if_requested(folders, capsys):
    assert evaluate(folders, '--report', str(folders / 'out/report')) == 0
    path = folders / 'out/report/report.html'
    assert path.is_file()
    assert str(path) in capsys.readouterr().out


def test_error_names_a_missing_folder_of_images(folders, capsys):
    nowhere = folders / 'nowhere'
    assert evaluate(folders, '--report', str(folders / 'out'), '--frames', str(nowhere)) == 2
    assert repr(str(nowhere)) in capsys.readouterr().err
    assert not (folders / 'out').exists()


def test_error_names_a_file_in_place_of_a_folder(folders, capsys):
    (folders / 'out').write_text('')
    assert evaluate(folders) == 2
    assert str(folders / 'out') in capsys.readouterr().err


def test_rejects_a_data_set_without_truth(tmp_path, capsys):
    assert evaluate(tmp_path) == 2
    assert 'holds no video_*/segmentation' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('mask', 'expected'),
    [
        (np.zeros((10, 30), np.uint8), '30x10'),
        (np.zeros((20, 30, 3), np.uint8), '8-bit grey'),
        (np.zeros((20, 30), np.uint16), '8-bit grey'),
    ],
)
def test_error_names_a_file_of_another_size(folders, capsys, mask, expected):
    write(folders / 'masks' / NAMES[0], mask)
    assert evaluate(folders) == 2
    error = capsys.readouterr().err
    assert NAMES[0] in error
    assert expected in error


def test_error_names_a_truncated_file(folders, capsys):
    path = folders / 'masks' / NAMES[0]
    path.write_bytes(path.read_bytes()[:20])
    assert evaluate(folders) == 2
    assert NAMES[0] in capsys.readouterr().err


def write_instruments(folder, number=1, listed=(1,)):
    instances = np.zeros((54, 96), np.uint8)
    instances[5:20, :50] = number
    for side in ('truth', 'masks'):
        for index in (0, 1):
            write(folder / side / f'video_01/instances/{index:09d}.png', instances)
            path = folder / side / f'video_01/instruments/{index:09d}.json'
            path.parent.mkdir(parents=True, exist_ok=True)
            tools = [ListedInstrument(n, ROBOTIC_TOOL, Geometry(), n) for n in listed]
            path.write_bytes(instruments_to_json(tools))


@pytest.mark.parametrize('workers', ['1', '2'])
def test_instruments_are_scored_if_requested(tmp_path, capsys, workers):
    write_instruments(tmp_path)
    assert evaluate(tmp_path, '--instruments', '--workers', workers) == 0
    summary = json.loads((tmp_path / 'out/scores.json').read_text())
    assert (summary['frames'], summary['f1'], summary['idf1']) == (2, 1, 1)
    assert summary['tip_px'] == {'p50': None, 'p95': None, 'count': 0}
    assert summary['missing'] == []
    text = capsys.readouterr().out
    assert 'robotic tool' in text
    assert 'hota' in text


def test_missing_files_of_instruments_are_named_or_count_as_missed(tmp_path, capsys):
    write_instruments(tmp_path)
    (tmp_path / 'masks/video_01/instances/000000001.png').unlink()
    assert evaluate(tmp_path, '--instruments') == 2
    assert 'video_01/instances/000000001.png' in capsys.readouterr().err
    assert evaluate(tmp_path, '--instruments', '--allow-missing') == 0
    summary = json.loads((tmp_path / 'out/scores.json').read_text())
    assert summary['f1'] == pytest.approx(2 / 3)
    assert summary['missing'] == ['video_01/instances/000000001.png']


def test_error_names_pixels_of_an_instrument_that_is_not_listed(tmp_path, capsys):
    write_instruments(tmp_path, number=3, listed=(1, 2))
    assert evaluate(tmp_path, '--instruments') == 2
    assert 'pixels of number 3' in capsys.readouterr().err


@pytest.mark.parametrize('file', ['instances/000000000.png', 'instruments/000000000.json'])
def test_error_names_a_damaged_file_of_instruments(tmp_path, capsys, file):
    write_instruments(tmp_path)
    (tmp_path / 'masks/video_01' / file).write_text('no')
    assert evaluate(tmp_path, '--instruments') == 2
    assert file in capsys.readouterr().err


def test_rejects_masks_without_instruments(folders, capsys):
    assert evaluate(folders, '--instruments') == 2
    assert 'holds no video_*/instances/*.png' in capsys.readouterr().err


def test_rejects_a_report_of_instruments(tmp_path, capsys):
    assert evaluate(tmp_path, '--instruments', '--report', str(tmp_path)) == 2
    assert 'leave them out' in capsys.readouterr().err
