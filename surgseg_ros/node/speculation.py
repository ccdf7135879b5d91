# SPDX-License-Identifier: Apache-2.0
"""Speculative work: what a GPU begins with before it is taken from the mailbox."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from surgseg_ros.node.health import Frame
    from surgseg_ros.node.result_publisher import ReceivedImage
    from surgseg_ros.node.worker import Inference, Result

PAUSE: Final = 60
"""Number of batches without speculation after it was in vain, which made the next mask later."""


class Speculation(NamedTuple):
    """
    Frames in the mailbox that a GPU already works on, while the CPU finds instruments.

    If the mailbox then gives exactly these frames, their mask is there; if it gives newer ones,
    this work is forgotten. So what is published does not depend on it, only when. What depends on
    earlier images (gates, filter, a roi that is found) waits until the frames are taken.

    :param frames: as the mailbox would have given them.
    :param images: the images in them.
    :param confidence: whether the confidence of each pixel is computed.
    :param results: returned by `Inference.begin`.
    :param inference: returns the inference, unless it is gone.
    """

    frames: tuple[Frame, ...]
    images: tuple[ReceivedImage, ...]
    confidence: bool
    results: Callable[[], list[Result]]
    inference: Callable[[], Inference | None]

    def is_for(self, frames: Sequence[Frame]) -> bool:
        """
        Return whether the mailbox gave these frames.

        :param frames: what it gave.
        :return: True if they are the same objects.
        """
        return [*map(id, frames)] == [*map(id, self.frames)]

    def results_for(
        self, batch: Sequence[ReceivedImage], confidence: bool, inference: Inference
    ) -> Callable[[], list[Result]] | None:
        """
        Return the results if they are what is needed now.

        :param batch: some of the images.
        :param confidence: whether the confidence of each pixel is needed.
        :param inference: the inference in use.
        :return: a function that waits for them; None if they are not.
        """
        is_all = len(batch) == len(self.images)
        if is_all and confidence == self.confidence and self.inference() is inference:
            return self.results
        return None
