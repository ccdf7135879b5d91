# SPDX-License-Identifier: Apache-2.0
"""Mask files: each verb rejects invalid ones and names the file."""

import json
import shutil

import cv2
import numpy as np
import pytest
from verbs import verb

from surgseg_ros.evaluation.pairs import MaskError, read_mask, read_truth

evaluate, make_bag, inspect_data = verb('evaluate'), verb('make_bag'), verb('inspect_data')

MASK = np.zeros((24, 40), np.uint8)
MASK[4:9, 3:30] = 3
IMAGE = np.full((24, 40, 3), 90, np.uint8)
JPEG = cv2.imencode('.jpg', MASK)[1].tobytes()
TIMES_25 = cv2.imencode('.png', MASK * np.uint8(25))[1].tobytes()


def write_set(root, content=None):
    for name in ('video_01', 'video_02'):
        for kind, image in (('rgb', IMAGE), ('segmentation', MASK)):
            (root / name / kind).mkdir(parents=True)
            cv2.imwrite(str(root / name / kind / '000000060.png'), image)
    if content is not None:
        (root / 'video_02/segmentation/000000060.png').write_bytes(content)
    return root


def test_no_decision_is_allowed_only_in_predictions(tmp_path):
    cv2.imwrite(str(tmp_path / 'x.png'), MASK | np.uint8(255))
    assert read_mask(tmp_path / 'x.png').min() == 255
    with pytest.raises(MaskError, match=r'x\.png: holds the value 255, expected 0 to 9: write'):
        read_truth(tmp_path / 'x.png')


def test_many_values_are_counted(tmp_path):
    cv2.imwrite(str(tmp_path / 'x.png'), np.arange(256, dtype=np.uint8).reshape(16, 16))
    with pytest.raises(MaskError, match=r'values 10, 11, .*, 19 and 235 more, expected 0 to 9 or'):
        read_mask(tmp_path / 'x.png')


@pytest.mark.parametrize(
    ('content', 'expected'),
    [(JPEG, 'is JPEG data'), (TIMES_25, 'holds the value 75, expected 0 to 9')],
)
def test_each_verb_rejects_an_invalid_mask_by_name(tmp_path, capsys, content, expected):
    good, bad = write_set(tmp_path / 'good'), write_set(tmp_path / 'bad', content)
    named = f'{bad / "video_02/segmentation/000000060.png"}: {expected}'
    for truth, predictions in ((good, bad), (bad, good)):
        words = ['--reference', truth, '--predictions', predictions, '--json', tmp_path / 'x.json']
        assert evaluate([str(word) for word in words]) == 2
        assert named in capsys.readouterr().err
    assert make_bag(['--input', str(bad / 'video_02'), '--output', str(tmp_path / 'bag')]) == 2
    assert named in capsys.readouterr().err
    assert inspect_data(['--data', str(bad), '--json', str(tmp_path / 'y.json')]) == 1
    data_errors = json.loads((tmp_path / 'y.json').read_text())['faults']
    assert [error['name'] for error in data_errors] == ['video_02/000000060']
    assert named in data_errors[0]['what']


def test_case_of_names_is_ignored(tmp_path, capsys):
    plain, capitals = write_set(tmp_path / 'plain'), tmp_path / 'capitals'
    for video in plain.iterdir():
        folder = capitals / video.name.capitalize() / 'SEGMENTATION'
        folder.mkdir(parents=True)
        shutil.copy(video / 'segmentation/000000060.png', folder / '000000060.PNG')
    words = ['--reference', plain, '--predictions', capitals, '--json', tmp_path / 'x.json']
    assert evaluate([str(word) for word in words]) == 0
    summary = json.loads((tmp_path / 'x.json').read_text())
    assert (summary['score'], sorted(summary['videos'])) == (1, ['video_01', 'video_02'])
    shutil.copytree(capitals / 'Video_01', capitals / 'video_01')
    assert evaluate([str(word) for word in words]) == 2
    assert 'Video_01 and video_01: the names differ only in case' in capsys.readouterr().err
