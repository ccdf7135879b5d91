# SPDX-License-Identifier: Apache-2.0
"""Plots over time: many frames are reduced to few bins, and no dip is lost."""

import base64
import re

import cv2
import numpy as np
import pytest

from surgseg_ros.reports.timeline import Bins, Curve, Panel, Row, timeline


def draw(values, at=None, rows=(), **of_panel):
    at = np.arange(float(len(values))) if at is None else at
    panel = Panel('score', 100, [Curve('IoU', values, '#ff0000')], **of_panel)
    return timeline(at, [panel], rows, 'a recording', 'frame')


def lines(drawn):
    """List the points of the red lines, in pixels."""
    paths = re.findall(r'<path d="([^"]*)"[^>]*stroke: #ff0000', drawn)
    return [np.array(re.findall(r'[ML] (\S+) (\S+)', path), float) for path in paths]


def images(drawn):
    """Decode the embedded images: (H, W, 4), at twice the resolution."""
    for data in re.findall(r'data:image/png;base64,([^"]+)"', drawn):
        buffer = np.frombuffer(base64.b64decode(data), np.uint8)
        yield cv2.imdecode(buffer, cv2.IMREAD_UNCHANGED)


def test_a_dip_of_one_frame_in_many_is_visible_and_described():
    values = 0.9 - np.arange(50_000) % 3 / 100
    values[25_000] = 0.1
    drawn = draw(values)
    (band,) = images(drawn)
    rows = np.flatnonzero(band[..., 3].any(1))
    assert np.ptp(rows) == pytest.approx(2 * 100 * 0.8, abs=3)
    assert 'IoU: 0.890 on average, minimum 0.100 at frame 25000.' in drawn


def test_the_size_does_not_grow_with_the_frames():
    rng = np.random.default_rng(0)
    few, many = (
        len(draw(rng.random(n), rows=[Row('class', [(rng.integers(0, 2, n) * 1.0, '#00f')])]))
        for n in (1_000, 100_000)
    )
    assert many < 1.2 * few < 120_000


def test_a_line_stops_at_a_gap_and_a_single_frame_is_a_dot():
    at = np.array([0.0, 1, 2, 20, 38, 39, 40])
    drawn = draw(np.array([0.5, 0.9, 0.5, 0.5, 0.5, 0.1, 0.5]), at)
    (path,) = re.findall(r'<path d="([^"]*)"[^>]*stroke: #ff0000', drawn)
    assert [len(run.split('L')) for run in path.split('M')[1:]] == [3, 1, 3]
    (dot,) = re.findall('<use [^>]*x="([^"]*)"[^>]*fill: #ff0000', drawn)
    assert f'M {float(dot):.2f} ' in path


def test_one_frame_of_many_with_a_class_leaves_a_mark():
    shown = np.zeros(10_000)
    shown[5_000] = 1
    drawn = draw(np.full(10_000, 0.5), rows=[Row('class', [(shown, '#0000ff')])])
    (image,) = images(drawn)
    blue = image[..., 0].astype(int) - image[..., 2]
    columns = np.flatnonzero((blue > 60).any(0))
    assert columns.size >= 2
    assert columns.mean() == pytest.approx(image.shape[1] / 2, abs=8)


def test_the_axis_starts_at_the_given_value():
    drawn = draw(np.array([0.96, 0.97, 0.98]), low=0.95, ticks=(0.95, 1))
    heights = lines(drawn)[0][:, 1]
    assert heights[0] - heights[2] == pytest.approx(100 * 0.02 / 0.05, abs=0.1)
    assert '>0.95</text>' in drawn


@pytest.mark.parametrize('frames', [0, 5])
def test_bins_of_few_frames(frames):
    pieces = Bins(np.arange(float(frames)))
    assert len(pieces.mean(np.ones(frames))) == frames


def test_more_gaps_than_bins():
    """Then frames are divided evenly."""
    at = np.arange(2_000.0) + 100 * (np.arange(2_000) // 5)
    pieces = Bins(at, 480)
    assert len(pieces.left) == 480
    assert pieces.mean(np.ones(2_000)).tolist() == [1] * 480


def test_few_frames_are_not_binned():
    values = np.random.default_rng(0).random(20)
    pieces = Bins(np.arange(20.0), 480)
    assert pieces.mean(values) == pytest.approx(values)
    assert pieces.left.tolist() == list(range(20))


def test_bins_keep_the_mean_and_the_extremes():
    values = np.random.default_rng(0).random(10_000)
    values[1234], values[4321] = -5, 7
    pieces = Bins(np.arange(10_000.0), 480)
    low, high = pieces.range(values)
    assert len(low) == 480
    assert (low.min(), high.max()) == (-5, 7)
    assert np.argmin(low) == np.searchsorted(pieces.left, 1234, 'right') - 1
    assert pieces.mean(values).mean() == pytest.approx(values.mean(), abs=2e-3)


def test_no_bin_covers_a_gap():
    at = np.concatenate((np.arange(1000.0), 5000 + np.arange(1000.0)))
    pieces = Bins(at, 30)
    assert not ((pieces.left < 3000) & (pieces.right > 3000)).any()
    assert (pieces.right > pieces.left).all()
    assert (pieces.left[1:] >= pieces.right[:-1]).all()
