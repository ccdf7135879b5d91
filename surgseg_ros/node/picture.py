# SPDX-License-Identifier: Apache-2.0
"""A frame that was read, what came before it, and what is odd about it; no ROS in here."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.detections import Instrument
from surgseg_ros.core.segmentation import Roi, Segmentation
from surgseg_ros.core.stopwatch import Stopwatch
from surgseg_ros.messages.results import stamp_ns
from surgseg_ros.node.health import Health
from surgseg_ros.node.mailbox import Frame

_JUMP_NS: Final = 10 * 10**9
"""Stamps that go ahead of the steady clock by more than this have jumped."""


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
        """Publish what is known of a picture; see Outputs."""

    def wants_confidence(self) -> bool:
        """Tell whether somebody listens to the confidence of each pixel."""


class Eye(NamedTuple):
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


class Doubt(NamedTuple):
    """
    Why the mask of a picture is not to be trusted.

    :param reason: for people.
    :param decided: whether there is a mask all the same; else there is no decision.
    :param cause: a short name of its kind, where the reason holds numbers that change.
    """

    reason: str
    decided: bool = True
    cause: str = ''


class Picture(NamedTuple):
    """A frame that was read, on its way."""

    frame: Frame
    eye: Eye
    header: Any
    image: NDArray[np.uint8]
    doubts: tuple[Doubt, ...]
    watch: Stopwatch


class Oddity(NamedTuple):
    """
    Something unusual about a picture, which is processed all the same.

    :param text: what it is.
    :param remedy: what can be done; also by what the oddity is known.
    :param doubtful: whether the mask is in doubt for it.
    :param anew: whether nothing that came before belongs to this picture.
    """

    text: str
    remedy: str
    doubtful: bool = False
    anew: bool = False


class Course:
    """What one camera sent before; forgotten with each activation and each jump of its clock."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._generation = -1
        self._size: tuple[int, int] | None = None
        self._stamp_ns: int | None = None
        self._received_ns = 0

    def follow(self, frame: Frame, header: Any, size: tuple[int, int]) -> list[Oddity]:
        """
        Go on by a picture.

        :param frame: as it came.
        :param header: std_msgs/Header.
        :param size: (H, W) of the picture in pixels.
        :return: what is odd about it after what came before.
        """
        if frame.generation != self._generation:
            self._generation = frame.generation
            self._size = self._stamp_ns = None
        now_ns = stamp_ns(header)
        elapsed_ns = frame.received_ns - self._received_ns
        found = [_oddity_of_size(self._size, size), _oddity(self._stamp_ns, now_ns, elapsed_ns)]
        self._size, self._stamp_ns, self._received_ns = size, now_ns, frame.received_ns
        return [oddity for oddity in found if oddity is not None]


def _oddity_of_size(before: tuple[int, int] | None, now: tuple[int, int]) -> Oddity | None:
    if before is None or before == now:
        return None
    text = f'pictures change from {before[1]}x{before[0]} to {now[1]}x{now[0]} pixels'
    return Oddity(text, 'masks follow', anew=True)


def _oddity(before_ns: int | None, now_ns: int, elapsed_ns: int) -> Oddity | None:
    """Say what is odd about a stamp after another."""
    if now_ns == 0:
        return Oddity('the stamp is zero', 'let the camera driver set header.stamp', doubtful=True)
    if before_ns is None:
        return None
    if now_ns == before_ns:
        text = f'two images have the same stamp {now_ns} ns'
        return Oddity(text, 'check the camera driver', doubtful=True)
    remedy = 'expected where a bag or a simulation begins anew, else look for a second publisher'
    # A new beginning is no fault of the picture.
    if now_ns < before_ns:
        return Oddity(f'stamps go back from {before_ns} to {now_ns} ns', remedy, anew=True)
    if before_ns and now_ns - before_ns > elapsed_ns + _JUMP_NS:
        text = f'stamps jump ahead from {before_ns} to {now_ns} ns'
        return Oddity(text, remedy + ', or set the clock before the camera starts', anew=True)
    return None
