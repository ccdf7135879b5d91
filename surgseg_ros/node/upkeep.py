# SPDX-License-Identifier: Apache-2.0
"""Looks once a second whether images come as they should, and whether others publish masks."""

import time
from collections.abc import Sequence
from typing import Any

from surgseg_ros.node.health import Health
from surgseg_ros.node.intake import Intake
from surgseg_ros.node.other_publishers import OtherPublishers
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


def look_for_others(eyes: Sequence[Eye], others: Sequence[OtherPublishers], logger: Any) -> None:
    """
    Degrade each eye on whose output topics another node publishes, and say so once.

    :param eyes: of the node.
    :param others: theirs.
    :param logger: the node's, of rclpy.
    """
    for eye, publishers in zip(eyes, others, strict=False):
        try:
            reason = publishers.look()
        except Exception as error:  # of one eye; the other, and /diagnostics, go on
            text = f'looking for other publishers failed: {error}'
            logger.error(text, throttle_duration_sec=10.0)
            continue
        eye.health.see_others(reason)
        if reason and eye.health.first_time(reason):
            logger.warning(f'{eye.prefix}{reason} (masks are degraded while it does)')


def _say_silence(health: Health, intake: Intake, limit_s: float, logger: Any) -> None:
    silent_ns = health.silent_for_ns(time.monotonic_ns())
    if silent_ns is None or silent_ns < limit_s * 1e9:
        return
    explanation = intake.explain_silence()
    health.see_silence(explanation)
    text = f'no image for {limit_s:g} s: {explanation}'
    if health.first_time(explanation):
        logger.warning(text)
    else:  # it may be another silence, or the same for a long time
        logger.warning(text, throttle_duration_sec=60.0, skip_first=True)
