# SPDX-License-Identifier: Apache-2.0
"""A data set small enough to train on quickly."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch


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


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread: for images this small several are slower, above all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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
