# SPDX-License-Identifier: Apache-2.0
"""Says `no decision` of a camera while its masks are stale, where that is asked for."""

import time
from collections.abc import Callable

import numpy as np

from surgseg_ros.core.detections import without_decision
from surgseg_ros.core.segmentation import Segmentation
from surgseg_ros.messages.results import header
from surgseg_ros.node.freshness import NO_DECISION, Rules
from surgseg_ros.node.generation import Generation
from surgseg_ros.node.health import STALE
from surgseg_ros.node.picture import Eye


class FailSafe:
    """
    Publishes once when a camera's masks become stale, and then every `stale_after_ms`.

    What is said belongs to no picture. It has the size and frame_id of the last one that was
    read, and for a stamp the time that the camera's clock has reached: the last stamp, and the
    steady time since the receipt of its picture. So it is never the header of a picture that has
    a mask, and is as young as a picture would be that came now, whatever clock the camera goes
    by. Without any picture since the activation there is neither a size nor a time, and nothing
    is said.

    :param eyes: the cameras.
    :param generation: the node's; held while something is published.
    :param rules: gives those of the moment.
    :param now_ns: the steady clock.
    """

    def __init__(
        self,
        eyes: tuple[Eye, ...],
        generation: Generation,
        rules: Callable[[], Rules],
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Keep all; `look` does the work."""
        self._eyes = eyes
        self._generation = generation
        self._rules = rules
        self._now_ns = now_ns
        self._said_ns: dict[str, int] = {}

    def look(self) -> None:
        """Say what is due."""
        for eye in self._eyes:
            # Held, no mask can be published between the look and the word.
            with self._generation.held(self._generation.number) as current:
                if current:
                    self._look_at(eye)

    def _look_at(self, eye: Eye) -> None:
        rules, now_ns = self._rules(), self._now_ns()
        last = eye.health.last_picture()
        state = eye.health.verdict(now_ns, rules.stale_after_ms).state
        if rules.fail_safe != NO_DECISION or state != STALE or last is None:
            self._said_ns.pop(eye.name, None)
            return
        said_ns = self._said_ns.get(eye.name)
        if said_ns is not None and now_ns - said_ns < rules.stale_after_ms * 1e6:
            return
        self._said_ns[eye.name] = now_ns
        stamp_ns = last.stamp_ns + max(1, now_ns - last.received_ns)
        black = np.zeros((*last.size, 3), np.uint8)
        eye.outputs.publish(
            header(stamp_ns, last.frame_id),
            black,
            Segmentation.undecided(last.size),
            without_decision(last.size),
        )
        eye.health.count('no_decision')
