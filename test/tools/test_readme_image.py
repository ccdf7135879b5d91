# SPDX-License-Identifier: Apache-2.0
"""The animation of the README: the unchanged input on the left, the overlay on the right."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from surgseg_ros.synthetic.scene import Scene
from tools import readme_image


def test_the_animation_shows_the_input_beside_the_overlay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / 'images' / 'overlay.webp'
    assert readme_image.main(['--frames', '2', '--output', str(path)]) == 0
    assert str(path) in capsys.readouterr().out
    height, width = readme_image.PANEL_SIZE
    with Image.open(path) as image:
        assert image.n_frames == 2
        assert image.info['loop'] == 0
        first = np.asarray(image.convert('RGB'))
    assert first.shape == (height, 2 * width + readme_image.GAP_PX, 3)
    scene = Scene(readme_image.SEED, readme_image.SIZE, readme_image.RATE_HZ).frame(0).image
    expected = cv2.resize(scene, (width, height), interpolation=cv2.INTER_AREA)
    left, right = first[:, :width], first[:, -width:]
    assert np.abs(left.astype(int) - expected).mean() < 8  # lossy compression
    assert np.abs(right.astype(int) - left).mean() > 8
