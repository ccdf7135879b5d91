# SPDX-License-Identifier: Apache-2.0
"""How threads of the network wait for one another; light to import."""

import os
from typing import Final

_SPINS: Final = '2000'
"""Turns of the loop, to bridge the gaps inside a network; GNU OpenMP's own number is 300,000."""


def limit_spinning() -> None:
    """
    Leave the cores to others between two operations of torch; before torch is imported.

    The threads of GNU OpenMP, torch's on Linux, wait for milliseconds in a busy loop by default.
    On two cores they took these from OpenVINO's threads, from DDS and from what reads and writes
    bags: 1080p over DDS took 27.5 ms at the median and 41 at the 99th percentile, and 24.6 and 30
    so. Torch alone loses about three hundredths. What the environment says stays.
    """
    if 'OMP_WAIT_POLICY' not in os.environ:
        os.environ.setdefault('GOMP_SPINCOUNT', _SPINS)
