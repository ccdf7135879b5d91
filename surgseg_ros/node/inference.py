# SPDX-License-Identifier: Apache-2.0
"""Runs the network, retries where the machine fails, then asks for a fallback."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.errors import describe, is_of_machine
from surgseg_ros.core.segmentation import Roi, Segmentation
from surgseg_ros.core.system import empty_device_cache

if TYPE_CHECKING:
    from surgseg_ros.core.segmenter import Segmenter

Result = Segmentation | Exception


class Input(NamedTuple):
    """
    What the network gets of a camera.

    :param image: (H, W, 3) uint8 RGB.
    :param roi: the part to look at; None: all of it.
    """

    image: NDArray[np.uint8]
    roi: Roi | None


class FallbackHandler(Protocol):
    """Who is told that the machine fails."""

    def fall_back(self, error: Exception) -> bool:
        """
        Start to get another way to run the network.

        :param error: raised even at the second attempt.
        :return: whether one is on its way; until it is there, an attempt makes no sense.
        """

    def disable_batching(self, reason: str) -> None:
        """Note that images are segmented one by one from now on."""


class Inference:
    """
    Segments images with one model; for one thread.

    :param segmenter: the model.
    :param fallback: told of failures.
    """

    def __init__(self, segmenter: Segmenter, fallback: FallbackHandler) -> None:
        """Start with the batch size that the model takes."""
        self.segmenter = segmenter
        self.max_batch_size = segmenter.max_batch_size
        self._fallback = fallback
        self._failed: Exception | None = None

    def segment(self, inputs: Sequence[Input], confidence: bool = False) -> list[Result]:
        """
        Segment a batch; where that fails, each image by itself, to find which one is at fault.

        :param inputs: of different cameras, or none.
        :param confidence: whether that of each pixel is needed, not of the network's grid alone.
        :return: for each its segmentation, or the error.
        """
        if not inputs:
            return []
        if self._failed is not None:
            return [self._failed] * len(inputs)
        try:
            return self._try(lambda: self._run(inputs, confidence))
        except Exception as error:  # of the network, the device, a roi beyond the image
            if len(inputs) > 1:
                results = [result for one in inputs for result in self.segment([one], confidence)]
                self._check_batching(error, results)
                return results
            if is_of_machine(error) and self._fallback.fall_back(error):
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

    def _run(self, inputs: Sequence[Input], confidence: bool) -> list[Result]:
        images, rois = [x.image for x in inputs], [x.roi for x in inputs]
        wanted = {'confidence': confidence, 'grid_confidence': True}
        return list(self.segmenter.segment_all(images, rois, **wanted))

    def _check_batching(self, error: Exception, results: Sequence[Result]) -> None:
        """Stay with single images, where these succeed and a batch does not."""
        if is_of_machine(error) and not any(isinstance(one, Exception) for one in results):
            self.max_batch_size = 1
            self._fallback.disable_batching(f'pictures go through one by one: {describe(error)}')
