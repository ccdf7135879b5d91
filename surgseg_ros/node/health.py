# SPDX-License-Identifier: Apache-2.0
"""The state of one camera: counts, times, and whether its masks are valid, degraded or stale."""

import threading
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.detections import Instrument
from surgseg_ros.core.geometry import Distances
from surgseg_ros.core.reasons import Reason, ReasonCode
from surgseg_ros.core.segmentation import Roi, Segmentation
from surgseg_ros.core.timing import Percentiles, percentiles
from surgseg_ros.messages.images import read_stamp

VALID: Final = 'valid'
DEGRADED: Final = 'degraded'
STALE: Final = 'stale'
INACTIVE: Final = 'inactive'

_WINDOW: Final = 300
"""Number of frames over which times are summarized: ten seconds at 30 Hz."""


class Verdict(NamedTuple):
    """
    Whether masks can be used, and why.

    :param state: VALID, DEGRADED, STALE or INACTIVE.
    :param reasons: empty only if valid.
    """

    state: str
    reasons: tuple[Reason, ...] = ()

    @property
    def reason(self) -> str:
        """All reasons as text, for users."""
        return '; '.join(reason.text for reason in self.reasons)

    @property
    def codes(self) -> tuple[str, ...]:
        """All reasons as codes, for programs; sorted and unique."""
        return tuple(sorted({reason.code.value for reason in self.reasons}))


class LastImage(NamedTuple):
    """
    The last image of a camera that could be read.

    :param stamp_ns: stamp of its header.
    :param frame_id: frame_id of its header.
    :param size: (H, W) in pixels.
    :param received_ns: steady clock when this machine received it.
    """

    stamp_ns: int
    frame_id: str
    size: tuple[int, int]
    received_ns: int


