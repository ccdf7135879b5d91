# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from surgseg_ros.core.labels import CLASPER, SHAFT, WRIST
from surgseg_ros.core.parts import find_parts, sample_grid


@pytest.mark.parametrize('block_px', [1, 64, 96])
def test_in_noise_few_parts_are_examined(block_px):
    blocks = np.random.default_rng(3).integers(0, 10, (1080, 1920), dtype=np.uint8)
    noise = np.kron(blocks[: 1080 // block_px, : 1920 // block_px], np.ones((block_px,) * 2))
    grid = sample_grid(noise.astype(np.uint8), 4)
    assert len(find_parts(grid, (SHAFT, WRIST, CLASPER), 4)) <= 40


def test_the_largest_parts_are_examined_in_the_order_of_the_classes():
    mask = np.zeros((1080, 1920), np.uint8)
    for number in range(45):
        row, column = divmod(number, 9)
        size = 60 + number
        label = (SHAFT, WRIST, CLASPER)[number % 3]
        mask[row * 200 : row * 200 + size, column * 200 : column * 200 + size] = label
    parts = find_parts(sample_grid(mask, 4), (SHAFT, WRIST, CLASPER), 4)
    assert [part.label for part in parts] == sorted(
        (part.label for part in parts), key=(SHAFT, WRIST, CLASPER).index
    )
    assert min(len(part.points) for part in parts) >= (65 // 8) ** 2
    assert len(parts) == 40
