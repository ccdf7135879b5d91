# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from drawn_masks import bar, empty

from surgseg_ros.core.labels import CLASPER, NEEDLE, SHAFT, SUCTION, THREAD, WRIST
from surgseg_ros.core.parts import Part, find_parts, sample_grid


@pytest.mark.parametrize('block_px', [1, 16, 64])
def test_in_noise_no_parts_are_examined(block_px):
    blocks = np.random.default_rng(3).integers(0, 10, (1080, 1920), dtype=np.uint8)
    noise = np.kron(blocks[: 1080 // block_px, : 1920 // block_px], np.ones((block_px,) * 2))
    grid = sample_grid(noise.astype(np.uint8), 4)
    assert not find_parts(grid, (SHAFT, WRIST, CLASPER), 4)


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


@pytest.mark.parametrize(('label', 'count'), [(NEEDLE, 1), (THREAD, 1), (SUCTION, 2), (0, 2)])
def test_a_needle_or_a_thread_cuts_no_part_in_two(label, count):
    mask = bar(empty(), (-20, 130), (400, 130), 40, WRIST)
    bar(mask, (200, 0), (220, 269), 6, label)
    parts = find_parts(mask, (WRIST,), 1)
    assert len(parts) == count
    own = np.concatenate([part.points for part in parts]).astype(int)
    assert len(own) == np.count_nonzero(mask == WRIST)
    assert (mask[own[:, 1], own[:, 0]] == WRIST).all()


def test_points_at_the_edge_of_a_part_lack_a_neighbour():
    mask = bar(empty(), (-20, 130), (400, 130), 40, SHAFT)
    (part,) = find_parts(mask, (SHAFT,), 1)
    computed = Part(SHAFT, part.points, 1).rim
    np.testing.assert_array_equal(part.rim, computed)