class Health:
    """
    Counts and times of one camera; thread-safe.

    Counts: `received`; `lost` in transport; `missing` in the publisher's sequence numbers (lost,
    or overwritten before they were read); `dropped` by design for a newer frame; `rejected` as
    malformed or failed; `too_old` when ready; `undecided` because of a gate; `discarded` after a
    change of state or model; `published`; `no_decision`, published while there is no mask;
    `pairs`, processed together with the image of the other camera, and `singles`, processed alone.
    """

    def __init__(self) -> None:
        """Start inactive, with all counts at 0."""
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._times: dict[str, deque[float]] = {}
        self._known_causes: set[str] = set()
        self._inactive: Reason | None = Reason(ReasonCode.NOT_CONFIGURED, 'not configured yet')
        self._degraded_reasons: tuple[Reason, ...] = ()
        self._ambiguity: Reason | None = None
        self._others: Reason | None = None
        self._silence: Reason | None = None
        self._warnings: tuple[Reason, ...] = ()
        self._expecting_since_ns = 0
        self._last_image: LastImage | None = None
        self._image_ns: int | None = None
        self._mask_ns: int | None = None
        self._stamp_ns: int | None = None
        self._roi: Roi | None = None
        self._distances: Distances | None = None

    def count(self, name: str, number: int = 1) -> None:
        """Add to one of the counts; their names are in the docstring of the class."""
        with self._lock:
            self._counts[name] += number

    def counts(self) -> Mapping[str, int]:
        """Return a copy of the counts."""
        with self._lock:
            return Counter(self._counts)

    def first_time(self, cause: str) -> bool:
        """
        Return whether a cause is new, so that it is reported once.

        :param cause: identifies the report.
        :return: True on the first call with this cause since the node was activated.
        """
        with self._lock:
            new = cause not in self._known_causes
            self._known_causes.add(cause)
            return new

    def activate(self, now_ns: int, degraded_reasons: tuple[Reason, ...] = ()) -> None:
        """
        Start expecting frames.

        :param now_ns: steady clock.
        :param degraded_reasons: reasons why masks are at best degraded.
        """
        with self._lock:
            self._inactive, self._degraded_reasons, self._warnings = None, degraded_reasons, ()
            self._ambiguity = self._silence = None
            self._expecting_since_ns = now_ns
            self._image_ns = self._mask_ns = self._stamp_ns = self._last_image = None
            self._roi = self._distances = None
            self._known_causes.clear()
            self._times.clear()

    def set_degraded_reasons(self, degraded_reasons: tuple[Reason, ...]) -> None:
        """
        Replace the reasons that were passed to `activate`.

        :param degraded_reasons: reasons why masks are at best degraded.
        """
        with self._lock:
            self._degraded_reasons = degraded_reasons

    def deactivate(self, reason: Reason) -> None:
        """
        Stop expecting frames.

        :param reason: the state of the node, or what prevents it from starting.
        """
        with self._lock:
            self._inactive = reason

    def record_publisher(self, now_ns: int) -> None:
        """Record a new publisher, which may need some time to send its first image."""
        with self._lock:
            self._expecting_since_ns = now_ns

    def record_arrival(self, now_ns: int, transport_ms: float | None = None) -> None:
        """
        Record the arrival of a message, valid or not.

        :param now_ns: steady clock.
        :param transport_ms: time from its sender to this machine, by the clocks of both, if known.
        """
        with self._lock:
            self._counts['received'] += 1
            self._image_ns = now_ns
            self._silence = None
            if transport_ms is not None:
                self._keep('transport', transport_ms)

    def record_silence(self, explanation: Reason) -> None:
        """Record why no image may be arriving; cleared when one arrives."""
        with self._lock:
            self._silence = explanation

    def record_image(self, image: LastImage) -> None:
        """Record an image that could be read."""
        with self._lock:
            self._last_image = image

    def last_image(self) -> LastImage | None:
        """Return the last image since the activation, if any."""
        with self._lock:
            return self._last_image

    def record_mask(
        self,
        image_ns: int,
        stamp_ns: int,
        times_ms: Mapping[str, float],
        warning: tuple[Reason, ...] = (),
    ) -> None:
        """
        Record a published mask.

        :param image_ns: steady clock when its image reached this machine, so a late mask is old.
        :param stamp_ns: stamp of its header.
        :param times_ms: milliseconds by stage.
        :param warning: why it cannot be trusted; empty if it can.
        """
        with self._lock:
            self._counts['published'] += 1
            self._warnings = warning
            self._mask_ns, self._stamp_ns = image_ns, stamp_ns
            for stage, time_ms in times_ms.items():
                self._keep(stage, time_ms)

    def record_times(self, times_ms: Mapping[str, float]) -> None:
        """Record milliseconds by stage for the stages after the mask."""
        with self._lock:
            for stage, time_ms in times_ms.items():
                self._keep(stage, time_ms)

    def record_roi(self, roi: Roi | None) -> None:
        """Record the region of interest of the last mask; None for the whole image."""
        with self._lock:
            self._roi = roi

    def roi(self) -> Roi | None:
        """Return the region of interest of the last mask since the activation."""
        with self._lock:
            return self._roi

    def record_distances(self, distances: Distances | None) -> None:
        """Record distances between instruments in the last mask; None without a decision."""
        with self._lock:
            self._distances = distances

    def distances(self) -> Distances | None:
        """Return the distances between instruments in the last mask, if they are recorded."""
        with self._lock:
            return self._distances

    def record_warning(self, *reasons: Reason) -> None:
        """Record why the next mask cannot be trusted."""
        with self._lock:
            self._warnings = reasons

    def record_model_change(self, degraded_reasons: tuple[Reason, ...]) -> None:
        """
        Record a change of the model: a mask that is still fresh is from the previous model.

        :param degraded_reasons: reasons why masks of the new model are at best degraded.
        """
        with self._lock:
            self._degraded_reasons = degraded_reasons
            text = 'the model has been changed, and has produced no mask yet'
            self._warnings = (Reason(ReasonCode.MODEL_CHANGED, text),)

    def record_ambiguity(self, reason: Reason | None) -> None:
        """Record why the source of the images is ambiguous; None if it is not."""
        with self._lock:
            self._ambiguity = reason

    def record_other_publishers(self, reason: Reason | None) -> None:
        """Record other publishers on this camera's output topics; None if there are none."""
        with self._lock:
            self._others = reason

    def record_failure(self, *reasons: Reason, count: str = 'rejected') -> None:
        """
        Record that a frame has no mask, or none that can be trusted.

        :param reasons: the reasons.
        :param count: the count to increment.
        """
        with self._lock:
            self._counts[count] += 1
            self._warnings = reasons

    def silent_for_ns(self, now_ns: int) -> int | None:
        """Return the time since the last image, publisher or activation; None while inactive."""
        with self._lock:
            if self._inactive:
                return None
            return now_ns - max(self._image_ns or 0, self._expecting_since_ns)

    def last_stamp_ns(self) -> int | None:
        """Stamp of the last mask since the activation."""
        with self._lock:
            return self._stamp_ns

    def times_ms(self) -> Mapping[str, Percentiles]:
        """Return percentiles of the milliseconds of each stage over the last frames."""
        with self._lock:
            copies = {stage: list(times) for stage, times in self._times.items()}
        return {stage: percentiles(times) for stage, times in copies.items()}

    def verdict(self, now_ns: int, stale_after_ms: float) -> Verdict:
        """
        Decide whether the last mask can be used.

        :param now_ns: steady clock.
        :param stale_after_ms: how long a mask is fresh.
        :return: the verdict.
        """
        with self._lock:
            if self._inactive:
                return Verdict(INACTIVE, (self._inactive,))
            if self._mask_ns is None or now_ns - self._mask_ns > stale_after_ms * 1e6:
                return Verdict(STALE, self._stale_reasons(now_ns, stale_after_ms))
            possible = (*self._degraded_reasons, self._others, self._ambiguity, *self._warnings)
            reasons = tuple(reason for reason in possible if reason is not None)
            return Verdict(DEGRADED if reasons else VALID, reasons)

    def _stale_reasons(self, now_ns: int, stale_after_ms: float) -> tuple[Reason, ...]:
        """Explain why there is no fresh mask."""
        ever, image_ns = self._mask_ns is not None, self._image_ns
        within = f' within {stale_after_ms:g} ms' if ever else ' yet'
        silent = image_ns is None or (ever and now_ns - image_ns > stale_after_ms * 1e6)
        if self._warnings and not (ever and silent):
            return self._warnings
        if silent:
            code = ReasonCode.STALE_CAMERA if ever else ReasonCode.NO_IMAGE_YET
            silence = () if self._silence is None else (self._silence,)
            return (Reason(code, f'no image has arrived{within}'), *silence)
        code = ReasonCode.STALE_MASK if ever else ReasonCode.NO_MASK_YET
        return (Reason(code, f'images arrive, but no mask is ready{within}'),)

    def _keep(self, stage: str, time_ms: float) -> None:
        self._times.setdefault(stage, deque(maxlen=_WINDOW)).append(time_ms)


