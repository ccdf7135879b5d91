# SPDX-License-Identifier: Apache-2.0
"""
Keeps stale results from being published as valid.

Results of an earlier generation are discarded. Results that are too old are not published as
valid; the fail-safe determines what is published instead.
"""

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from surgseg_ros.core.detections import DEFAULT_LEAST_AREA
from surgseg_ros.core.parameters import AGE_SOURCES, FAIL_SAFES, LARGEST_FRAME_AGE_MS
from surgseg_ros.core.reasons import Reason, ReasonCode
from surgseg_ros.messages.serialization import header
from surgseg_ros.node.health import STALE, CameraChannel


class Generation:
    """Counts changes of state; a result of an earlier generation is discarded."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.number = 0

    def advance(self) -> int:
        """
        End the current generation; wait for a publication in progress.

        :return: the number of the next generation.
        """
        with self._lock:
            self.number += 1
            return self.number

    @contextlib.contextmanager
    def held(self, number: int) -> Iterator[bool]:
        """
        Keep the generation from ending in the block.

        :param number: generation of a result.
        :return: context manager that yields whether this is still the current generation.
        """
        with self._lock:
            yield number == self.number


RECEIPT, HEADER = AGE_SOURCES
SILENT, PUBLISH_NO_DECISION = FAIL_SAFES

MAX_PLAUSIBLE_AGE_MS: Final = float(LARGEST_FRAME_AGE_MS)
"""Clocks are assumed to disagree if a stamp is older than this, or in the future."""


@dataclass(frozen=True)
class ResultPolicy:
    """
    Rules for publishing a result; names and defaults are those of the node's parameters.

    :param least_area: minimum area of a detection, as a share of the image's area.
    :param min_confidence: minimum confidence of a pixel that has a class, 0..1.
    :param min_detection_score: minimum score of a detection, 0..1.
    :param stale_after_ms: how long a mask is fresh, from the receipt of its image.
    :param max_frame_age_ms: the maximum age of a result when it is ready; 0: no separate limit.
    :param age_source: one of AGE_SOURCES, for `max_frame_age_ms`.
    :param fail_safe: one of FAIL_SAFES.
    """

    least_area: float = DEFAULT_LEAST_AREA
    min_confidence: float = 0
    min_detection_score: float = 0
    stale_after_ms: float = 500
    max_frame_age_ms: float = 0
    age_source: str = RECEIPT
    fail_safe: str = SILENT


class Age(NamedTuple):
    """
    The age of an image.

    :param receipt_ms: time since this machine received it, by the steady clock.
    :param header_ms: time since its stamp, by the node's clock.
    """

    receipt_ms: float
    header_ms: float


def staleness(age: Age, policy: ResultPolicy) -> Reason | None:
    """
    Explain why a result is too old to be published as valid.

    A result older than `stale_after_ms` would be stale as soon as it is published.

    :param age: age of its image, now that the result is ready.
    :param policy: the limits.
    :return: the reason; None if it is fresh enough.
    """
    age_ms = age.header_ms if policy.age_source == HEADER else age.receipt_ms
    limit_ms = policy.max_frame_age_ms or math.inf
    if age.receipt_ms > policy.stale_after_ms:
        exceeded = age.receipt_ms, 'its receipt', 'stale_after_ms', policy.stale_after_ms
    elif age_ms > limit_ms:
        since = 'its stamp' if policy.age_source == HEADER else 'its receipt'
        exceeded = age_ms, since, 'max_frame_age_ms', limit_ms
    else:
        return None
    return Reason(ReasonCode.TOO_OLD, _too_old(*exceeded))


def clock_warning(age: Age, policy: ResultPolicy) -> Reason | None:
    """
    Explain why the age by `age_source` cannot be trusted.

    :param age: age of an image.
    :param policy: which age is used.
    :return: the reason; None if the age can be trusted.
    """
    if policy.age_source != HEADER or 0 <= age.header_ms <= MAX_PLAUSIBLE_AGE_MS:
        return None
    seconds = abs(age.header_ms) / 1e3
    where = f'{seconds:.3f} s in the future' if age.header_ms < 0 else f'{seconds:.3f} s old'
    text = (
        f"the image's stamp is {where}: synchronize the clocks of camera and node (NTP or PTP; "
        'use_sim_time with a bag), or set age_source to receipt'
    )
    return Reason(ReasonCode.CLOCKS_DIFFER, text)


def _too_old(age_ms: float, since: str, name: str, limit_ms: float) -> str:
    return (
        f'a result was ready {age_ms:.0f} ms after {since}, and {name} is {limit_ms:g}: '
        'use a faster device or runtime, or raise the limit'
    )


class FailSafe:
    """
    Publishes no decision once if the masks of a camera become stale, then every `stale_after_ms`.

    This mask belongs to no image. It has the size and frame_id of the last image that was read.
    Its stamp is the current time of the camera's clock: the last stamp plus the steady time since
    the receipt of its image. So its header differs from that of every image with a mask, and is as
    recent as that of an image received now, regardless of the camera's clock. If no image has been
    received since the activation, size and time are unknown, and nothing is published.

    :param channels: the cameras.
    :param generation: generation of the node; held during a publication.
    :param policy: returns the current policy.
    :param now_ns: the steady clock.
    """

    def __init__(
        self,
        channels: tuple[CameraChannel, ...],
        generation: Generation,
        policy: Callable[[], ResultPolicy],
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Store the arguments; `check` does the work."""
        self._channels = channels
        self._generation = generation
        self._policy = policy
        self._now_ns = now_ns
        self._published_ns: dict[str, int] = {}

    def check(self) -> None:
        """Publish what is due."""
        for channel in self._channels:
            # While the generation is held, no mask can be published between the check and the
            # publication.
            with self._generation.held(self._generation.number) as current:
                if current:
                    self._check_channel(channel)

    def _check_channel(self, channel: CameraChannel) -> None:
        policy, now_ns = self._policy(), self._now_ns()
        last = channel.health.last_image()
        state = channel.health.verdict(now_ns, policy.stale_after_ms).state
        if policy.fail_safe != PUBLISH_NO_DECISION or state != STALE or last is None:
            self._published_ns.pop(channel.name, None)
            return
        published_ns = self._published_ns.get(channel.name)
        if published_ns is not None and now_ns - published_ns < policy.stale_after_ms * 1e6:
            return
        self._published_ns[channel.name] = now_ns
        stamp_ns = last.stamp_ns + max(1, now_ns - last.received_ns)
        black = np.zeros((*last.size, 3), np.uint8)
        channel.outputs.publish_no_decision(header(stamp_ns, last.frame_id), black)
        channel.health.count('no_decision')
