# SPDX-License-Identifier: Apache-2.0
"""Looks once a second whether images come as they should, and whether others publish masks."""

import time
from collections.abc import Sequence
from typing import Any

from surgseg_ros.node.camera_channel import CameraChannel
from surgseg_ros.node.health import Health
from surgseg_ros.node.image_subscriber import ImageSubscriber
from surgseg_ros.node.other_publishers import OtherPublishers


def check_subscriptions(
    channels: Sequence[CameraChannel],
    subscribers: Sequence[ImageSubscriber],
    limit_s: float,
    logger: Any,
) -> None:
    """
    Follow the publishers of each eye, and warn where no image comes.

    :param channels: of the node.
    :param subscribers: theirs; none while the node is not active.
    :param limit_s: how long no image may come before that is said.
    :param logger: the node's, of rclpy.
    """
    for channel, subscriber in zip(channels, subscribers, strict=False):
        try:
            subscriber.check()
            _report_silence(channel.health, subscriber, limit_s, logger)
        except Exception as error:  # of one eye; the other, and /diagnostics, go on
            text = f'looking at {subscriber.resolved_topic!r} failed: {error}'
            logger.error(text, throttle_duration_sec=10.0)


def check_other_publishers(
    channels: Sequence[CameraChannel], others: Sequence[OtherPublishers], logger: Any
) -> None:
    """
    Degrade each eye on whose output topics another node publishes, and say so once.

    :param channels: of the node.
    :param others: theirs.
    :param logger: the node's, of rclpy.
    """
    for channel, publishers in zip(channels, others, strict=False):
        try:
            reason = publishers.check()
        except Exception as error:  # of one eye; the other, and /diagnostics, go on
            text = f'looking for other publishers failed: {error}'
            logger.error(text, throttle_duration_sec=10.0)
            continue
        channel.health.record_other_publishers(reason)
        if reason is not None and channel.health.first_time(reason.text):
            logger.warning(f'{channel.prefix}{reason.text} (masks are degraded while it does)')


def _report_silence(
    health: Health, subscriber: ImageSubscriber, limit_s: float, logger: Any
) -> None:
    silent_ns = health.silent_for_ns(time.monotonic_ns())
    if silent_ns is None or silent_ns < limit_s * 1e9:
        return
    explanation = subscriber.explain_silence()
    health.record_silence(explanation)
    text = f'no image for {limit_s:g} s: {explanation.text}'
    if health.first_time(explanation.text):
        logger.warning(text)
    else:  # it may be another silence, or the same for a long time
        logger.warning(text, throttle_duration_sec=60.0, skip_first=True)
