# SPDX-License-Identifier: Apache-2.0
"""Confidence intervals have the stated coverage, also for correlated frames."""

import numpy as np
import pytest
from scipy.stats import norm, t

from surgseg_ros.comparison import intervals

RESAMPLES = 500


def correlated(rng, frames, memory, bags=1):
    """Return frames of zero mean and unit variance, with autocorrelation `memory`."""
    steps = rng.normal(size=(frames + 100, bags))
    values = np.zeros_like(steps)
    for index in range(1, len(steps)):
        values[index] = memory * values[index - 1] + np.sqrt(1 - memory**2) * steps[index]
    return values[100:]


def same(means):
    return means


def hits(bags_of, draws=150):
    """Return how often the interval contains the true mean, which is 0."""
    rng = np.random.default_rng(1)
    found = 0
    for _ in range(draws):
        bags = [
            intervals.draw_bag(frames, length or intervals.block_length(frames), rng, RESAMPLES)
            for frames, length in bags_of(rng)
        ]
        low, high = intervals.interval_over_bags(bags, same, rng)[1:]
        found += low[0] <= 0 <= high[0]
    return found / draws


@pytest.mark.parametrize('memory', [0, 0.8])
def test_the_interval_of_one_bag_has_the_stated_coverage(memory):
    assert 0.89 <= hits(lambda rng: [(correlated(rng, 400, memory), None)]) <= 0.99


def test_resampling_single_frames_would_be_overconfident():
    assert hits(lambda rng: [(correlated(rng, 400, 0.8), 1)]) < 0.65


def test_with_many_bags_the_interval_is_over_bags():
    def bags(rng):
        return [(correlated(rng, 60, 0.5) + rng.normal(), None) for _ in range(8)]

    assert 0.89 <= hits(bags) <= 0.99


def test_with_few_bags_the_interval_is_over_their_frames():
    """Bags differ much, but vary little within themselves: the interval is narrow."""
    rng = np.random.default_rng(0)
    bags = [
        intervals.draw_bag(correlated(rng, 300, 0.5) * 0.01 + offset, 10, rng)
        for offset in range(intervals.MANY_BAGS)
    ]
    few = intervals.interval_over_bags(bags[:-1], same, rng)
    many = intervals.interval_over_bags(bags, same, rng)
    assert few.high - few.low < 0.01
    assert many.high - many.low > 1


def test_block_length_is_the_correlation_length():
    rng = np.random.default_rng(0)
    lengths = [
        np.mean([intervals.block_length(correlated(rng, 1000, memory)) for _ in range(20)])
        for memory in (0, 0.5, 0.9)
    ]
    assert lengths[0] < 8 < lengths[1] < 25 < lengths[2] < 95


@pytest.mark.parametrize('frames', [1, 2, 3, 4, 7, 500])
def test_any_bag_can_be_resampled(frames):
    rng = np.random.default_rng(0)
    values = np.column_stack((np.full(frames, 0.25), rng.random(frames)))
    length = intervals.block_length(values)
    drawn = intervals.draw_bag(values, length, rng)
    assert 1 <= length <= frames
    assert drawn.means == pytest.approx(values.mean(0))
    assert drawn.draws.shape == (intervals.RESAMPLES, 2)
    assert drawn.draws[:, 0] == pytest.approx(0.25)
    assert drawn.draws[:, 1].mean() == pytest.approx(values[:, 1].mean(), abs=0.02)


def test_a_resample_has_as_many_frames_as_the_bag_in_blocks():
    frames = np.eye(7)
    drawn = intervals.draw_bag(frames, 3, np.random.default_rng(0), 1000).draws * 7
    assert drawn.sum(1) == pytest.approx(7)
    assert drawn == pytest.approx(np.rint(drawn))
    seen = {tuple(row) for row in np.rint(drawn).astype(int)}
    assert len(seen) > 100
    assert all(max(row) <= 3 for row in seen)


def test_a_statistic_undefined_in_some_resamples_uses_the_others():
    frames = np.zeros((40, 2))
    frames[3] = 0.5, 1
    rng = np.random.default_rng(0)
    bag = intervals.draw_bag(frames, 2, rng)

    def ratio(means):
        whole = means[..., 1:]
        return np.divide(means[..., :1], whole, out=np.full_like(whole, np.nan), where=whole > 0)

    found = intervals.interval_over_bags([bag], ratio, rng)
    assert np.array(found) == pytest.approx(0.5)
    nothing = intervals.draw_bag(np.zeros((40, 2)), 2, rng)
    assert np.isnan(intervals.interval_over_bags([nothing], ratio, rng)).all()


@pytest.mark.parametrize(('pieces', 'counted'), [(2, 6), (6, 6), (8, 8), (101, 101)])
def test_few_bags_or_blocks_widen_the_interval(pieces, counted):
    widened = np.sqrt(counted / (counted - 1)) * t.ppf(0.975, counted - 1)
    assert intervals._tail(pieces) == pytest.approx(norm.cdf(-widened))
