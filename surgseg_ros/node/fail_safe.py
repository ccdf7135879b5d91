# SPDX-License-Identifier: Apache-2.0
"""Says `no decision` of a camera while its masks are stale, where that is asked for."""

import time
from collections.abc import Callable

import numpy as np

from surgseg_ros.core.detections import without_decision
from surgseg_ros.core.segmentation import Segmentation
from surgseg_ros.messages.results import header
from surgseg_ros.node.camera_channel import CameraChannel
from surgseg_ros.node.freshness import NO_DECISION, ResultPolicy
from surgseg_ros.node.generation import Generation
from surgseg_ros.node.health import STALE


class FailSafe:
    """
    Publishes once when a camera's masks become stale, and then every `stale_after_ms`.

    What is said belongs to no image. It has the size and frame_id of the last one that was
    read, and for a stamp the time that the camera's clock has reached: the last stamp, and the
    steady time since the receipt of its image. So it is never the header of an image that has
    a mask, and is as young as an image would be that came now, whatever clock the camera goes
    by. Without any image since the activation there is neither a size nor a time, and nothing
    is said.

    :param channels: the cameras.
    :param generation: the node's; held while something is published.
    :param policy: gives those of the moment.
    :param now_ns: the steady clock.
    """

    def __init__(
        self,
        channels: tuple[CameraChannel, ...],
        generation: Generation,
        policy: Callable[[], ResultPolicy],
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Keep all; `check` does the work."""
        self._channels = channels
        self._generation = generation
        self._rules = policy
        self._now_ns = now_ns
        self._said_ns: dict[str, int] = {}

    def check(self) -> None:
        """Say what is due."""
        for channel in self._channels:
            # Held, no mask can be published between the look and the word.
            with self._generation.held(self._generation.number) as current:
                if current:
                    self._check_channel(channel)

    def _check_channel(self, channel: CameraChannel) -> None:
        policy, now_ns = self._rules(), self._now_ns()
        last = channel.health.last_image()
        state = channel.health.verdict(now_ns, policy.stale_after_ms).state
        if policy.fail_safe != NO_DECISION or state != STALE or last is None:
            self._said_ns.pop(channel.name, None)
            return
        said_ns = self._said_ns.get(channel.name)
        if said_ns is not None and now_ns - said_ns < policy.stale_after_ms * 1e6:
            return
        self._said_ns[channel.name] = now_ns
        stamp_ns = last.stamp_ns + max(1, now_ns - last.received_ns)
        black = np.zeros((*last.size, 3), np.uint8)
        channel.outputs.publish(
            header(stamp_ns, last.frame_id),
            black,
            Segmentation.undecided(last.size),
            without_decision(last.size),
        )
        channel.health.count('no_decision')
