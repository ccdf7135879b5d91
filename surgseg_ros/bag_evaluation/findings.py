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
from surgseg_ros.core.labels import NO_DECISION
from surgseg_ros.core.reasons import ResultWarning
from surgseg_ros.core.results import Decision, FrameResult, complete
from surgseg_ros.core.timing import Stopwatch
from surgseg_ros.core.track_observations import Observed, may_be_pieces, observe


class Findings(NamedTuple):
    """
    What is found in the mask of a decision.

    :param instruments: see FrameResult; without their runs and parts unless these are wanted.
    :param observed: what the tracker needs to know about them; None if it has to find out.
    :param warnings: all warnings about the result.
    :param stage_ms: milliseconds by stage, those of the decision included.
    :param pixels: (256,) number of pixels of each value in the mask.
    :param confidence: mean confidence on the network's grid, 0..1; None if it is not known.
    :param geometries: keypoints of the instruments; None without a decision, or if that failed.
    :param ms: further milliseconds by stage.
    """

    instruments: tuple[Instrument, ...]
    observed: Observed | None
    warnings: tuple[ResultWarning, ...]
    stage_ms: Mapping[str, float]
    pixels: NDArray[np.int64]
    confidence: float | None
    geometries: tuple[Geometry, ...] | None
    ms: Mapping[str, float]


def find(decision: Decision, *, runs: bool = False) -> Findings:
    """
    Find the instruments of a decision, and their keypoints.

    :param decision: the decision; may lack what `without_confidence` removes.
    :param runs: whether the instruments keep their runs and parts, which take long to send.
    :return: the findings.
    """
    result = complete(decision)
    watch = Stopwatch()
    grid = result.segmentation.grid_confidence
    pixels, confidence = count_values(result.mask), None if grid is None else grid.mean
    watch.lap('score')
    geometries = geometries_of(result)
    watch.lap('detections')
    observed = _observed(result)
    watch.lap('instruments')
    instruments = result.instruments
    if observed is not None and not runs:
        instruments = tuple(dataclasses.replace(i, runs=None, parts=None) for i in instruments)
    found = instruments, observed, result.warnings, result.stage_ms
    return Findings(*found, pixels, confidence, geometries, watch.times_ms())


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


def _observed(result: FrameResult) -> Observed | None:
    """
    Do what the tracker would do first, so that it has less to do; it reports an error.

    :return: None also if the tracker needs the runs, since it may join pieces.
    """
    height, width = result.mask.shape
    try:
        if may_be_pieces(result.instruments, (height, width)):
            return None
        return observe(result.instruments, (height, width))
    except Exception:
        return None


def geometries_of(result: FrameResult) -> tuple[Geometry, ...] | None:
    """
    Find the keypoints of instruments, as the node does if the topic has a subscriber.

    :param result: the instruments, and their mask.
    :return: keypoints of each; None without a decision, or if that failed.
    """
    if not result.is_decided or any(i.label == NO_DECISION for i in result.instruments):
        return None
    found = result.segmentation
    try:
        return tuple(find_geometries(result.instruments, found.mask, found.roi))
    except Exception:  # the node then publishes no decision on keypoints
        return None
