# SPDX-License-Identifier: Apache-2.0
"""What is found in a mask; imports no torch, because it runs in processes of its own."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.bag_evaluation.accumulator import count_values
from surgseg_ros.core.detections import Instrument
from surgseg_ros.core.geometry import find_geometries
from surgseg_ros.core.keypoints import Geometry
from surgseg_ros.core.reasons import ResultWarning
from surgseg_ros.core.results import Decision, FrameResult, complete
from surgseg_ros.core.timing import Stopwatch


class Findings(NamedTuple):
    """
    What is found in the mask of a decision.

    :param instruments: see FrameResult.
    :param warnings: all warnings about the result.
    :param stage_ms: milliseconds by stage, those of the decision included.
    :param pixels: (256,) number of pixels of each value in the mask.
    :param geometries: keypoints of the instruments; None without a decision, or if that failed.
    :param ms: further milliseconds by stage.
    """

    instruments: tuple[Instrument, ...]
    warnings: tuple[ResultWarning, ...]
    stage_ms: Mapping[str, float]
    pixels: NDArray[np.int64]
    geometries: tuple[Geometry, ...] | None
    ms: Mapping[str, float]


def find(decision: Decision) -> Findings:
    """
    Find the instruments of a decision, and their keypoints.

    :param decision: the decision; may lack what `without_confidence` removes.
    :return: the findings.
    """
    result = complete(decision)
    watch = Stopwatch()
    pixels = count_values(result.mask)
    watch.lap('score')
    geometries = _geometries(result)
    watch.lap('detections')
    found = result.instruments, result.warnings, result.stage_ms
    return Findings(*found, pixels, geometries, watch.times_ms())


def without_confidence(decision: Decision) -> Decision:
    """
    Remove from a decision what `find` does not need, to send the rest to another process.

    :param decision: the decision.
    :return: the decision without the confidence of each pixel, if it has the grid's.
    """
    segmentation = decision.segmentation
    if segmentation.grid_confidence is None:
        return decision
    segmentation = dataclasses.replace(segmentation, confidence=None)
    return dataclasses.replace(decision, segmentation=segmentation)


def _geometries(result: FrameResult) -> tuple[Geometry, ...] | None:
    """Find the keypoints of instruments, as the node does if the topic has a subscriber."""
    if not result.is_decided:
        return None
    found = result.segmentation
    try:
        return tuple(find_geometries(result.instruments, found.mask, found.roi))
    except Exception:  # the node then publishes no decision on keypoints
        return None
