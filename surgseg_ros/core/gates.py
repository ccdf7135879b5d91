# SPDX-License-Identifier: Apache-2.0
"""
Checks of an image: quality gates, and whether its stamp and its size follow the previous one's.

The gates detect images that are not a usable view of the inside of a body. Each gate except
`frozen` computes one number from a sample of the image, in less than a millisecond.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.image_quality import (
    ImageSample,
    blood_share,
    clipped_share,
    comb_share,
    dark_share,
    haze,
    not_red_share,
    sample_image,
    sharpness,
)
from surgseg_ros.core.reasons import ReasonCode, ResultWarning

OFF: Final = 'none'  # `off` is false in the YAML of ROS
WARN: Final = 'warn'
REFUSE: Final = 'no_decision'
ACTIONS: Final = (OFF, WARN, REFUSE)

FROZEN: Final = 'frozen'


class Gate(NamedTuple):
    """
    One quality gate.

    :param code: the reason code in `status` for an image that does not pass.
    :param limit: the default; see `measure`.
    :param span: smallest and largest limit.
    :param problem: what is wrong with an image that does not pass, for `status`.
    :param measure: measures an image; None for `frozen`, which counts images.
    :param below: whether a value below the limit does not pass, rather than one at or above it.
    """

    code: ReasonCode
    limit: float
    span: tuple[float, float]
    problem: str
    measure: Callable[[ImageSample], float] | None
    below: bool = False


GATES: Final[Mapping[str, Gate]] = {
    'black': Gate(ReasonCode.GATE_BLACK, 0.7, (0.0, 1.0), 'the image is black', dark_share),
    'saturated': Gate(
        ReasonCode.GATE_SATURATED, 0.35, (0.0, 1.0), 'the image is overexposed', clipped_share
    ),
    FROZEN: Gate(ReasonCode.GATE_FROZEN, 30.0, (2.0, 10_000.0), 'the image does not change', None),
    'unfocused': Gate(
        ReasonCode.GATE_UNFOCUSED, 0.32, (0.0, 1.0), 'the image is out of focus', sharpness, True
    ),
    'smoke': Gate(ReasonCode.GATE_SMOKE, 0.46, (0.0, 1.0), 'smoke covers the image', haze),
    'blood': Gate(ReasonCode.GATE_BLOOD, 0.5, (0.0, 1.0), 'blood covers the image', blood_share),
    'outside': Gate(
        ReasonCode.GATE_OUTSIDE, 0.5, (0.0, 1.0), 'the image is not of a body', not_red_share
    ),
    'interlaced': Gate(
        ReasonCode.GATE_INTERLACED, 0.02, (0.0, 1.0), 'the image is interlaced', comb_share
    ),
}
"""All gates, in the order of reporting. The limits were fitted by `python -m tools.gates`."""


@dataclass(frozen=True)
class GateSetting:
    """
    Settings of one gate.

    :param action: one of ACTIONS.
    :param limit: see Gate; it has no default here.
    """

    action: str = OFF
    limit: float = math.nan


DEFAULTS: Final[Mapping[str, GateSetting]] = {
    name: GateSetting(WARN, gate.limit) for name, gate in GATES.items()
}
"""Settings in which all gates warn: masks are still published, but `status` is not `valid`."""


class Finding(NamedTuple):
    """
    A gate that an image did not pass.

    :param gate: a key of GATES.
    :param action: WARN or REFUSE.
    :param reason: for `status`.
    """

    gate: str
    action: str
    reason: str

    @property
    def code(self) -> ReasonCode:
        """The reason code of the gate."""
        return GATES[self.gate].code

    @property
    def warning(self) -> ResultWarning:
        """The warning about the mask of the image, or about its absence."""
        return ResultWarning(self.code, self.reason, decided=self.action != REFUSE)


class Gates:
    """
    The gates of one camera; not thread-safe.

    :param settings: settings by gate; gates without an entry are off.
    """

    def __init__(self, settings: Mapping[str, GateSetting] = DEFAULTS) -> None:
        """
        Check the settings.

        :raises ValueError: if there is no such gate or action, or a limit is out of its span.
        """
        for name, setting in settings.items():
            _check(name, setting)
        self._settings = {
            name: settings[name] for name in GATES if settings.get(name, _IDLE).action != OFF
        }
        self._last: ImageSample | None = None
        self._same = 0

    def check(self, image: NDArray[np.uint8]) -> tuple[Finding, ...]:
        """
        Check the next image of the camera.

        :param image: (H, W, 3) uint8 RGB, the part of the image that the endoscope fills; it is
            neither modified nor kept.
        :return: the gates that the image did not pass, in the order of GATES.
        """
        if not self._settings:
            return ()
        sample = sample_image(image)
        self._count(sample)
        values = {name: self._measure(name, sample) for name in self._settings}
        return tuple(
            Finding(name, self._settings[name].action, self._report(name, value))
            for name, value in values.items()
            if _exceeds(name, value, self._settings[name].limit)
        )

    def reset(self) -> None:
        """Forget the last image, because another camera or video starts."""
        self._last, self._same = None, 0

    def _count(self, sample: ImageSample) -> None:
        """Count consecutive images whose samples are identical."""
        if FROZEN not in self._settings:
            return
        last, self._last = self._last, sample
        same = last is not None and all(
            np.array_equal(one, other)
            for one, other in zip(
                (*last.planes, last.strips), (*sample.planes, sample.strips), strict=True
            )
        )
        self._same = self._same + 1 if same else 1

    def _measure(self, name: str, sample: ImageSample) -> float:
        measure = GATES[name].measure
        return float(self._same) if measure is None else measure(sample)

    def _report(self, name: str, value: float) -> str:
        gate, limit = GATES[name], self._settings[name].limit
        if name == FROZEN:
            return f'{gate.problem}: {value:.0f} identical in a row (limit {limit:.0f})'
        return f'{gate.problem}: {value:.3f} (limit {limit:.3f})'


_IDLE: Final = GateSetting(OFF)


def _exceeds(name: str, value: float, limit: float) -> bool:
    return value < limit if GATES[name].below else value >= limit


def _check(name: str, setting: GateSetting) -> None:
    if name not in GATES:
        raise ValueError(f'there is no gate {name!r}, expected one of {", ".join(GATES)}')
    if setting.action not in ACTIONS:
        raise ValueError(
            f'the action of gate {name!r} is {setting.action!r}, '
            f'expected one of {", ".join(ACTIONS)}'
        )
    low, high = GATES[name].span
    if setting.action != OFF and not low <= setting.limit <= high:
        raise ValueError(
            f'the limit of gate {name!r} is {setting.limit!r}, expected {low:g} to {high:g}'
        )


_JUMP_NS: Final = 10 * 10**9
"""A stamp that is ahead of the receiver's clock by more than this is a jump."""


