# SPDX-License-Identifier: Apache-2.0
"""The benchmark of damaged JPEGs: each kind is tried, and rejections are counted."""

import cv2
import numpy as np
import pytest

from surgseg_ros.evaluation.frames import write_png
from tools.benchmarks import jpeg_damage
from tools.benchmarks.jpeg_damage import DAMAGES, main


def test_each_kind_has_its_row(tmp_path, capsys, monkeypatch):
    (tmp_path / 'video_01/rgb').mkdir(parents=True)
    for number in (0, 60):
        noise = np.random.default_rng(number).integers(0, 256, (90, 160, 3), np.uint8)
        image = cv2.GaussianBlur(noise, (5, 5), 2)
        write_png(tmp_path / f'video_01/rgb/{number:09d}.png', image)
    monkeypatch.setattr(jpeg_damage, 'SIZES', ((320, 240),))
    assert main(['--data', str(tmp_path), '--cases', '3']) == 0
    rows = [line.split(' | ') for line in capsys.readouterr().out.splitlines()]
    refused = {row[0].lstrip('| '): row[1] for row in rows if len(row) == 3}
    assert set(DAMAGES) < set(refused)
    assert refused['end marker too soon'] == '100.0%'
    assert refused['last scans lost'] == '100.0%'
    assert rows[-1][0].startswith('1920x1080')


def test_reports_missing_frames(tmp_path, capsys):
    assert main(['--data', str(tmp_path)]) == 2
    assert 'no video' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('wrong', 'row'),
    [([None, None], '| k | 100.0% |  |'), ([None, 0.5], '| k | 50.0% | 50.0%, 50.0% |')],
)
def test_a_row_of_the_table(wrong, row):
    assert jpeg_damage._row('k', wrong) == row
