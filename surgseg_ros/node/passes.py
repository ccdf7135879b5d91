# SPDX-License-Identifier: Apache-2.0
"""Pictures through the network: once more where the machine fails, then in another way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from surgseg_ros.core.failures import describe, is_of_machine
from surgseg_ros.core.memory import empty_device_cache
from surgseg_ros.core.segmentation import Segmentation
from surgseg_ros.node.picture import Picture

if TYPE_CHECKING:
    from surgseg_ros.core.segmenter import Segmenter

Result = Segmentation | Exception


class Rescue(Protocol):
    """Who is told of a machine that fails."""

    def fall_back(self, error: Exception) -> bool:
        """
        Begin to get another way to run the network.

        :param error: what came even at the second try.
        :return: whether one is on its way; until then it makes no sense to try.
        """

    def halve(self, reason: str) -> None:
        """Note that pictures go through one by one from now on."""


class Passes:
    """
    Segments pictures by one model; its thread's own.

    :param segmenter: the model.
    :param rescue: told of what fails.
    """

    def __init__(self, segmenter: Segmenter, rescue: Rescue) -> None:
        """Begin with as many pictures in a pass as the model takes."""
        self.segmenter = segmenter
        self.most_pictures = segmenter.most_pictures
        self._rescue = rescue
        self._failed: Exception | None = None

    def segment(self, pictures: Sequence[Picture], confidence: bool = False) -> list[Result]:
        """
        Segment pictures in one pass; where that fails, each by itself, to find whose fault.

        :param pictures: of different cameras, or none.
        :param confidence: whether that of each pixel is needed, not of the network's grid alone.
        :return: a result for each, or what it failed by.
        """
        if not pictures:
            return []
        if self._failed is not None:
            return [self._failed] * len(pictures)
        try:
            return self._try(lambda: self._pass(pictures, confidence))
        except Exception as error:  # of the network, the device, a roi beyond the picture
            if len(pictures) > 1:
                results = [
                    result for one in pictures for result in self.segment([one], confidence)
                ]
                self._see_smaller(error, results)
                return results
            if is_of_machine(error) and self._rescue.fall_back(error):
                self._failed = error
            return [error]

    def _try(self, attempt: Callable[[], list[Result]]) -> list[Result]:
        """Try twice where it is the machine's fault."""
        try:
            return attempt()
        except Exception as error:
            if not is_of_machine(error):
                raise
        empty_device_cache()
        return attempt()

    def _pass(self, pictures: Sequence[Picture], confidence: bool) -> list[Result]:
        images, rois = [p.image for p in pictures], [p.eye.roi for p in pictures]
        wanted = {'confidence': confidence, 'certainty': True}
        return list(self.segmenter.segment_all(images, rois, **wanted))

    def _see_smaller(self, error: Exception, results: Sequence[Result]) -> None:
        """Stay with single pictures, where these go through and more of them do not."""
        if is_of_machine(error) and not any(isinstance(one, Exception) for one in results):
            self.most_pictures = 1
            self._rescue.halve(f'pictures go through one by one: {describe(error)}')
