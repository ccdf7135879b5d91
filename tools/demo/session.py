# SPDX-License-Identifier: Apache-2.0
"""The processes of the demo: segmenter and bag player; this process records their output."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray

from surgseg_ros.node.middleware import choose_profile, with_info
from tools.demo.source import IMAGE_TOPIC, Source

CONFIG = Path(__file__).resolve().parents[2] / 'config'
START_TIMEOUT_S = 120.0
DISCOVERY_S = 3.0
"""Time from the start of the player to its first frame, for discovery and matching of QoS."""
TRIAL_S = 6.0
TRIAL_QUIET_S = 5.0
"""Time without a mask after which no more masks are expected, even on a busy machine."""
MARGIN = 0.5
"""Playback rate as a share of the measured rate of the node."""


class Recorded(NamedTuple):
    """A received message: topic, CDR, and system times of sending and receipt."""

    topic: str
    cdr: bytes
    sent_ns: int
    received_ns: int


class Recorder:
    """Subscribes to the node and the played camera; its callbacks only collect messages."""

    def __init__(self) -> None:
        """Subscribe; `listen` runs the callbacks."""
        # The caller's signal handlers are kept, so that Ctrl-C ends the demo and its processes.
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        self.messages: list[Recorded] = []
        self.status = self.reason = ''
        self.counts: Mapping[str, str] = {}
        self._node = rclpy.create_node('demo_recorder', start_parameter_services=False)
        for topic, kind, depth in (
            (IMAGE_TOPIC, Image, 5),
            ('mask', Image, 10),
            ('detections', Detection2DArray, 10),
        ):
            collect = with_info(self._collect(topic))
            self._node.create_subscription(kind, topic, collect, depth, raw=True)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._node.create_subscription(DiagnosticStatus, 'status', self._on_status, latched)
        self._node.create_subscription(DiagnosticArray, '/diagnostics', self._on_counts, 10)

    def close(self) -> None:
        """Destroy the node."""
        self._node.destroy_node()
        rclpy.shutdown()

    def take(self) -> list[Recorded]:
        """Return the collected messages, and remove them."""
        taken, self.messages = self.messages, []
        return taken

    def listen(self, until: Callable[[], bool], timeout_s: float) -> bool:
        """
        Run the callbacks until a condition is fulfilled.

        :param until: the condition.
        :param timeout_s: maximum time to wait.
        :return: whether it is fulfilled.
        """
        end_s = time.monotonic() + timeout_s
        while not until() and time.monotonic() < end_s:
            rclpy.spin_once(self._node, timeout_sec=0.1)
        return until()

    def count(self, topic: str) -> int:
        """
        Count the collected messages of a topic.

        :param topic: name of the topic in the subscription.
        :return: messages since the last `take`.
        """
        return sum(message.topic == topic for message in self.messages)

    def _collect(self, topic: str) -> Callable[[bytes, Mapping[str, int]], None]:
        def collect(cdr: bytes, info: Mapping[str, int]) -> None:
            # Of an image, only the beginning with the stamp, and the times, are needed.
            kept = bytes(cdr[:256]) if topic == IMAGE_TOPIC else cdr
            received_ns = info['received_timestamp']
            sent_ns = info.get(
                'source_timestamp', received_ns
            )  # Humble's rclpy does not provide it
            self.messages.append(Recorded(topic, kept, sent_ns, received_ns))

        return collect

    def _on_status(self, message: Any) -> None:
        self.status = message.message
        self.reason = {value.key: value.value for value in message.values}.get('reason', '')

    def _on_counts(self, message: Any) -> None:
        self.counts = {value.key: value.value for value in message.status[0].values}


@contextlib.contextmanager
def segmenter(model: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """
    Run the segmenter as a separate process.

    :param model: value of the parameter `model`.
    :param log: file for its output.
    :return: context with the process, which is interrupted as by Ctrl-C.
    """
    # The demo measures the latency on any machine, so no mask may be rejected as too old.
    given = [f'model:={model}', 'stale_after_ms:=600000']
    arguments = [*(w for value in given for w in ('-p', value)), '-r', f'image:={IMAGE_TOPIC}']
    with log.open('wb') as file, _process('segmenter', '--ros-args', *arguments, out=file) as node:
        yield node


def wait_until_active(recorder: Recorder, node: subprocess.Popen[bytes], log: Path) -> None:
    """
    Wait until the node reports that it is waiting for images.

    :param recorder: receives its status.
    :param node: its process.
    :param log: its output, for the error message.
    :raises RuntimeError: if it ends or fails first.
    """
    recorder.listen(
        lambda: (
            recorder.status not in ('', 'inactive')
            or node.poll() is not None
            or 'failed' in recorder.reason
        ),
        START_TIMEOUT_S,
    )
    if recorder.status in ('', 'inactive'):
        raise RuntimeError(f'the segmenter did not start; its output:\n{log.read_text()}')


def measure_rate_hz(recorder: Recorder, source: Source) -> float:
    """
    Play at the camera's rate, and count the masks.

    :param recorder: receives the masks.
    :param source: the source to play.
    :return: masks per second while frames are waiting, or the camera's rate.
    :raises RuntimeError: if no mask arrives.
    """
    with player(source.bag, '--loop') as process:
        recorder.listen(
            lambda: recorder.count('mask') >= 2 or process.poll() is not None, START_TIMEOUT_S
        )
        recorder.listen(lambda: process.poll() is not None, TRIAL_S)
    received_ns = [m.received_ns for m in recorder.messages if m.topic == 'mask']
    if len(received_ns) < 2:
        ended = f'the bag player ended with {process.returncode}' if process.returncode else ''
        raise RuntimeError(f'no mask arrived during the trial: {ended or "see segmenter.log"}')
    seen_hz = (len(received_ns) - 1) * 1e9 / (received_ns[-1] - received_ns[0])
    # Masks that arrive later belong to the trial, but have stamps of frames that are played again.
    wait_for_quiet(recorder, max(TRIAL_QUIET_S, 3.0 / seen_hz))
    recorder.take()
    return min(seen_hz, source.rate_hz)


def wait_for_quiet(recorder: Recorder, quiet_s: float) -> None:
    """
    Wait until no more masks arrive after the end of playback.

    :param recorder: receives the masks.
    :param quiet_s: time without a mask after which no more masks are expected.
    """
    seen = -1
    while recorder.count('mask') > seen:
        seen = recorder.count('mask')
        recorder.listen(lambda seen=seen: recorder.count('mask') > seen, quiet_s)


def play(recorder: Recorder, source: Source, rate: float) -> list[Recorded]:
    """
    Play the bag once, and record the results.

    :param recorder: receives the messages.
    :param source: the source to play.
    :param rate: factor of the recorded speed.
    :return: beginnings of images, masks and detections.
    """
    with player(source.bag, '--rate', f'{rate:.3f}') as process:
        recorder.listen(lambda: process.poll() is not None, 600.0)
    if process.returncode:
        raise RuntimeError(f'the bag player ended with {process.returncode}')
    recorder.listen(
        lambda: min(recorder.count('mask'), recorder.count('detections')) >= source.frames,
        5.0 / rate,
    )
    return recorder.take()


@contextlib.contextmanager
def player(bag: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """
    Run the bag player as a separate process.

    :param bag: path of the bag.
    :param options: further options of the verb.
    :return: context with the process, which is interrupted as by Ctrl-C.
    """
    arguments = [str(bag), '--topics', IMAGE_TOPIC, '--wait', '--delay', f'{DISCOVERY_S:g}']
    with _process('bag_player', *arguments, *options, out=subprocess.DEVNULL) as process:
        yield process


@contextlib.contextmanager
def _process(verb: str, *arguments: str, out: Any) -> Iterator[subprocess.Popen[bytes]]:
    choice = choose_profile(str(CONFIG / 'fastdds.xml'), os.environ)
    process = subprocess.Popen(
        [sys.executable, '-m', 'surgseg_ros', verb, *arguments],
        stdout=out,
        stderr=subprocess.STDOUT if out != subprocess.DEVNULL else None,
        env={**os.environ, **choice.variables},
    )
    try:
        yield process
    finally:
        try:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20.0)
        finally:  # an interrupt during the wait must not leave it running
            process.kill()
            process.wait()
