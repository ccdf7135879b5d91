# SPDX-License-Identifier: Apache-2.0
"""A data set small enough to train on quickly."""

from pathlib import Path

import cv2
import numpy as np
import pytest


def write_frame(video: Path, index: int, name: str = 'rgb/{:09d}.png') -> None:
    """Write a gray image with a bright bar, which is a shaft in the truth."""
    rng = np.random.default_rng(index)
    image = rng.integers(60, 90, (48, 80, 3), np.uint8)
    mask = np.zeros((48, 80), np.uint8)
    left = int(rng.integers(5, 50))
    image[10:40, left : left + 20] = 220
    mask[10:40, left : left + 20] = 3
    for path, array in (
        (video / name.format(index), image),
        (video / 'segmentation' / f'{index:09d}.png', mask),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), array)


@pytest.fixture
def recipe() -> str:
    """Return YAML settings for a small model and four steps."""
    return """
intended_use: demo
encoder: tu-resnet18
options: {encoder_depth: 3, decoder_channels: [16, 8, 8]}
input_size: [64, 96]
crop_size: [64, 64]
validation_share: 0.3
batch_size: 2
steps: 4
validate_every: 2
warm_up_steps: 1
device: cpu
"""


@pytest.fixture(autouse=True)
def always_one_thread(one_thread: None) -> None:
    """Train with one thread."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for video in ('video_01', 'video_02', 'video_03'):
        for index in (0, 60):
            write_frame(tmp_path / 'data' / video, index)
    return tmp_path / 'data'


@pytest.fixture
def longer(data: Path) -> Path:
    """Return the data set with two more frames in two of the videos."""
    for video in ('video_01', 'video_02'):
        for index in (120, 180):
            write_frame(data / video, index)
    return data
