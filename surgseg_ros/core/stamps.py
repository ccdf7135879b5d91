# SPDX-License-Identifier: Apache-2.0
"""Checks the stamps and sizes of one camera's images against those of the image before."""

from typing import Final, NamedTuple

from surgseg_ros.core.reasons import ReasonCode

_JUMP_NS: Final = 10 * 10**9
"""Stamps that run ahead of the receiver's clock by more than this have jumped."""


class StampAnomaly(NamedTuple):
    """
    Something unusual about an image, which is processed all the same.

    :param text: what it is.
    :param remedy: what can be done about it; the same for every anomaly of a kind.
    :param restarts: whether the image starts a new sequence, to which no earlier image belongs.
    :param code: of the reason why the mask of the image is not to be trusted; None where it is.
    """

    text: str
    remedy: str
    restarts: bool = False
    code: ReasonCode | None = None

    @property
    def degrades(self) -> bool:
        """Whether the mask of the image is not to be trusted because of it."""
        return self.code is not None


class StampMonitor:
    """Compares each image of a camera with the one before; not thread-safe."""

    def __init__(self) -> None:
        """Start without a previous image."""
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
        :param received_ns: when it was received, by a clock that never goes back.
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
    text = f'images change from {before[1]}x{before[0]} to {now[1]}x{now[0]} pixels'
    return StampAnomaly(text, 'the masks change, too', restarts=True)


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
    # A restart says nothing against the image itself.
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
