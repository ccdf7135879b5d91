# SPDX-License-Identifier: Apache-2.0
"""What all tests share: DDS on this machine, in the run's own domain, and videos to decode."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
os.environ.setdefault('ROS_DOMAIN_ID', str(os.getpid() % 100 + 1))


@pytest.fixture
def write_video() -> Callable[[Path, int], None]:
    """Give a function that writes a video of so many frames; `frame_number` reads them."""
    import cv2
    import numpy as np

    def write(path: Path, count: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 60, (80, 48))
        for index in range(count):
            image = np.full((48, 80, 3), 40, np.uint8)
            for bit in range(8):
                image[:, 10 * bit : 10 * bit + 10] += np.uint8(160 * (index >> bit & 1))
            writer.write(image)
        writer.release()

    return write


@pytest.fixture
def frame_number() -> Callable[..., int]:
    """Give a function that finds the number of a frame that `write_video` wrote."""
    return lambda image: sum(1 << bit for bit in range(8) if image[24, 10 * bit + 5].mean() > 120)
