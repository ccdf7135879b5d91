# SPDX-License-Identifier: Apache-2.0
"""Calibration files: written files can be read back, and invalid files are rejected."""

import numpy as np
import pytest

from surgseg_ros.core.stereo_calibration import (
    StereoError,
    calibration_yaml,
    read_calibration,
    read_stereo_calibration,
)
from surgseg_ros.synthetic.camera import camera_infos
from surgseg_ros.synthetic.drawing import View

INFOS = camera_infos(View(180, 320))
TEXTS = [calibration_yaml(info, name) for info, name in zip(INFOS, ('left', 'right'))]


@pytest.fixture
def write(tmp_path):
    def write(text, name='camera_info.yaml'):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def test_written_file_is_read_back(write):
    read = read_calibration(write(TEXTS[1]))
    assert (read.size, read.model, read.is_part) == ((180, 320), 'plumb_bob', False)
    for name in ('d', 'k', 'r', 'p'):
        np.testing.assert_array_equal(getattr(read, name), getattr(INFOS[1], name))


def test_reads_a_file_of_camera_calibration(write):
    text = """image_width: 320
image_height: 180
camera_name: left
camera_matrix:
  rows: 3
  cols: 3
  data: [250.0, 0., 160., 0., 251., 90., 0., 0., 1.]
distortion_model: plumb_bob
distortion_coefficients: {rows: 1, cols: 5, data: [-0.3, 1e-05, 0, 0, 0]}
rectification_matrix: {rows: 3, cols: 3, data: [1, 0, 0, 0, 1, 0, 0, 0, 1]}
projection_matrix:
  rows: 3
  cols: 4
  data: [250.0, 0., 160., -1.1, 0., 250., 90., 0., 0., 0., 1., 0.]
"""
    read = read_calibration(write(text))
    assert read.d.tolist() == [-0.3, 1e-5, 0, 0, 0]
    assert read.p[0, 3] == -1.1
    assert read.k[1, 1] == 251


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('', 'is not a calibration'),
        ('[]', 'is not a calibration'),
        ('{: [', 'is not a calibration'),
        (TEXTS[0].replace('image_width: 320', 'image_width: wide'), 'expected whole numbers'),
        (TEXTS[0].replace('cols: 4, data: [', 'cols: 4, data: [0, '), 'is not a calibration'),
        (TEXTS[0].replace('camera_matrix', 'matrix'), "without 'camera_matrix'"),
        (TEXTS[0] + 'more: ' + 100_000 * 'x', 'more than 100000 bytes'),
        ('a: &a [1]\nb: *a\n', 'aliases'),
        ('a: ' + 4000 * '[', 'is not a calibration'),
    ],
)
def test_rejects_a_file_that_is_not_a_calibration(write, text, expected):
    path = write(text)
    with pytest.raises(StereoError, match=f'{path.name}: .*{expected}'):
        read_calibration(path)


def test_rejects_a_missing_file_and_a_pair_without_a_baseline(write, tmp_path):
    with pytest.raises(StereoError, match='cannot be read'):
        read_calibration(tmp_path / 'none.yaml')
    first, second = write(TEXTS[0]), write(TEXTS[0], 'second.yaml')
    with pytest.raises(StereoError, match=r'second\.yaml: .*no baseline'):
        read_stereo_calibration(first, second)
    second = write(TEXTS[1], 'second.yaml')
    assert read_stereo_calibration(first, second).baseline_m == pytest.approx(0.0045)
