# SPDX-License-Identifier: Apache-2.0
"""Input and output of the pipeline: image, findings, mask, instruments."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.detections import DEFAULT_LEAST_AREA, Instrument, without_decision
from surgseg_ros.core.errors import describe
from surgseg_ros.core.gates import Finding, StampAnomaly
from surgseg_ros.core.known_tools import KnownTools
from surgseg_ros.core.postprocessing import instruments_in
from surgseg_ros.core.reasons import Reason, ReasonCode, ResultWarning
from surgseg_ros.core.robotic_tools import ToolGrouping
from surgseg_ros.core.segmentation import Roi, Segmentation
from surgseg_ros.core.timing import Stopwatch


class InputFrame(NamedTuple):
    """
    An image as input of the pipeline.

    :param image: (H, W, 3) uint8 RGB; rows may be padded, it is not modified.
    :param stamp_ns: the camera's stamp; None for images without one (files), which are then
        assumed to be consecutive.
    :param received_ns: when it was received, by a monotonic clock.
    :param warnings: warnings about the image from before the pipeline.
    """

    image: NDArray[np.uint8]
    stamp_ns: int | None = None
    received_ns: int = 0
    warnings: tuple[ResultWarning, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the image in pixels."""
        return self.image.shape[0], self.image.shape[1]


class FrameCheck(NamedTuple):
    """
    The findings about an image that depend only on its pixels and its stamp.

    :param findings: findings of the quality gates.
    :param anomalies: anomalies of stamp and size.
    :param stage_ms: time of the stage `gates` in milliseconds.
    :param error: the exception that the gates raised.
    """

    findings: tuple[Finding, ...] = ()
    anomalies: tuple[StampAnomaly, ...] = ()
    stage_ms: Mapping[str, float] = MappingProxyType({})
    error: Exception | None = None


@dataclass(frozen=True)
class Decision:
    """
    A mask, or no decision, before instruments are found.

    :param segmentation: the result to publish; NO_DECISION everywhere without a decision.
    :param raw_mask: (H, W) uint8, the mask of the network, if the temporal filter is on.
    :param warnings: warnings about the result.
    :param anomalies: anomalies of stamp and size.
    :param code: the kind of reason why there is no decision; empty if there is one.
    :param reasons: why there is no decision; empty if there is one.
    :param error: the exception of network, device or settings that prevented a decision.
    :param stage_ms: milliseconds by stage, in the order of execution.
    :param least_area: minimum area of an instrument as a share of the image's area.
    :param min_detection_score: minimum score of an instrument, 0..1.
    :param roi: the part of the image that was segmented; None for the whole image.
    :param stamp_ns: stamp of the image; None if it has none.
    :param begins: whether it shows another view than earlier images, so that all tracks end.
    """

    segmentation: Segmentation
    raw_mask: NDArray[np.uint8] | None = None
    warnings: tuple[ResultWarning, ...] = ()
    anomalies: tuple[StampAnomaly, ...] = ()
    code: str = ''
    reasons: tuple[Reason, ...] = ()
    error: Exception | None = None
    stage_ms: Mapping[str, float] = field(default_factory=dict)
    least_area: float = DEFAULT_LEAST_AREA
    min_detection_score: float = 0.0
    roi: Roi | None = None
    stamp_ns: int | None = None
    begins: bool = False

    @property
    def is_decided(self) -> bool:
        """Whether there is a mask."""
        return not self.code

    @property
    def failed(self) -> bool:
        """Whether network, device or settings failed, rather than the image."""
        return self.error is not None

    @property
    def reason(self) -> str:
        """Why there is no decision, for people; empty if there is one."""
        return '; '.join(reason.text for reason in self.reasons)

    @property
    def mask(self) -> NDArray[np.uint8]:
        """(H, W) uint8 class index, or NO_DECISION."""
        return self.segmentation.mask


@dataclass(frozen=True)
class FrameResult(Decision):
    """
    The complete result of an image.

    :param instruments: the instruments in the mask; without a decision, a single one with label
        NO_DECISION and the whole image as box.
    :param grouping: how its robotic tools were found, until they are tracked.
    """

    instruments: tuple[Instrument, ...] = ()
    grouping: ToolGrouping = field(default_factory=ToolGrouping, compare=False, repr=False)


def complete(decision: Decision) -> FrameResult:
    """
    Find the instruments of a decision; `CameraPipeline.track` gives them their ids.

    :param decision: from `CameraPipeline.decide`.
    :return: the result with instruments; see `without_instruments` for a failure.
    """
    watch = Stopwatch()
    if not decision.is_decided:
        return FrameResult(**vars(decision), instruments=without_decision(decision.mask.shape[:2]))
    grouping, limits = ToolGrouping(), (decision.least_area, watch, decision.min_detection_score)
    try:
        instruments = instruments_in(decision.segmentation, *limits, grouping=grouping)
    except Exception as error:  # one image must never end the stream
        return without_instruments(decision, processing_failed(error))
    result = FrameResult(**vars(decision), instruments=instruments, grouping=grouping)
    return with_times(result, watch)


def instruments_again(result: FrameResult, known: KnownTools) -> tuple[Instrument, ...]:
    """
    Find the instruments of a result again, and continue robotic tools of the last image.

    :param result: from `complete`.
    :param known: the tools of the last image.
    :return: as `find_instruments` returns them.
    """
    limits = result.least_area, None, result.min_detection_score
    return instruments_in(result.segmentation, *limits, known, result.grouping)


def without_instruments(decision: Decision, reason: Reason) -> FrameResult:
    """
    Complete a decision whose instruments could not be found.

    :param decision: the decision, whose mask is kept.
    :param reason: why the instruments were not found.
    :return: the decision with that warning, and a single instrument with label NO_DECISION.
    """
    height, width = decision.mask.shape
    warning = ResultWarning(reason.code, f'no decision on instruments: {reason.text}')
    changes = {
        'warnings': (*decision.warnings, warning),
        'instruments': without_decision((height, width)),
    }
    return FrameResult(**{**vars(decision), **changes})


def with_times(result: FrameResult, watch: Stopwatch) -> FrameResult:
    """
    Add times of a later step to a result.

    :param result: the result.
    :param watch: the times of the later step.
    :return: the result with the sums of the times by stage.
    """
    times_ms = dict(result.stage_ms)
    for stage, time_ms in watch.times_ms().items():
        times_ms[stage] = times_ms.get(stage, 0.0) + time_ms
    return dataclasses.replace(result, stage_ms=times_ms)


def processing_failed(error: Exception) -> Reason:
    """
    Create the reason for a step that failed.

    :param error: the exception.
    :return: the reason.
    """
    return Reason(ReasonCode.PROCESSING_FAILED, describe(error))


def failure(error: Exception, size: tuple[int, int]) -> dict[str, Any]:
    """
    Create the fields of a decision that failed.

    :param error: the exception.
    :param size: (H, W) of the image in pixels.
    :return: values by name of the field.
    """
    return {
        'segmentation': Segmentation.undecided(size),
        'code': type(error).__name__,
        'reasons': (processing_failed(error),),
        'error': error,
    }