class StampAnomaly(NamedTuple):
    """
    Something unusual about an image, which is processed all the same.

    :param text: what it is.
    :param remedy: what can be done about it; the same for every anomaly of a kind.
    :param restarts: whether the image starts a new sequence, so that earlier images are ignored.
    :param code: reason why the mask of the image cannot be trusted; None if it can be.
    """

    text: str
    remedy: str
    restarts: bool = False
    code: ReasonCode | None = None

    @property
    def degrades(self) -> bool:
        """Whether the mask of the image cannot be trusted because of it."""
        return self.code is not None


class StampMonitor:
    """Compares each image of a camera with the previous one; not thread-safe."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the previous image."""
        self._size: tuple[int, int] | None = None
        self._stamp_ns: int | None = None
        self._received_ns = 0

    def check(
        self, stamp_ns: int, received_ns: int, size: tuple[int, int]
    ) -> tuple[StampAnomaly, ...]:
        """
        Check the next image.

        :param stamp_ns: the stamp of its header in nanoseconds.
        :param received_ns: when it was received, by a monotonic clock.
        :param size: (H, W) in pixels.
        :return: the anomalies found.
        """
        found = (
            _size_anomaly(self._size, size),
            _stamp_anomaly(self._stamp_ns, stamp_ns, received_ns - self._received_ns),
        )
        self._size, self._stamp_ns, self._received_ns = size, stamp_ns, received_ns
        return tuple(anomaly for anomaly in found if anomaly is not None)


def _size_anomaly(before: tuple[int, int] | None, now: tuple[int, int]) -> StampAnomaly | None:
    if before is None or before == now:
        return None
    text = f'the image size changed from {before[1]}x{before[0]} to {now[1]}x{now[0]}'
    return StampAnomaly(text, 'the masks have the new size', restarts=True)


def _stamp_anomaly(before_ns: int | None, now_ns: int, elapsed_ns: int) -> StampAnomaly | None:
    if now_ns == 0:
        remedy = 'let the camera driver set header.stamp'
        return StampAnomaly('the stamp is zero', remedy, code=ReasonCode.STAMP_ZERO)
    if before_ns is None:
        return None
    if now_ns == before_ns:
        text = f'two images have the same stamp {now_ns} ns'
        return StampAnomaly(text, 'check the camera driver', code=ReasonCode.STAMP_REPEATED)
    remedy = 'expected if a bag or a simulation starts again, else look for a second publisher'
    # A restart does not affect the image itself.
    if now_ns < before_ns:
        return StampAnomaly(
            f'stamps go back from {before_ns} to {now_ns} ns', remedy, restarts=True
        )
    if before_ns and now_ns - before_ns > elapsed_ns + _JUMP_NS:
        text = f'stamps jump ahead from {before_ns} to {now_ns} ns'
        return StampAnomaly(
            text, remedy + ', or set the clock before the camera starts', restarts=True
        )
    return None
