# SPDX-License-Identifier: Apache-2.0
"""A frame that was read, and the camera that it is of; no ROS in here."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.detections import Instrument
from surgseg_ros.core.pipeline import InputFrame
from surgseg_ros.core.segmentation import Roi, Segmentation
from surgseg_ros.core.stopwatch import Stopwatch
from surgseg_ros.node.health import Health
from surgseg_ros.node.mailbox import Frame


class Sink(Protocol):
    """Where results go."""

    def topics(self) -> list[str]:
        """Name the topics that are offered, `status` apart; relative names."""

    def publish(
        self,
        header: Any,
        image: NDArray[np.uint8],
        segmentation: Segmentation,
        instruments: Sequence[Instrument],
        raw: NDArray[np.uint8] | None = None,
    ) -> None:
        """Publish what is known of an image; see Outputs."""

    def wants_confidence(self) -> bool:
        """Tell whether somebody listens to the confidence of each pixel."""


class CameraChannel(NamedTuple):
    """One camera as the worker sees it."""

    name: str
    type_name: str
    roi: Roi | None
    health: Health
    outputs: Sink

    @property
    def prefix(self) -> str:
        """What a line of the log begins with."""
        return f'{self.name}: ' if self.name else ''


class ReceivedImage(NamedTuple):
    """
    A frame that was read, on its way.

    :param frame: as it came.
    :param channel: its camera.
    :param header: std_msgs/Header.
    :param input: what goes into the pipeline.
    :param watch: runs from the start of reading.
    """

    frame: Frame
    channel: CameraChannel
    header: Any
    input: InputFrame
    watch: Stopwatch
