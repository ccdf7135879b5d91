# SPDX-License-Identifier: Apache-2.0
"""Smooth motion as a function of time alone, so that any frame can be drawn without the others."""

import math

from numpy.random import Generator


class Wander:
    """
    A value that drifts smoothly between two bounds.

    :param rng: where its amplitudes, periods and phases come from.
    :param low: the least value.
    :param high: the greatest value.
    :param period_s: about how long it takes to go there and back.
    """

    def __init__(self, rng: Generator, low: float, high: float, period_s: float = 6.0) -> None:
        self._middle = (low + high) / 2
        self._extent = (high - low) / 2
        self._waves = [
            (weight, 2 * math.pi / (period_s * spread), float(rng.uniform(0, 2 * math.pi)))
            for weight, spread in (
                (0.6, float(rng.uniform(0.8, 1.4))),
                (0.3, float(rng.uniform(0.4, 0.6))),
                (0.1, float(rng.uniform(0.18, 0.25))),
            )
        ]

    def __call__(self, time_s: float) -> float:
        """Return the value at a time."""
        waves = sum(
            weight * math.sin(rate * time_s + phase) for weight, rate, phase in self._waves
        )
        return self._middle + self._extent * waves


def still(rng: Generator, low: float, high: float, share: float, period_s: float = 8.0) -> Wander:
    """
    Choose a value between two bounds, about which only a share of the range is wandered.

    :param rng: where the choice comes from.
    :param low: the least value.
    :param high: the greatest value.
    :param share: how much of the range the motion takes, 0 to 1.
    :param period_s: about how long it takes to go there and back.
    :return: the moving value.
    """
    extent = (high - low) * share / 2
    middle = float(rng.uniform(low + extent, high - extent))
    return Wander(rng, middle - extent, middle + extent, period_s)
