# SPDX-License-Identifier: Apache-2.0
"""Positions of pixels between the points of a grid."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from surgseg_ros.core.upsampling import make_axis_map


@pytest.mark.parametrize(
    ('pixels', 'points'),
    [(1920, 640), (1080, 384), (1000, 333), (64, 64), (7, 160), (9, 1), (1, 9)],
)
def test_weights_are_those_of_a_bilinear_resize(pixels: int, points: int) -> None:
    row = np.random.default_rng(0).random(points, np.float32)
    expected = F.interpolate(torch.from_numpy(row)[None, None], pixels, mode='linear')[0, 0]
    axis = make_axis_map(pixels, points)
    drawn = np.full(pixels, np.nan, np.float32)
    for interval in np.flatnonzero(axis.counts):
        start = axis.points[interval]
        first, second = row[start], row[start + axis.steps[interval]]
        drawn[axis.pixels[:, interval]] = first + axis.weights[:, interval] * (second - first)
    assert drawn == pytest.approx(
        expected.numpy(), abs=1e-4
    )  # torch computes positions in float32


def test_each_pixel_is_in_its_interval() -> None:
    axis = make_axis_map(1080, 384)
    assert axis.counts.sum() == 1080
    for interval, count in enumerate(axis.counts):
        assert set(axis.pixels[:, interval]) == set(np.flatnonzero(axis.intervals == interval))
        assert (axis.intervals == interval).sum() == count


def test_cells_contain_only_the_pixels_between_two_points() -> None:
    assert len(make_axis_map(1920, 640).pixels) == 3
    assert len(make_axis_map(1920, 192).pixels) == 10