class Sink(Protocol):
    """Publishes the results of one camera."""

    def topics(self) -> list[str]:
        """List the relative names of the output topics, except `status`."""

    def publish_mask(self, header: Any, mask: NDArray[np.uint8]) -> None:
        """Publish the mask of an image; see Outputs."""

    def publish_detections(self, header: Any, instruments: Sequence[Instrument]) -> None:
        """Publish the instruments in a mask."""

    def publish_others(
        self,
        header: Any,
        image: NDArray[np.uint8],
        segmentation: Segmentation,
        instruments: Sequence[Instrument],
        raw: NDArray[np.uint8] | None = None,
    ) -> None:
        """Publish on the other topics that have subscribers."""

    def publish_no_decision(self, header: Any, image: NDArray[np.uint8]) -> None:
        """Publish on every topic that there is no decision."""

    def wants_confidence(self) -> bool:
        """Return whether the topic with the confidence of each pixel has a subscriber."""


class CameraChannel(NamedTuple):
    """One camera, with everything that the worker needs."""

    name: str
    type_name: str
    roi: Roi | None
    health: Health
    outputs: Sink

    @property
    def prefix(self) -> str:
        """Prefix of the log messages of this camera."""
        return f'{self.name}: ' if self.name else ''


class Frame(NamedTuple):
    """
    A received frame, still serialized.

    :param camera: index of its camera.
    :param cdr: the serialized message.
    :param received_ns: steady clock in the callback.
    :param age_ns: nanoseconds from its receipt by the middleware to the callback; 0 if unknown.
    :param generation: generation of the node at its receipt.
    """

    camera: int
    cdr: bytes
    received_ns: int
    age_ns: int
    generation: int

    @property
    def stamp_ns(self) -> int | None:
        """Stamp of the image's header in nanoseconds; None if there are too few bytes."""
        return read_stamp(self.cdr)

    def age_ms(self, now_ns: int) -> float:
        """Return the milliseconds since its receipt by the middleware, by the steady clock."""
        return (self.age_ns + now_ns - self.received_ns) / 1e6
