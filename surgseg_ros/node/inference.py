# SPDX-License-Identifier: Apache-2.0
"""Runs the network on a batch of images, and handles its failures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.errors import describe, is_of_machine
from surgseg_ros.core.processes import empty_device_cache
from surgseg_ros.core.segmentation import Roi, Segmentation

if TYPE_CHECKING:
    from surgseg_ros.core.segmenter import Segmenter

Result = Segmentation | Exception


class Input(NamedTuple):
    """
    One camera's input of the network.

    :param image: (H, W, 3) uint8 RGB.
    :param roi: the part to segment; None: the whole image.
    """

    image: NDArray[np.uint8]
    roi: Roi | None


class FallbackHandler(Protocol):
    """Handles failures of the machine that `Inference` reports."""

    def fall_back(self, error: Exception) -> bool:
        """
        Start to replace the runtime that failed.

        :param error: raised by the second attempt, too.
        :return: whether a replacement is being loaded; until it is ready, retrying is useless.
        """

    def disable_batching(self, reason: str) -> None:
        """Record that images are segmented one by one from now on."""


class Inference:
    """
    Segments images with one model; not thread-safe.

    :param segmenter: the model.
    :param fallback: handles failures of the machine.
    """

    def __init__(self, segmenter: Segmenter, fallback: FallbackHandler) -> None:
        """Start with the batch size that the model supports."""
        self.segmenter = segmenter
        self.max_batch_size = segmenter.max_batch_size
        self._fallback = fallback
        self._failed: Exception | None = None

    def segment(self, inputs: Sequence[Input], confidence: bool = False) -> list[Result]:
        """
        Segment a batch; if that fails, segment each image alone, to find the one that fails.

        :param inputs: one per camera; may be empty.
        :param confidence: whether to compute the confidence of each pixel, not only on the
            network's grid.
        :return: for each input its segmentation, or the error.
        """
        if not inputs:
            return []
        if self._failed is not None:
            return [self._failed] * len(inputs)
        try:
            return self._try(lambda: self._run(inputs, confidence))
        except Exception as error:  # from the network, the device, or a roi beyond the image
            if len(inputs) > 1:
                results = [result for one in inputs for result in self.segment([one], confidence)]
                self._check_batching(error, results)
                return results
            if is_of_machine(error) and self._fallback.fall_back(error):
                self._failed = error
            return [error]

    def _try(self, attempt: Callable[[], list[Result]]) -> list[Result]:
        """Try again once if the machine failed."""
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
        """Process images one at a time from now on if that works and a batch does not."""
        if is_of_machine(error) and not any(isinstance(one, Exception) for one in results):
            self.max_batch_size = 1
            reason = f'images are processed one at a time: {describe(error)}'
            self._fallback.disable_batching(reason)
