# SPDX-License-Identifier: Apache-2.0
"""A batch of images: checked for the network, results of its output, and their comparison."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from surgseg_ros.core.cuda import MIN_SAME_SHARE
from surgseg_ros.core.preprocessing import RgbArray
from surgseg_ros.core.rgb_images import check_image
from surgseg_ros.core.segmentation import GridConfidence, Roi, Segmentation


class ImageBatch(NamedTuple):
    """
    The arguments of `Segmenter.segment_all`.

    :param images: (H, W, 3) uint8 RGB each.
    :param rois: the part of each image to segment; None: the whole image.
    :param confidence: whether the results have the confidence of each pixel.
    :param grid_confidence: whether the results have the confidence at the network's resolution.
    """

    images: Sequence[RgbArray]
    rois: Sequence[Roi | None]
    confidence: bool
    grid_confidence: bool

    @classmethod
    def of(
        cls,
        images: Sequence[RgbArray],
        rois: Sequence[Roi | None] | None,
        confidence: bool,
        grid_confidence: bool,
    ) -> 'ImageBatch':
        """
        Create a batch; without rois, of whole images.

        :param images: a list of at least one image.
        :param rois: one for each image; None: no image has one.
        :param confidence: whether the results have the confidence of each pixel.
        :param grid_confidence: whether they have the confidence at the network's resolution.
        :return: the batch, whose images `views` checks.
        :raises ValueError: if there is no image, a single one outside a list, or another number of
            rois.
        """
        if isinstance(images, np.ndarray) and images.ndim != 4:
            raise ValueError(
                f'images is one array of shape {images.shape}, expected a list of images: '
                'segment_all([image]), or segment(image)'
            )
        if not len(images):
            raise ValueError('images is empty, expected at least one image')
        if rois is not None and len(rois) != len(images):
            raise ValueError(
                f'images has {len(images)} and rois {len(rois)} elements: give a Roi or None for '
                'each image, or no rois'
            )
        rois = [None] * len(images) if rois is None else rois
        return cls(images, rois, confidence, grid_confidence)

    def views(self) -> list[RgbArray]:
        """
        Check the images, and return the views that the network gets.

        :return: a view of each image.
        :raises TypeError: if an image is not a NumPy array, or a roi not a Roi.
        :raises ValueError: if one has another shape or dtype, or a roi reaches beyond its image.
        """
        return [_view(image, roi) for image, roi in zip(self.images, self.rois, strict=True)]

    def results(
        self, arrays: Sequence[NDArray[Any]], times_ms: dict[str, float]
    ) -> tuple[Segmentation, ...]:
        """
        Assemble the results from the arrays that the device computed.

        :param arrays: for each image, in order, what `Upsampled` has and was requested.
        :param times_ms: milliseconds by stage, of the whole batch.
        :return: one result for each image.
        """
        on_host, results = iter(arrays), []
        for image, roi in zip(self.images, self.rois):
            view = image if roi is None else roi.view(image)
            mask = next(on_host)
            chosen = next(on_host) if self.confidence else None
            grid = next(on_host) if self.confidence or self.grid_confidence else None
            whole = Roi(0, 0, view.shape[1], view.shape[0])
            confidences = None if grid is None else GridConfidence(grid, whole)
            found = Segmentation(mask, chosen, times_ms, confidences)
            size = image.shape[0], image.shape[1]
            results.append(found if roi is None else _paste(found, size, roi))
        return tuple(results)


_ROUNDING: Final = 2
"""Change of a confidence (0..255) in a second computation: kernels may round in another way."""


def agree(found: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    """
    Compare what a network computed twice: finite sums, equal masks, and almost equal confidences.

    :param found: (N,) sums, then for each of N images, in order, its mask and its confidences.
    :param expected: the same, computed in another way.
    :return: whether at least MIN_SAME_SHARE of each plane agree.
    """
    sums, *planes = zip(found, expected, strict=True)
    in_image = len(planes) // len(sums[0])
    for number, (plane, other) in enumerate(planes):
        difference = (plane.int() - other.int()).abs()
        limit = 0 if number % in_image == 0 else _ROUNDING
        if (difference <= limit).float().mean() < MIN_SAME_SHARE:
            return False
    return torch.equal(sums[0].isfinite(), sums[1].isfinite())


def is_same(found: Segmentation, expected: Segmentation) -> bool:
    """
    Compare two results for an image.

    :param found: with grid confidence.
    :param expected: the same, computed in another way.
    :return: whether they agree; see `agree`.
    """
    planes = (
        [torch.zeros(1), *map(torch.from_numpy, (each.mask, each.grid_confidence.grid))]
        for each in (found, expected)
        if each.grid_confidence is not None
    )
    return agree(*planes)


def _view(image: RgbArray, roi: Roi | None) -> RgbArray:
    """Check an image, and return a view of the part to segment."""
    check_image(image)
    if roi is None:
        return image
    if not isinstance(roi, Roi):
        raise TypeError(f'roi is {roi!r}, expected a Roi: Roi(x_px, y_px, width_px, height_px)')
    return roi.view(image)


def _paste(part: Segmentation, size: tuple[int, int], roi: Roi) -> Segmentation:
    """Insert the result of a roi into an image of NO_DECISION with confidence 0."""
    whole = Segmentation.undecided(size)
    mask = roi.view(whole.mask)
    mask[:] = part.mask
    if roi.circle is not None:
        np.maximum(mask, roi.outside(), out=mask)
    confidence, grid_confidence = None, None
    if part.confidence is not None and whole.confidence is not None:
        confidence = whole.confidence
        roi.view(confidence)[:] = part.confidence
        if roi.circle is not None:
            roi.view(confidence)[roi.outside() > 0] = 0
    if part.grid_confidence is not None:
        grid_confidence = GridConfidence(part.grid_confidence.grid, roi)
    return Segmentation(whole.mask, confidence, part.stage_ms, grid_confidence, roi=roi)
