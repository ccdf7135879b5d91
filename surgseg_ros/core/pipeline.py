# SPDX-License-Identifier: Apache-2.0
"""
The processing of an image: the sequence of steps that node, evaluation and benchmark share.

    image ─> roi ─> network ────────┐
              └───> quality gates ──┴─> temporal filter ─> confidence threshold
          ─> minimum regions ─> Decision, a mask ─> instruments ─> tracks ─> FrameResult

`CameraPipeline` holds the state of one camera (roi, stamps, gates, filter, tracks). The network is
shared by all cameras and is not part of it: `segment` runs it, or the caller does. `find_roi`,
`check` and `decide` must get the images in order, one after the other; `check` may run beside
the network. `begin` lets the network of a GPU work on the next image meanwhile. `track` must get
the results in order; it may lag behind, in another thread. `complete` (`core/results.py`), which
finds instruments, may run in any thread.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.content_area import ContentFinder
from surgseg_ros.core.detections import DEFAULT_LEAST_AREA
from surgseg_ros.core.gates import Gates, GateSetting, StampAnomaly, StampMonitor
from surgseg_ros.core.postprocessing import CutDetector, TemporalFilter, apply_thresholds
from surgseg_ros.core.reasons import HeldWarnings, ResultWarning
from surgseg_ros.core.results import (
    Decision,
    FrameCheck,
    FrameResult,
    InputFrame,
    complete,
    failure,
    instruments_again,
    processing_failed,
    with_times,
    without_instruments,
)
from surgseg_ros.core.robotic_tools import ToolGrouping
from surgseg_ros.core.segmentation import ROI_AUTO, ROI_FIXED, Roi, Segmentation
from surgseg_ros.core.timing import Stopwatch
from surgseg_ros.core.track_observations import Observed
from surgseg_ros.core.tracking import DEFAULT_TRACK_LOST_MS, Tracker

if TYPE_CHECKING:  # torch is imported with the first model
    from surgseg_ros.core.segmenter import Segmenter


@dataclass(frozen=True)
class PipelineSettings:
    """
    Settings of a camera's pipeline; names and defaults are those of the node's parameters.

    :param gates: quality gates by name; gates without an entry are off.
    :param steady_frames: consecutive images that must show the same other class before a pixel
        changes; 0 or 1: no temporal filter.
    :param steady_sure: confidence with which a single image changes a pixel at once, 0..1.
    :param min_confidence: pixels with a lower confidence become NO_DECISION, 0..1; 0: off.
    :param min_detection_score: instruments with a lower score are left out, 0..1; 0: none.
    :param least_region: per class, the minimum area of a connected component as a share of the
        image's area; empty: all are kept.
    :param least_area: minimum area of an instrument as a share of the image's area, 0..1.
    :param roi_mode: ROI_FIXED, or ROI_AUTO to find the part that the endoscope fills.
    :param track_lost_ms: how long an instrument may be out of sight and keep its id.
    """

    gates: Mapping[str, GateSetting] = field(default_factory=dict)
    steady_frames: int = 0
    steady_sure: float = 0.95
    min_confidence: float = 0.0
    min_detection_score: float = 0.0
    least_region: Sequence[float] = ()
    least_area: float = DEFAULT_LEAST_AREA
    roi_mode: str = ROI_FIXED
    track_lost_ms: int = DEFAULT_TRACK_LOST_MS


class CameraPipeline:
    """
    The pipeline of one camera; not thread-safe, but `track` may run in another thread.

    :param settings: see PipelineSettings.
    :param roi: the part of the images that the endoscope fills; None: the whole images, or what
        is found if `roi_mode` is ROI_AUTO.
    :raises ValueError: if a setting is out of its range.
    """

    def __init__(self, settings: PipelineSettings | None = None, roi: Roi | None = None) -> None:
        self._roi = roi
        self._settings = settings or PipelineSettings()
        self._finder = ContentFinder() if self._settings.roi_mode == ROI_AUTO else None
        self._monitor = StampMonitor()
        self._gates = Gates(self._settings.gates)
        filtered = self._settings.steady_frames, self._settings.steady_sure
        self._filter = TemporalFilter(*filtered) if filtered[0] > 1 else None
        self._held = HeldWarnings()
        self._cuts = CutDetector()
        self._tracker = Tracker(self._settings.track_lost_ms)

    @property
    def needs_confidence(self) -> bool:
        """Whether `decide` needs the confidence of each pixel, which costs time."""
        return self._filter is not None or self._settings.min_confidence > 0

    @property
    def finds_roi(self) -> bool:
        """Whether `find_roi` depends on earlier images; else it may be called at any time."""
        return self._finder is not None

    def set_thresholds(
        self, min_confidence: float, least_area: float, min_detection_score: float
    ) -> None:
        """
        Change the settings that do not affect the state.

        :param min_confidence: see PipelineSettings.
        :param least_area: see PipelineSettings.
        :param min_detection_score: see PipelineSettings.
        """
        self._settings = dataclasses.replace(
            self._settings,
            min_confidence=min_confidence,
            least_area=least_area,
            min_detection_score=min_detection_score,
        )

    def reset(self) -> None:
        """Forget all earlier images, because another activation, model or video starts."""
        self._monitor.reset()
        self._restart()

    def find_roi(self, image: NDArray[np.uint8]) -> Roi | None:
        """
        Find the part of the next image to segment; must be called before `decide`.

        :param image: (H, W, 3) uint8 RGB.
        :return: the part; None for the whole image.
        """
        if self._finder is not None:
            before, self._roi = self._roi, self._finder.find(image)
            if self._filter is not None and self._roi != before:
                self._filter.reset()  # else pixels that were outside would stay undecided
        return self._roi

    def process(
        self, segmenter: Segmenter, frame: InputFrame, *, confidence: bool = False
    ) -> FrameResult:
        """
        Run the whole pipeline on the next image of the camera.

        :param segmenter: the model.
        :param frame: the image.
        :param confidence: whether the result must contain the confidence of each pixel.
        :return: the result; an error is not raised, but reported as the reason for no decision.
        """
        return self.track(complete(self.segment(segmenter, frame, confidence=confidence)))

    def segment(
        self, segmenter: Segmenter, frame: InputFrame, *, confidence: bool = False
    ) -> Decision:
        """
        Run the pipeline on the next image of the camera, up to the mask.

        :param segmenter: the model.
        :param frame: the image.
        :param confidence: whether the decision must contain the confidence of each pixel.
        :return: the decision; an error is not raised, but reported as the reason for no decision.
        """
        wanted, roi = confidence or self.needs_confidence, self.find_roi(frame.image)
        return self.decide(frame, _infer(segmenter, frame.image, roi, confidence=wanted))

    def begin(
        self, segmenter: Segmenter, frame: InputFrame, *, confidence: bool = False
    ) -> Callable[[], Decision]:
        """
        Begin to run the pipeline on the next image of the camera, up to the mask.

        Only a network on a GPU begins early, with a fixed roi; else all work is done in this call.

        :param segmenter: the model; at most its `max_in_flight` images may be begun.
        :param frame: the image.
        :param confidence: whether the decision must contain the confidence of each pixel.
        :return: a function that returns the decision, as `segment` does; to be called once for
            each image, in the order of the images.
        """
        if segmenter.max_in_flight == 1 or self.finds_roi:
            decision = self.segment(segmenter, frame, confidence=confidence)
            return lambda: decision
        wanted, roi = confidence or self.needs_confidence, self.find_roi(frame.image)
        output = _begin(segmenter, frame.image, roi, confidence=wanted)
        return lambda: self.decide(frame, output())

    def check(self, frame: InputFrame) -> FrameCheck:
        """
        Check the next image independently of the network: before, during or after inference.

        :param frame: the image.
        :return: the argument for `decide`; an error is not raised.
        """
        anomalies, watch = self._check_stamp(frame), Stopwatch()
        try:
            view = frame.image if self._roi is None else self._roi.view(frame.image)
            findings = self._gates.check(view)
        except Exception as error:  # one image must never end the stream
            # The traceback would keep this frame alive, in a cycle with the error that it holds.
            return FrameCheck(anomalies=anomalies, error=error.with_traceback(None))
        watch.lap('gates')
        return FrameCheck(findings, anomalies, watch.times_ms())

    def decide(
        self,
        frame: InputFrame,
        output: Segmentation | Exception,
        check: FrameCheck | None = None,
    ) -> Decision:
        """
        Turn the network's output for the next image into a mask that may be published.

        :param frame: the image.
        :param output: its segmentation, with confidence if `needs_confidence`; or the error that
            prevented it.
        :param check: from `check`; None: it is called here.
        :return: the decision.
        """
        checked = check or self.check(frame)
        coded = (ResultWarning(a.code, a.text) for a in checked.anomalies if a.code)
        return dataclasses.replace(  # not in a variable: see `_decision`
            self._decision(frame, output, checked, (*frame.warnings, *coded)),
            anomalies=checked.anomalies,
            least_area=self._settings.least_area,
            min_detection_score=self._settings.min_detection_score,
            roi=self._roi,
            stamp_ns=frame.stamp_ns,
        )

    def track(self, result: FrameResult, observed: Observed | None = None) -> FrameResult:
        """
        Assign the instruments of this result to the tracks of earlier results.

        :param result: from `complete`; call it with every result, in the order of the images.
        :param observed: what `observe` returns for its instruments, if it is known.
        :return: the result with the ids of its instruments, among which robotic tools may be
            grouped as in the last result; `without_instruments` if that fails.
        """
        watch, (height, width) = Stopwatch(), result.mask.shape
        try:
            if result.begins:
                self._tracker.end_tracks()
            found = self._tracker.update(
                result.instruments,
                (height, width),
                result.stamp_ns,
                observed,
                partial(instruments_again, result),
            )
        except Exception as error:  # one image must never end the stream
            return without_instruments(result, processing_failed(error))
        watch.lap('instruments')
        tracked = dataclasses.replace(result, instruments=found, grouping=ToolGrouping())
        return with_times(tracked, watch)

    def _decision(
        self,
        frame: InputFrame,
        output: Segmentation | Exception,
        checked: FrameCheck,
        known: tuple[ResultWarning, ...],
    ) -> Decision:
        """Decide; a failure is not stored in a variable, which its traceback would keep alive."""
        if isinstance(output, Exception):
            return Decision(**failure(output, frame.size), warnings=known)
        if checked.error is not None:
            return Decision(**failure(checked.error, frame.size), warnings=known)
        try:
            return self._decide(frame, output, checked, known)
        except Exception as error:  # one image must never end the stream
            return Decision(**failure(error, frame.size), warnings=known)

    def _decide(
        self,
        frame: InputFrame,
        output: Segmentation,
        checked: FrameCheck,
        warnings: tuple[ResultWarning, ...],
    ) -> Decision:
        watch = Stopwatch()
        view = frame.image if self._roi is None else self._roi.view(frame.image)
        found = {finding.gate: finding.warning for finding in checked.findings}
        warnings += self._held.update(found, frame.stamp_ns or 0)
        undecided = [warning for warning in warnings if not warning.decided]
        if undecided:
            if self._filter is not None:
                self._filter.reset()
            watch.lap('postprocessing')
            return Decision(
                Segmentation.undecided(frame.size),
                warnings=warnings,
                code=undecided[0].code.value,
                reasons=tuple(warning.reason for warning in undecided),
                stage_ms={**output.stage_ms, **checked.stage_ms, **watch.times_ms()},
            )
        segmentation, raw_mask = self._filtered(view, output, frame.stamp_ns or 0)
        settings = self._settings
        segmentation, below_threshold = apply_thresholds(
            segmentation, settings.min_confidence, settings.least_region
        )
        # The roi that is found changes, but only within black borders.
        begins = self._cuts.is_cut(view if self._finder is None else frame.image)
        watch.lap('postprocessing')
        return Decision(
            segmentation,
            raw_mask,
            warnings + below_threshold,
            stage_ms={**output.stage_ms, **checked.stage_ms, **watch.times_ms()},
            begins=begins,
        )

    def _check_stamp(self, frame: InputFrame) -> tuple[StampAnomaly, ...]:
        if frame.stamp_ns is None:
            return ()
        anomalies = self._monitor.check(frame.stamp_ns, frame.received_ns, frame.size)
        if any(anomaly.restarts for anomaly in anomalies):
            self._restart()
            if self._finder:
                self._finder.find(frame.image)  # the first one of the new stream
        return anomalies

    def _restart(self) -> None:
        """Forget all earlier images."""
        for part in (self._gates, self._held, self._cuts, self._finder, self._filter):
            if part is not None:
                part.reset()

    def _filtered(
        self, view: NDArray[np.uint8], output: Segmentation, stamp_ns: int
    ) -> tuple[Segmentation, NDArray[np.uint8] | None]:
        """Apply the temporal filter, if it is on; return the raw mask as well."""
        if self._filter is None:
            return output, None
        filtered = self._filter.apply(view, output, stamp_ns)
        return filtered.filtered, filtered.raw.mask


def _infer(
    segmenter: Segmenter, image: NDArray[np.uint8], roi: Roi | None, *, confidence: bool
) -> Segmentation | Exception:
    """Run the network on one image; return its segmentation, or the error."""
    try:
        return segmenter.segment(image, roi=roi, confidence=confidence, grid_confidence=True)
    except Exception as error:  # from the network, the device, or a roi beyond the image
        return error


def _begin(
    segmenter: Segmenter, image: NDArray[np.uint8], roi: Roi | None, *, confidence: bool
) -> Callable[[], Segmentation | Exception]:
    """Begin to run the network on one image; return a function that does what `_infer` does."""
    wanted = {'confidence': confidence, 'grid_confidence': True}

    def output() -> Segmentation | Exception:
        try:
            return results()[0]
        except Exception as error:
            return error

    try:
        results = segmenter.begin([image], [roi], **wanted)
    except Exception as error:
        # The traceback would keep the image alive, in a cycle with the error that it holds.
        failed = error.with_traceback(None)
        return lambda: failed
    return output
