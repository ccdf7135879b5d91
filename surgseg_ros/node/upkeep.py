# SPDX-License-Identifier: Apache-2.0
"""Looks once a second whether images come as they should, and says why they may not."""

import time
from collections.abc import Sequence
from typing import Any

from surgseg_ros.node.health import Health
from surgseg_ros.node.intake import Intake
from surgseg_ros.node.picture import Eye


def look_after(
    eyes: Sequence[Eye], intakes: Sequence[Intake], limit_s: float, logger: Any
) -> None:
    """
    Follow the publishers of each eye, and warn where no image comes.

    :param eyes: of the node.
    :param intakes: theirs; none while the node is not active.
    :param limit_s: how long no image may come before that is said.
    :param logger: the node's, of rclpy.
    """
    for eye, intake in zip(eyes, intakes, strict=False):
        try:
            intake.look()
            _say_silence(eye.health, intake, limit_s, logger)
        except Exception as error:  # of one eye; the other, and /diagnostics, go on
            text = f'looking at {intake.resolved_topic!r} failed: {error}'
            logger.error(text, throttle_duration_sec=10.0)


def _say_silence(health: Health, intake: Intake, limit_s: float, logger: Any) -> None:
    silent_ns = health.silent_for_ns(time.monotonic_ns())
    if silent_ns is None or silent_ns < limit_s * 1e9:
        return
    explanation = intake.explain_silence()
    text = f'no image for {limit_s:g} s: {explanation}'
    if health.first_time(explanation):
        logger.warning(text)
    else:  # it may be another silence, or the same for a long time
        logger.warning(text, throttle_duration_sec=60.0, skip_first=True)
