# SPDX-License-Identifier: Apache-2.0
"""What one camera's pictures and masks must stand before they are believed; no ROS in here."""

from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from surgseg_ros.core.gates import NO_DECISION, Finding, Gates, GateSetting
from surgseg_ros.core.labels import NO_DECISION as UNDECIDED
from surgseg_ros.core.segmentation import Segmentation
from surgseg_ros.core.steadiness import Steadier
from surgseg_ros.core.sureness import drop_unsure
from surgseg_ros.messages.results import stamp_ns
from surgseg_ros.node.picture import Doubt, Picture

_HOLD_NS: Final = 10**9
"""A warning stays so long after its last picture: some come and go from one to the next."""


class Scrutinized(NamedTuple):
    """
    What is left of a result.

    :param segmentation: what may be published.
    :param raw: (H, W) uint8, the network's own mask, where it is steadied.
    :param doubts: what is wrong with the picture or the result.
    """

    segmentation: Segmentation
    raw: NDArray[np.uint8] | None
    doubts: tuple[Doubt, ...]


class Scrutiny:
    """
    Gates on the picture, then steadiness, then the least confidence; the worker's own.

    :param gates: by name; those that are missing are off.
    :param steady_frames: pictures that a class must last; 0 or 1: no steadiness.
    :param steady_sure: or the confidence that it must have, 0..1.
    :raises ValueError: if a gate's setting makes no sense.
    """

    def __init__(
        self,
        gates: Mapping[str, GateSetting] | None = None,
        steady_frames: int = 0,
        steady_sure: float = 0.95,
    ) -> None:
        """Begin with nothing seen; see the class."""
        self._gates = Gates(gates or {})
        self._steadier = Steadier(steady_frames, steady_sure) if steady_frames > 1 else None
        self._held: dict[str, tuple[Doubt, int]] = {}

    @property
    def is_steady(self) -> bool:
        """Whether masks are steadied, for which the confidence of each pixel is needed."""
        return self._steadier is not None

    def begin_anew(self) -> None:
        """Forget what came before: another activation, model or video begins."""
        self._gates.reset()
        self._held.clear()
        if self._steadier is not None:
            self._steadier.reset()

    def apply(self, picture: Picture, result: Segmentation, min_confidence: float) -> Scrutinized:
        """
        Look at a picture and its result.

        :param picture: the next of its camera.
        :param result: the network's; with confidence, where that is needed.
        :param min_confidence: pixels below it become no decision.
        :return: what may be published, and why it may be wrong.
        :raises ValueError: if the confidence is missing.
        """
        roi = picture.eye.roi
        view = picture.image if roi is None else roi.view(picture.image)
        doubts = self._doubts(self._gates.examine(view), picture.frame.received_ns)
        raw = None
        if self._steadier is not None and all(doubt.decided for doubt in doubts):
            steadied = self._steadier.steady(view, result, stamp_ns(picture.header))
            result, raw = steadied.steady, steadied.raw.mask
        elif self._steadier is not None:
            self._steadier.reset()
        sure = drop_unsure(result, min_confidence)
        if min_confidence and sure.mask.min() == UNDECIDED:
            reason = f'no pixel has a confidence of {min_confidence:g}'
            doubts = (*doubts, Doubt(reason, cause='min_confidence'))
        return Scrutinized(sure, raw, doubts)

    def _doubts(self, findings: tuple[Finding, ...], now_ns: int) -> tuple[Doubt, ...]:
        """Tell what the gates found, and for a while what they found before."""
        for finding in findings:
            doubt = Doubt(finding.reason, finding.action != NO_DECISION, finding.gate)
            self._held[finding.gate] = doubt, now_ns
        found = {finding.gate for finding in findings}
        self._held = {
            gate: (doubt, at_ns)
            for gate, (doubt, at_ns) in self._held.items()
            if gate in found or (doubt.decided and now_ns - at_ns < _HOLD_NS)
        }
        return tuple(doubt for doubt, _ in self._held.values())
