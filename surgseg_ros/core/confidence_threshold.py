# SPDX-License-Identifier: Apache-2.0
"""Pixels that the network is not sure of are no decision, and an image of them says so."""

import dataclasses
import math

import cv2
import numpy as np

from surgseg_ros.core.detections import (
    DEFAULT_LEAST_AREA,
    Instrument,
    find_instruments,
    without_decision,
)
from surgseg_ros.core.labels import NO_DECISION
from surgseg_ros.core.segmentation import Segmentation


def apply_confidence_threshold(segmentation: Segmentation, min_confidence: float) -> Segmentation:
    """
    Turn pixels of too little confidence into NO_DECISION.

    :param segmentation: with confidence; not written to.
    :param min_confidence: the least probability of the chosen class, 0..1; 0 keeps all.
    :return: the same confidence with a mask of its own; the segmentation itself if 0.
    :raises ValueError: if the segmentation has no confidence, or the least is not within 0..1.
    """
    if not 0 <= min_confidence <= 1:
        raise ValueError(f'min_confidence is {min_confidence!r}, expected 0 to 1')
    if min_confidence == 0:
        return segmentation
    if segmentation.confidence is None:
        raise ValueError('the segmentation has no confidence: segment with confidence=True')
    # A confidence is rounded to 255ths; what may have been the least was enough.
    least = math.floor(255 * min_confidence)
    _, unsure = cv2.threshold(
        segmentation.confidence, least - 1, NO_DECISION, cv2.THRESH_BINARY_INV
    )
    mask = np.asarray(cv2.max(segmentation.mask, unsure), np.uint8)
    return dataclasses.replace(segmentation, mask=mask)


def instruments_in(
    segmentation: Segmentation, least_area: float = DEFAULT_LEAST_AREA
) -> tuple[Instrument, ...]:
    """
    Find the instruments, or say that nothing is known where no pixel is decided.

    :param segmentation: with grid confidence or confidence.
    :param least_area: see find_instruments.
    :return: as `find_instruments`; as `without_decision` if all of the mask is NO_DECISION, since
        an empty list would say that there is no instrument.
    :raises ValueError: if the segmentation has neither.
    """
    if segmentation.mask.min() == NO_DECISION:
        height, width = segmentation.mask.shape
        return without_decision((height, width))
    return find_instruments(segmentation, least_area)
