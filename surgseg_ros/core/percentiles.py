# SPDX-License-Identifier: Apache-2.0
"""How times are summed up, in /diagnostics and in benchmarks alike."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np


class Percentiles(NamedTuple):
    """
    Times summed up, in their own unit.

    :param p50: the median.
    :param p95: what 95 of 100 do not exceed.
    :param p99: what 99 of 100 do not exceed.
    """

    p50: float
    p95: float
    p99: float


def percentiles(values: Iterable[float]) -> Percentiles:
    """
    Sum up times, interpolating between neighbours.

    :param values: at least one.
    :return: the percentiles.
    :raises ValueError: if there is no value.
    """
    known = list(values)
    if not known:
        raise ValueError('there is nothing to sum up: no frame was measured')
    return Percentiles(*(float(value) for value in np.percentile(known, (50, 95, 99))))
