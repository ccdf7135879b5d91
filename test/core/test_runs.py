# SPDX-License-Identifier: Apache-2.0
"""Regions of runs are the connected components that OpenCV finds."""

import cv2
import numpy as np
import pytest

from surgseg_ros.core.runs import MAX_RUNS, connect, find_runs, without_noise
from surgseg_ros.synthetic import Scene

TABLE = np.arange(256, dtype=np.uint8)
TABLE[2], TABLE[255] = 1, 0  # 1 and 2 are of one kind, 255 of none


def regions_of(mask: np.ndarray) -> np.ndarray:
    """(H, W) index of each pixel's region, or -1."""
    runs = find_runs(mask, TABLE)
    regions = connect(runs, (mask.shape[0], mask.shape[1]))
    drawn = np.full(mask.shape, -1)
    for row, start, end, region in zip(runs.rows, runs.starts, runs.ends, regions, strict=True):
        assert (drawn[row, start:end] == -1).all()
        drawn[row, start:end] = region
    return drawn


def assert_same_as_opencv(mask: np.ndarray) -> None:
    drawn, kinds = regions_of(mask), TABLE[mask]
    assert np.array_equal(drawn == -1, kinds == 0)
    for kind in np.unique(kinds[kinds > 0]):
        selected = kinds == kind
        count, expected = cv2.connectedComponents(selected.view(np.uint8), connectivity=8)
        pairs = set(zip(drawn[selected].tolist(), expected[selected].tolist(), strict=True))
        assert len(pairs) == count - 1  # one-to-one: as many pairs as regions
        assert len({first for first, _ in pairs}) == count - 1


@pytest.mark.parametrize('size', [(1, 1), (1, 60), (60, 1), (2, 2), (17, 23), (90, 160)])
@pytest.mark.parametrize('classes', [2, 3, 11])
def test_regions_of_noise(size: tuple[int, int], classes: int) -> None:
    rng = np.random.default_rng([*size, classes])
    for _ in range(5):
        mask = rng.integers(0, classes, size, dtype=np.uint8)
        mask[rng.random(size) < 0.1] = 255
        assert_same_as_opencv(mask)


def test_a_spiral_is_one_region() -> None:
    mask = np.zeros((61, 61), np.uint8)
    corners = []
    for k in range(0, 28, 2):
        corners += [(k - 2 if k else 0, k), (60 - k, k), (60 - k, 60 - k), (k, 60 - k)]
    cv2.polylines(mask, [np.array(corners, np.int32)], isClosed=False, color=5)
    assert_same_as_opencv(mask)
    assert len(np.unique(regions_of(mask))) == 2


def test_regions_of_combs_whose_teeth_meet_only_at_the_end() -> None:
    mask = np.zeros((40, 99), np.uint8)
    mask[:, ::2] = 4
    mask[-1, :49], mask[-1, 50:] = 4, 4
    assert_same_as_opencv(mask)
    assert len(np.unique(regions_of(mask))) == 3


def test_the_end_of_a_row_does_not_touch_the_start_of_the_next() -> None:
    mask = np.zeros((3, 7), np.uint8)
    mask[0, 6] = mask[1, 0] = mask[2, 6] = 3
    assert len(np.unique(regions_of(mask))) == 4


def test_values_of_one_kind_are_one_run() -> None:
    runs = find_runs(np.array([[1, 2, 1, 0, 2], [1, 1, 3, 255, 3]], np.uint8), TABLE)
    rows = [(0, 0, 3, 1), (0, 4, 5, 1), (1, 0, 2, 1), (1, 2, 3, 3), (1, 4, 5, 3)]
    assert [*zip(runs.rows, runs.starts, runs.ends, runs.kinds, strict=True)] == rows
    assert runs.lengths.tolist() == [3, 1, 2, 1, 1]
    assert runs.take(np.array([3, 0])).starts.tolist() == [2, 0]


@pytest.mark.parametrize('block', [1, 2, 3, 5])
def test_in_noise_runs_are_limited_and_thick_regions_are_kept(block: int) -> None:
    rng = np.random.default_rng(block)
    small = rng.integers(0, 10, (1080 // block, 1920 // block), dtype=np.uint8)
    mask = np.kron(small, np.ones((block, block), np.uint8))
    mask[300:500, 400:900] = 3
    kept = without_noise(mask)
    assert len(find_runs(kept, np.arange(256, dtype=np.uint8)).rows) < 1.1 * MAX_RUNS
    assert not kept[kept != mask].any()
    assert np.mean(kept[300:500, 400:900] == 3) > 0.9


def test_a_mask_of_instruments_is_not_treated_as_noise() -> None:
    mask = Scene(3, (180, 320)).frame(2).mask
    assert without_noise(mask) is mask
