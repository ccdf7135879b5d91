# SPDX-License-Identifier: Apache-2.0
"""
Bootstrap intervals for a mean over bags, which account for the correlation of frames.

Consecutive frames of a recording are nearly identical, so they are not resampled individually:

- within a bag, circular blocks of consecutive frames are resampled (Politis and Romano 1992, after
  the moving blocks of Künsch 1989), with a length chosen from the data (Politis and White 2004,
  with the correction of Patton, Politis and White 2009);
- over many bags, whole bags are resampled, nothing within them (Davison and Hinkley 1997, 3.8);
- over few bags, resampling bags does not estimate the variation between bags. Then the bags are
  fixed, and their blocks are resampled: the interval holds for other parts of these recordings.

The percentiles are further out than the nominal confidence, since a few bags or blocks vary less
than the population (Hesterberg 2015, the expanded percentile).

`scipy.stats.bootstrap` is not used: it resamples single observations, neither blocks nor bags.
"""

import math
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

CONFIDENCE: Final = 0.95
RESAMPLES: Final = 4000
SEED: Final = 20_260_101

MANY_BAGS: Final = 6
"""
Minimum number of bags that are resampled. The median of the population lies between the smallest
and the largest of n bags with a probability of 1 - 2^(1-n), which first exceeds 0.95 for six.
"""

_MAX_BLOCKS: Final = 200
"""Maximum number of blocks of a bag: more take time and do not improve the interval."""

_MIN_FRAMES: Final = 9
"""Minimum number of frames, from which the range of their correlation can be estimated."""

_AT_ONCE: Final = 250
"""Number of resamples that are summed in one step, to limit memory."""

Array = NDArray[np.float64]
Statistic = Callable[[Array], Array]
"""Computes (…, S) statistics from (…, C) means of columns; NaN for a missing value."""


class Interval(NamedTuple):
    """The estimate of a statistic, and the ends of its interval; NaN for a missing value."""

    estimate: Array
    low: Array
    high: Array


def block_length(series: Array) -> int:
    """
    Choose the length of blocks by the autocorrelation of the data.

    :param series: (N, K) values of consecutive frames; the longest length of the K is used.
    :return: frames in a block, 1 to N.
    """
    count = len(series)
    longest = max(1, math.ceil(min(3 * math.sqrt(count), count / 3)))
    wanted = max(map(_block_length, series.T)) if count >= _MIN_FRAMES else longest
    return max(min(math.ceil(wanted), longest), math.ceil(count / _MAX_BLOCKS))


def _block_length(series: Array) -> float:
    """Implement Politis and White, section 3.2: flat-top window as wide as the autocorrelation."""
    count = len(series)
    centred = series - series.mean()
    spectrum = np.abs(np.fft.rfft(centred, 2 * count)) ** 2
    covariances = np.fft.irfft(spectrum)[:count] / count
    if covariances[0] <= np.finfo(float).eps:
        return 1.0
    patience = max(5, math.ceil(math.log10(count)))
    maximum = min(math.ceil(math.sqrt(count)) + patience, count - 1)
    limit = 2 * math.sqrt(math.log10(count) / count)
    small = np.abs(covariances[1 : maximum + 1] / covariances[0]) < limit
    quiet = np.convolve(small, np.ones(patience), 'valid') == patience
    memory = np.argmax(quiet) if quiet.any() else np.flatnonzero(~small)[-1] + 1
    width = 2 * max(int(memory), 1)
    lags = np.arange(1, min(width, maximum) + 1)
    window = np.clip(2 * (1 - lags / width), 0, 1)
    weighted = window * covariances[lags]
    density = covariances[0] + 2 * weighted.sum()
    if density <= 0:
        return 1.0
    slope = 2 * (lags * weighted).sum()
    return float((1.5 * (slope / density) ** 2 * count) ** (1 / 3))


class Drawn(NamedTuple):
    """
    A bag and its resamples.

    :param means: (C,) means of the columns.
    :param draws: (R, C) means of each resample.
    :param blocks: number of blocks in a resample.
    """

    means: Array
    draws: Array
    blocks: int


def draw_bag(
    frames: Array, length: int, rng: np.random.Generator, resamples: int = RESAMPLES
) -> Drawn:
    """
    Resample a bag's frames, in blocks.

    :param frames: (N, C) columns of consecutive frames.
    :param length: frames in a block, see `block_length`.
    :param rng: source of random numbers.
    :param resamples: number of resamples, R.
    :return: the bag with its means.
    """
    count = len(frames)
    blocks = math.ceil(count / length)
    rest = count - (blocks - 1) * length  # the last block is shortened to N frames in total
    sums = np.cumsum(np.concatenate((np.zeros_like(frames[:1]), frames, frames[:length])), 0)
    whole, last = (sums[size:][:count] - sums[:count] for size in (length, rest))
    starts = rng.integers(count, size=(resamples, blocks))
    drawn = last[starts[:, 0]]
    for at in range(0, resamples, _AT_ONCE):
        drawn[at : at + _AT_ONCE] += whole[starts[at : at + _AT_ONCE, 1:]].sum(1)
    return Drawn(frames.mean(0), drawn / count, blocks)


def interval_over_bags(
    bags: Sequence[Drawn], statistic: Statistic, rng: np.random.Generator
) -> Interval:
    """
    Compute the interval of a statistic of the mean over bags.

    :param bags: one or more.
    :param statistic: computes the statistics from means.
    :param rng: source of random numbers.
    :return: (S,) each.
    """
    means = np.stack([bag.means for bag in bags])
    if are_many(len(bags)):
        picked = rng.integers(len(bags), size=(len(bags[0].draws), len(bags)))
        drawn, pieces = means[picked].mean(1), len(bags)
    else:
        drawn = np.mean([bag.draws for bag in bags], 0)
        pieces = sum(bag.blocks for bag in bags)
    values, estimate = statistic(drawn), statistic(means.mean(0))
    lost = np.isnan(values).all(0) | np.isnan(estimate)
    tail = _tail(pieces)
    # A resample may lack a class; only resamples that have it are used.
    low, high = np.nanquantile(np.where(lost, 0, values), (tail, 1 - tail), 0)
    return Interval(*(np.where(lost, np.nan, value) for value in (estimate, low, high)))


def are_many(bags: int) -> bool:
    """
    Return whether bags are resampled, or blocks of their frames.

    :param bags: number of bags.
    :return: True for bags.
    """
    return bags >= MANY_BAGS


def _tail(pieces: int) -> float:
    """Expand the percentiles, more for fewer pieces: Hesterberg 2015, section 5.3."""
    pieces = max(pieces, MANY_BAGS)
    spread = math.sqrt(pieces / (pieces - 1)) * stdtrit(pieces - 1, (1 + CONFIDENCE) / 2)
    return float(ndtr(-spread))
